"""A configuration's steps beside PyTorch's: the same model, batch and precision, alternating in one process.

PyTorch starts from images that are normalised already and lie as its model wants them, jtl from bytes. Of the
data neither has to read any.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jtl.errors import UserError, nearest
from jtl.verbs.bench.measure import Clock, Length
from jtl.verbs.bench.subject import Subject

if TYPE_CHECKING:
    import jtl.training.config

OURS = "jtl"
MEMORY_VARIABLE, MEMORY_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45"


class Mode(NamedTuple):
    """What is compared: under which strategy, and whether a step trains or only goes forward."""

    strategy: str
    trains: bool
    is_probe: bool = False


MODES: Mapping[str, Mode] = {
    "train": Mode("full", trains=True),
    "forward": Mode("full", trains=False),
    "probe": Mode("probe", trains=True, is_probe=True),
}


class Contender(NamedTuple):
    """One way to make a step: `step()` returns when it is done."""

    name: str
    step: Callable[[], object]


def share_memory() -> None:
    """Leave PyTorch half of a GPU's memory; call it before anything imports jax. What the user set stays."""
    os.environ.setdefault(MEMORY_VARIABLE, MEMORY_FRACTION)


def measured(
    settings: "jtl.training.config.Config",
    folder: Path,
    length: Length,
    modes: Sequence[str],
    ways: Sequence[str],
) -> dict[str, Any]:
    """Return what a record says of each mode: seconds of both, and the ratios pair by pair.

    No `modes` and no `ways` are all of them.

    Raises:
        UserError: PyTorch or what it needs is missing, or has no such model, loss or optimizer.
    """
    from jtl.verbs.bench import torch_steps

    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise UserError(f"--modes has {unknown[0]!r}; nearest: {nearest(unknown[0], MODES)}")
    strange = [way for way in ways if way not in torch_steps.WAYS]
    if strange:
        raise UserError(f"--ways has {strange[0]!r}; nearest: {nearest(strange[0], torch_steps.WAYS)}")
    found, notes, dtype = {}, [], ""
    for mode in modes or MODES:
        sys.stderr.write(f"bench: {mode}\n")
        found[mode], said, dtype = _mode(settings, folder, length, MODES[mode], ways)
        notes += [line for line in said if line not in notes]
    return {"against": found, "notes": notes, "dtype": dtype}


def alternated(contenders: Sequence[Contender], length: Length, clock: Clock) -> dict[str, list[list[float]]]:
    """Return the seconds of the steps of each contender by run; in every run all have their turn."""
    for each in contenders:
        for _ in range(length.warmup):
            each.step()
    seconds: dict[str, list[list[float]]] = {each.name: [] for each in contenders}
    for _ in range(length.runs):
        for each in contenders:
            spent = []
            for _ in range(length.steps):
                began = clock()
                each.step()
                spent.append(clock() - began)
            seconds[each.name].append(spent)
    return seconds


def compared(seconds: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Return what a record says of alternated steps: jtl's speed over each of PyTorch's ways."""
    import statistics

    from jtl.verbs.bench.measure import spread

    ours = [statistics.median(run) for run in seconds[OURS]]
    theirs = {}
    for name, runs in seconds.items():
        if name == OURS:
            continue
        ratios = [statistics.median(run) / median for run, median in zip(runs, ours, strict=True)]
        ratio = {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "pairs": ratios,
        }
        theirs[name] = {"seconds": spread(runs), "ratio": ratio}
    best = min(theirs, key=lambda name: theirs[name]["seconds"]["median"])
    return {
        "jtl": {"seconds": spread(seconds[OURS])},
        "torch": theirs,
        "best": {"name": best, "ratio": theirs[best]["ratio"]},
    }


def _mode(
    settings: "jtl.training.config.Config",
    folder: Path,
    length: Length,
    mode: Mode,
    ways: Sequence[str],
) -> tuple[dict[str, Any], list[str], str]:
    import time

    from jtl.training import config as configs
    from jtl.verbs.bench import stand_in, subject, torch_steps

    given = configs.with_overrides(settings, [("strategy.name", mode.strategy)])
    given = replace(given, augment=type(given.augment)())
    found = subject.subject(stand_in.with_tokenizer(given, folder))
    ours = Contender(OURS, _trains(found) if mode.trains else _forward(found))
    ours.step()
    dtype = subject.dtype_of(found.built)
    theirs, notes = torch_steps.contenders(
        found, dtype=dtype, trains=mode.trains, is_probe=mode.is_probe, ways=ways
    )
    others = [Contender(name, step) for name, step in theirs.items()]
    return compared(alternated([ours, *others], length, time.perf_counter)), notes, dtype


def _trains(found: Subject) -> Callable[[], object]:
    """Return the train step of jtl, compiled, from one state to the next."""
    import jax

    from jtl.training import build, sharding, step
    from jtl.verbs.bench import subject

    state, place = build.initial_state(found.built, found.settings, found.mesh)
    batch = sharding.put_batch(subject.batch(found), found.mesh)
    lowered = step.make_train_step(found.parts, 0, place, sharding.of_batch(found.mesh)).lower(state, batch)
    compiled = lowered.compile(step.compiler_options(found.parts, 0))
    kept = [state]
    del state

    def once() -> None:
        kept[0], values = compiled(kept[0], batch)
        jax.block_until_ready((kept[0], values))

    return once


def _forward(found: Subject) -> Callable[[], object]:
    """Return the forward pass of jtl's evaluation."""
    import jax

    from jtl.strategies.contract import TRAIN
    from jtl.training import build, sharding, step
    from jtl.verbs.bench import subject

    state, _ = build.initial_state(found.built, found.settings, found.mesh)
    batch = sharding.put_batch(subject.batch(found)[TRAIN], found.mesh)
    compiled = step.make_output_step(found.parts)
    call = partial(compiled, state, batch)
    return lambda: jax.block_until_ready(call())
