"""Prediction ensembles: the mean of what several models, of any families, predict of the same examples."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl import predictor
from jtl.data import Source
from jtl.metrics import Summary, Sums
from jtl.predictor import Predictor, Values
from jtl.training import evaluate, step
from jtl.verbs.fuse.members import Judge

DIGITS = 6


class Found(NamedTuple):
    """An ensemble's metrics on a split, and its predictions [examples, outputs] in the split's order."""

    summary: Summary
    predictions: np.ndarray


def measure(judges: Sequence[Judge], candidates: Sequence[Values], splits: Sequence[str]) -> dict[str, Found]:
    """Return what the mean of the members' predictions is worth (Lakshminarayanan et al. 2017, sec. 2.4).

    `candidates` are the values of each judge's model. Each member sees the examples through its own
    pre-processing; all of them are on the devices at once.
    """
    mesh = judges[0].predictor.mesh
    ensemble_step = _make_step([each.predictor for each in judges])
    values = tuple(predictor.placed(candidate, mesh) for candidate in candidates)
    return {split: _measured(ensemble_step, values, judges, split) for split in splits}


def write_predictions(path: Path, found: Found, source: Source, label_names: Sequence[str]) -> None:
    """Write a CSV with a row an example: where it stands, its class if it has one, and its predictions."""
    labels = source.labels()
    has_class = labels is not None and bool(label_names) and labels.ndim == 1
    outputs = label_names or [f"value{index}" for index in range(found.predictions.shape[1])]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", *(["label"] if has_class else []), *outputs])
        for index, row in enumerate(found.predictions):
            label = [label_names[labels[index]]] if labels is not None and has_class else []
            writer.writerow([source.describe(index), *label, *(f"{value:.{DIGITS}g}" for value in row)])


def _side_by_side(batches: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the batches of the same examples as one, with a tuple of inputs."""
    for group in zip(*batches, strict=True):
        assert all(np.array_equal(each["id"], group[0]["id"]) for each in group), "batches of other examples"
        yield {**group[0], "inputs": tuple(each["inputs"] for each in group)}


def _make_step(models: Sequence[Predictor]) -> Callable[..., tuple[Sums, jax.Array]]:
    """Return the compiled step from all members' (values, batch) to metrics and predictions of their mean."""
    first = models[0]
    task = first.task
    assert task is not None, "members have a task"

    @jax.jit
    def compiled(values: tuple[Values, ...], batch: Any) -> tuple[Sums, jax.Array]:
        own = [
            step.with_targets(model, {**batch, "inputs": inputs})
            for model, inputs in zip(models, batch["inputs"], strict=True)
        ]
        logits = [
            step.forward_normalised(model, each["params"], each["model_state"], seen["inputs"]).logits
            for model, each, seen in zip(models, values, own, strict=True)
        ]
        averaged = task.averaged(jnp.stack(logits))
        return task.metrics(averaged, own[0]), task.predictions(averaged)

    return compiled


def _measured(
    ensemble_step: Callable[..., tuple[Sums, jax.Array]], values: Any, judges: Sequence[Judge], split: str
) -> Found:
    first = judges[0]
    task = first.predictor.task
    assert task is not None, "members have a task"
    kept: list[Any] = []

    def eval_step(values: Any, batch: Any) -> Sums:
        sums, predictions = ensemble_step(values, batch)
        kept.append(predictions)
        # Those of the newest batches are being computed still.
        if len(kept) > evaluate.MAX_PENDING:
            kept[-evaluate.MAX_PENDING - 1] = np.asarray(kept[-evaluate.MAX_PENDING - 1])
        return sums

    num_examples = len(first.splits[split])
    summary = evaluate.measure(
        eval_step,
        values,
        _side_by_side([judge.batches[split] for judge in judges]),
        mesh=first.predictor.mesh,
        task=task,
        num_examples=num_examples,
    )
    # Only the last batch is padded, behind its examples.
    return Found(summary, np.concatenate([np.asarray(each) for each in kept])[:num_examples])
