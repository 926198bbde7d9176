"""Evaluation: every example once, sums added up, one division at the end; and the verb `jtl evaluate`."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jtl import build, config, metrics, sharding
from jtl.config import Config
from jtl.data import Source, image, pipeline, preflight
from jtl.errors import UserError, nearest
from jtl.report import confusion, summary, tables
from jtl.state import State
from jtl.step import Batch, make_eval_step
from jtl.tasks import TASKS, LabelStats, Task
from jtl.weights.recognise import recognise

DEVICE_FIELDS = ("image", "label", "mask")
MAX_PENDING = 4
SPLITS_BY_PREFERENCE = ("test", "val", "train")


class Request(NamedTuple):
    """What `jtl evaluate` was asked: a run folder or weights, and the data to measure it on."""

    run_folder: str | None
    weights: str | None
    data: str
    split: str
    batch_size: int
    out: str
    overrides: list[tuple[str, str]]


def measure(
    eval_step: Callable[[State, Batch], metrics.Sums],
    state: State,
    batches: Any,
    *,
    mesh: Mesh,
    task: Task,
    num_examples: int,
) -> metrics.Summary:
    """Return the task's metrics over padded batches.

    A few batches' sums stay on the device, so that it always has work while the host adds up.
    """
    pending: list[metrics.Sums] = []
    totals: dict[str, np.ndarray] | None = None
    for batch in batches:
        pending.append(
            eval_step(state, sharding.put_batch({name: batch[name] for name in DEVICE_FIELDS}, mesh))
        )
        if len(pending) > MAX_PENDING:
            totals = metrics.merge(totals, pending.pop(0))
    for sums in pending:
        totals = metrics.merge(totals, sums)
    assert totals is not None, "evaluation of no batch"
    counted = int(totals["count"])
    assert counted == num_examples, f"evaluation counted {counted} of {num_examples} examples"
    return task.summarize(totals)


def batches_of(
    source: Source, preprocess: Any, *, batch_size: int, mesh: Mesh, settings: pipeline.Config
) -> Any:
    """Return padded evaluation batches; the batch size is rounded up to a multiple of the devices."""
    size = -(-batch_size // mesh.size) * mesh.size
    return pipeline.eval_batches(source, image.eval_transform(preprocess), batch_size=size, config=settings)


def run(request: Request) -> dict[str, Any]:
    """Evaluate a run or pretrained weights; print tables to stderr and return one JSON-ready result.

    Raises:
        UserError: run, weights, data or labels do not fit together.
    """
    settings, stats, label_names = _of_run(request) if request.run_folder else _of_weights(request)
    if request.data:
        settings = build.with_data(settings, request.data)
    settings = config.with_overrides(settings, request.overrides)
    splits = build.open_splits(settings, label_names)
    split = _chosen_split(request.split, splits)
    checked = preflight.inspect({split: splits[split]}, settings.data)
    source = checked.splits[split]
    for line in checked.lines:
        sys.stderr.write(f"{line}\n")
    built = build.build(settings, stats, steps=1)
    mesh = sharding.mesh(settings.sharding)
    state = State(jnp.zeros([], jnp.int32), built.params, {}, built.model_state, (), {})
    batches = batches_of(
        source, built.parts.preprocess, batch_size=request.batch_size, mesh=mesh, settings=settings.input
    )
    found = measure(
        make_eval_step(built.parts),
        state,
        batches,
        mesh=mesh,
        task=built.parts.task,
        num_examples=len(source),
    )
    sys.stderr.write(tables.final_table(found, stats.label_names) + "\n")
    result = {
        "model": request.run_folder or request.weights,
        "data": settings.data.path or settings.data.name,
        "split": split,
        "num_examples": len(source),
        "metrics": found.scalars,
        "per_class": {name: values.tolist() for name, values in found.per_class.items()},
        "label_names": list(stats.label_names),
    }
    if request.out:
        write(Path(request.out), result, found, stats.label_names)
    return summary.plain(result)


def write(
    folder: Path, result: Mapping[str, Any], found: metrics.Summary, label_names: tuple[str, ...]
) -> None:
    """Write metrics.json and, where the task has one, confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_json(folder / "metrics.json", result)
    if found.confusion is not None:
        confusion.plot(found.confusion, label_names, folder / "confusion.png")


def _of_run(request: Request) -> tuple[Config, LabelStats, tuple[str, ...] | None]:
    folder = Path(request.run_folder or "")
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{str(folder)!r} is no run folder: config.json is missing; expected what --workdir named"
        )
    if not (folder / "meta.json").is_file():
        raise UserError(f"run {str(folder)!r} has no meta.json yet; repeat its training command first")
    settings = config.from_dict(json.loads((folder / "config.json").read_text()))
    meta = json.loads((folder / "meta.json").read_text())
    stats = LabelStats.from_dict(meta["labels"])
    return _with_own_head(settings, str(folder)), stats, stats.label_names


def _of_weights(request: Request) -> tuple[Config, LabelStats, tuple[str, ...] | None]:
    if not request.data:
        raise UserError("--weights needs --data: a folder, a table or a .npz file to evaluate on")
    assert request.weights is not None
    found = recognise(request.weights)
    if found.num_outputs < 2:
        raise UserError(
            f"{request.weights!r} has no classification head; give a run folder with --run instead"
        )
    names = found.label_names or tuple(str(index) for index in range(found.num_outputs))
    settings = config.from_dict({"model": {"name": found.family, **found.config_fields}})
    stats = TASKS[settings.task.name].stats(np.arange(len(names)), names)
    return _with_own_head(settings, request.weights), stats, names


def _with_own_head(settings: Config, spec: str) -> Config:
    return replace(
        settings,
        model=replace(settings.model, weights=spec),
        weights=replace(settings.weights, head="load", sha256=""),
    )


def _chosen_split(name: str, splits: Mapping[str, Source]) -> str:
    if name and name not in splits:
        raise UserError(f"--split {name!r} is not in the data; nearest: {nearest(name, splits)}")
    return name or next(each for each in SPLITS_BY_PREFERENCE if each in splits)
