"""The step alone at several sizes of a batch, on random inputs: which gives the most examples a second.

A size that does not fit is one line, and not the end.
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, shortened
from jtl.verbs.bench.measure import Length

if TYPE_CHECKING:
    import jtl.training.config

NAME = "batch_size"
# How XLA says that memory is not to be had.
EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc")


def parsed(text: str) -> list[int]:
    """Return the sizes of "batch_size=8,16", each once, rising.

    >>> parsed("batch_size=32,8,16,8")
    [8, 16, 32]

    Raises:
        UserError: it is written otherwise, or a size is below 1.
    """
    name, _, listed = text.partition("=")
    words = [word.strip() for word in listed.split(",")]
    if name.strip() != NAME or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UserError(f"--sweep is {text!r}; expected {NAME}=N,N,… with sizes of 1 or more")
    return sorted({int(word) for word in words})


def measured(
    settings: "jtl.training.config.Config",
    folder: Path,
    length: Length,
    sizes: list[int],
) -> dict[str, Any]:
    """Return what a record says of each size, and of the best.

    Raises:
        UserError: none of them fits, or the configuration cannot be built.
    """
    rows = []
    for size in sizes:
        row = _row(settings, folder, length, size)
        sys.stderr.write(f"bench: {NAME} {size}: {_said(row)}\n")
        rows.append(row)
    fitting = [row for row in rows if "fault" not in row]
    if not fitting:
        raise UserError(f"no size of --sweep can be measured: {rows[0]['fault']}; give smaller ones")
    best = max(fitting, key=lambda row: row["examples_per_second"])
    return {
        "sweep": rows,
        "best": {name: best[name] for name in (NAME, "examples_per_second")},
        "dtype": best["dtype"],
    }


def _row(settings: "jtl.training.config.Config", folder: Path, length: Length, size: int) -> dict[str, Any]:
    """Return the step's seconds and memory at one size, or its fault."""
    import jax

    from jtl.training import build, sharding, step
    from jtl.verbs.bench import measure, program, stand_in, subject

    try:
        given = stand_in.with_tokenizer(subject.with_batch_size(settings, size), folder)
        found = subject.subject(given)
        state, place = build.initial_state(found.built, given, found.mesh)
        batch = sharding.put_batch(subject.batch(found), found.mesh)
        make = partial(step.make_train_step, found.parts, 0, place, sharding.of_batch(found.mesh))
        compiled = make().lower(state, batch).compile(step.compiler_options(found.parts, 0))
        alone = measure.steps_alone(compiled, state, batch, length, wait=jax.block_until_ready)
    except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
        is_large = isinstance(error, UserError | MemoryError) or any(word in str(error) for word in EXHAUSTED)
        if not is_large:
            raise
        return {NAME: size, "fault": shortened(str(error) or "out of memory")}
    spread = measure.spread(measure.parts(alone.seconds, length))
    return {
        NAME: size,
        "seconds": spread,
        "examples_per_second": size / spread["median"],
        "memory": program.memory_of(compiled),
        "dtype": subject.dtype_of(found.built),
        "unit": found.parts.input.unit,
    }


def _said(row: dict[str, Any]) -> str:
    if "fault" in row:
        return row["fault"]
    return f"{row['examples_per_second']:,.1f} {row['unit']}/s"
