"""Evaluation: every example once, sums added up, one division at the end; and the verb `jtl evaluate`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jtl import build, config, metrics, sharding, trained
from jtl.build import Built
from jtl.data import Source, image, pipeline, preflight
from jtl.errors import UserError, nearest
from jtl.report import confusion, summary, tables
from jtl.state import State
from jtl.step import Batch, make_eval_step, make_output_step
from jtl.strategies.contract import EXTRA
from jtl.tasks import LabelStats, Task

DEVICE_FIELDS = ("image", "label", "mask")
MAX_PENDING = 4
SPLITS_BY_PREFERENCE = ("test", "val", "train")


class Request(NamedTuple):
    """What `jtl evaluate` was asked: a run folder or weights, and the data to measure it on.

    With `is_zero_shot` the head of CLIP or SigLIP weights is made of the data's class names.
    """

    run_folder: str | None
    weights: str | None
    is_zero_shot: bool
    data: str
    split: str
    batch_size: int
    out: str
    overrides: list[tuple[str, str]]


def measure(
    eval_step: Callable[[Any, Batch], metrics.Sums],
    state: Any,
    batches: Any,
    *,
    mesh: Mesh,
    task: Task,
    num_examples: int,
) -> metrics.Summary:
    """Return the task's metrics over padded batches; `state` is whatever `eval_step` takes.

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


def prepared(built: Built, source: Source, settings: config.Config, mesh: Mesh) -> Built:
    """Return the parts with what the strategy wants to know of the training examples, before any step."""
    parts = built.parts
    if parts.strategy.prepare is None:
        return built
    batches = batches_of(
        source, parts.preprocess, batch_size=settings.train.batch_size, mesh=mesh, settings=settings.input
    )
    state = State(jnp.zeros([], jnp.int32), built.params, {}, built.model_state, (), {})
    features, _, labels = collect(make_output_step(parts), state, batches, mesh=mesh)
    extra = parts.strategy.prepare(built.params[EXTRA], features, labels)
    return built._replace(params={**built.params, EXTRA: extra})


def collect(
    output_step: Callable[[State, Batch], tuple[Any, Any]], state: State, batches: Any, *, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features [examples, dim], logits [examples, outputs] and labels of padded batches, in order."""
    found: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        outputs = output_step(state, sharding.put_batch({name: batch[name] for name in DEVICE_FIELDS}, mesh))
        mask = batch["mask"]
        found.append((*(np.asarray(each)[mask] for each in outputs), batch["label"][mask]))
    features, logits, labels = (np.concatenate(each) for each in zip(*found, strict=True))
    return features, logits, labels


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
    settings, stats, splits = _opened(request)
    split = _chosen_split(request.split, splits)
    checked = preflight.inspect({split: splits[split]}, settings.data)
    source = checked.splits[split]
    for line in checked.lines:
        sys.stderr.write(f"{line}\n")
    ready = trained.ready(settings, stats)
    parts = ready.built.parts
    batches = batches_of(
        source, parts.preprocess, batch_size=request.batch_size, mesh=ready.mesh, settings=settings.input
    )
    found = measure(
        make_eval_step(parts),
        ready.state,
        batches,
        mesh=ready.mesh,
        task=parts.task,
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


def _opened(request: Request) -> tuple[config.Config, LabelStats, dict[str, Source]]:
    """Return settings, labels and splits; a zero-shot head takes its classes from the data."""
    if not request.is_zero_shot:
        settings, stats = _model_of(request)
        settings = build.with_data(settings, request.data) if request.data else settings
        settings = config.with_overrides(settings, request.overrides)
        return settings, stats, build.open_splits(settings, stats.label_names)
    if not request.weights or not request.data:
        raise UserError("--zero-shot needs --weights of CLIP or SigLIP, and --data whose classes have names")
    settings = build.with_data(trained.zero_shot_settings(request.weights), request.data)
    settings = config.with_overrides(settings, request.overrides)
    splits = build.open_splits(settings)
    return settings, build.label_stats(settings, next(iter(splits.values()))), splits


def _model_of(request: Request) -> trained.Trained:
    if request.run_folder:
        return trained.of_run(request.run_folder)
    assert request.weights is not None, "the command line takes a run or weights"
    if not request.data:
        raise UserError("--weights needs --data: a folder, a table or a .npz file to evaluate on")
    found = trained.of_weights(request.weights)
    if not trained.has_names(found):
        sys.stderr.write(f"{request.weights} brings no class names: labels are the indices of its outputs\n")
    return found


def _chosen_split(name: str, splits: Mapping[str, Source]) -> str:
    if name and name not in splits:
        raise UserError(f"--split {name!r} is not in the data; nearest: {nearest(name, splits)}")
    return name or next(each for each in SPLITS_BY_PREFERENCE if each in splits)
