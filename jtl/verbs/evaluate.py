"""The verb `jtl evaluate`: measure a run or pretrained weights on labelled data."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jtl import predictor
from jtl.data import Source, preflight
from jtl.errors import UserError, nearest
from jtl.report import summary, tables
from jtl.tasks import LabelStats
from jtl.training import build, config, evaluate
from jtl.training.step import make_eval_step

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
    ready = predictor.ready(settings, stats)
    parts = ready.built.parts
    batches = evaluate.batches_of(
        source, parts.preprocess, batch_size=request.batch_size, mesh=ready.mesh, settings=settings.input
    )
    found = evaluate.measure(
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
        evaluate.write(Path(request.out), result, found, stats.label_names)
    return summary.plain(result)


def _opened(request: Request) -> tuple[config.Config, LabelStats, dict[str, Source]]:
    """Return settings, labels and splits; a zero-shot head takes its classes from the data."""
    if not request.is_zero_shot:
        settings, stats = _model_of(request)
        settings = build.with_data(settings, request.data) if request.data else settings
        settings = config.with_overrides(settings, request.overrides)
        return settings, stats, build.open_splits(settings, stats.label_names)
    if not request.weights or not request.data:
        raise UserError("--zero-shot needs --weights of CLIP or SigLIP, and --data whose classes have names")
    settings = build.with_data(predictor.zero_shot_settings(request.weights), request.data)
    settings = config.with_overrides(settings, request.overrides)
    splits = build.open_splits(settings)
    return settings, build.label_stats(settings, next(iter(splits.values()))), splits


def _model_of(request: Request) -> predictor.Trained:
    if request.run_folder:
        return predictor.of_run(request.run_folder)
    assert request.weights is not None, "the command line takes a run or weights"
    if not request.data:
        raise UserError("--weights needs --data: a folder, a table or a .npz file to evaluate on")
    found = predictor.of_weights(request.weights)
    if not predictor.has_names(found):
        sys.stderr.write(f"{request.weights} brings no class names: labels are the indices of its outputs\n")
    return found


def _chosen_split(name: str, splits: Mapping[str, Source]) -> str:
    if name and name not in splits:
        raise UserError(f"--split {name!r} is not in the data; nearest: {nearest(name, splits)}")
    return name or next(each for each in SPLITS_BY_PREFERENCE if each in splits)
