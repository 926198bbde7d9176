"""The contract between a task and the rest: what the labels look like, the loss, and the metrics as sums."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jtl import files
from jtl.errors import UserError, nearest
from jtl.inputs import Inputs
from jtl.metrics import TARGET_PREFIX, Summary

Batch = Mapping[str, Any]
NO_LABELS = "none"
# Measures of another domain that need no labels, and whether more is better.
CRITERIA = {"im": True, "snd": True, "entropy": False}


class Head(NamedTuple):
    """What a task needs of a model: how many outputs, and of what they are made.

    `reads` is "features" (one vector an example, `num_outputs` logits of it) or "vocabulary" (the model's own
    logits over its vocabulary at places of the input; `num_outputs` is then the model's to know, 0 here).
    """

    num_outputs: int
    reads: str = "features"


class LabelStats(NamedTuple):
    """What a task needs to know of the training labels; saved in the run folder for evaluation.

    `counts` are training examples a class (multiclass, multilabel); `mean` and `std` one per target
    (regression). `reading` is how the labels told their classes (see `data.contract`), as all later ones of
    this run are read; "" where there is none, or the run did not keep it.
    """

    label_names: tuple[str, ...]
    num_examples: int
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    reading: str = ""

    @classmethod
    def of_record(cls, record: files.Record) -> "LabelStats":
        """Rebuild from the JSON form (`_asdict`).

        Raises:
            UserError: it is of another form, and the record says where.
        """
        for name in record.values:
            if name not in cls._fields:
                raise record.wrong(f"{record.where}.{name} is unknown")
        found = cls(
            label_names=tuple(record.get("label_names", files.TEXTS)),
            num_examples=record.get("num_examples", files.COUNT),
            counts=tuple(record.get("counts", files.COUNTS, ())),
            mean=tuple(record.get("mean", files.FINITE, ())),
            std=tuple(record.get("std", files.FINITE, ())),
            reading=record.get("reading", files.TEXT, ""),
        )
        if found.counts and len(found.counts) != len(found.label_names):
            raise record.wrong(
                f"{record.where} has {len(found.label_names)} names, {len(found.counts)} counts"
            )
        if len(found.mean) != len(found.std):
            raise record.wrong(f"{record.where} has {len(found.mean)} means, {len(found.std)} deviations")
        return found


def as_they_are(inputs: Inputs, targets: Any) -> Inputs:
    """Return the inputs: the task hides nothing of them."""
    del targets
    return inputs


def one_each(targets: Any) -> Array:
    """Return weight 1 for every example of targets whose first dim is the batch."""
    return jnp.ones(targets.shape[0], jnp.float32)


class Task(NamedTuple):
    """A built task.

    A batch is {"inputs", "mask", "id"[, "label"]}, its inputs as the model reads them. `targets(batch, key)`
    → what the loss compares with, a tree of [batch, …]: made from the labels, or from the inputs themselves,
    by chance where the task says so (`key`; equal keys give equal targets). `shown(inputs, targets)` → the
    inputs that the model is given. `loss(logits, targets)` → [batch], in nats or squared units, never
    averaged over examples; `weights(targets)` → [batch], what an example counts for: a step minimises
    Σ loss·mask / Σ weights·mask. `metrics(logits, batch)` → sums over the examples of a batch with "target"
    (and "label") whose mask is true, merged by addition; `summarize(sums)` → the final numbers.
    `predictions(logits)` → what people read of them: probabilities, or
    values in the labels' unit. `averaged(logits [members, batch, outputs])` → logits of which the
    predictions are the mean of the members' predictions. `can_blend` is whether mixup may average two
    targets. `unmeasured` are the metrics of its kind that mean nothing for these labels, and why.
    """

    head: Head
    targets: Callable[[Batch, Key[Array, ""]], Any]
    loss: Callable[[Array, Any], Array]
    metrics: Callable[[Array, Batch], dict[str, Array]]
    summarize: Callable[[Mapping[str, np.ndarray]], Summary]
    predictions: Callable[[Array], Array]
    averaged: Callable[[Array], Array]
    can_blend: bool = True
    unmeasured: Mapping[str, str] = {}
    weights: Callable[[Any], Array] = one_each
    shown: Callable[[Inputs, Any], Inputs] = as_they_are


class TaskKind(NamedTuple):
    """One kind of task.

    `label_kind` is the kind of labels it reads (`NO_LABELS`: none). `stats(labels, label_names)` → what it
    needs to know of the training labels; `head(config, stats)` → what it needs of a model; `build(config,
    stats, preprocess)` → the task, for inputs that are pre-processed so. `monitor` is the metric that picks
    the best step, `maximized` says of every metric there may be whether more is better.
    """

    Config: type
    label_kind: str
    stats: Callable[[np.ndarray, tuple[str, ...]], LabelStats]
    head: Callable[[Any, LabelStats], Head]
    build: Callable[[Any, LabelStats, Any], Task]
    monitor: str
    maximized: Mapping[str, bool]

    def is_maximized(self, metric: str) -> bool:
        """Return whether more of a metric, of this or another domain, is better.

        Raises:
            UserError: it is none of the task's, and no criterion without labels.
        """
        known = {**self.maximized, **CRITERIA}
        name = metric.removeprefix(TARGET_PREFIX)
        if name not in known:
            raise UserError(f"{metric!r} is no metric of this task; nearest: {nearest(name, known)}")
        return known[name]
