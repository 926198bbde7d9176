"""Any number of labels at once: an independent sigmoid per class."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl import metrics
from jtl.errors import UserError, shown
from jtl.ranges import Fraction, Positive, Range, check
from jtl.tasks.contract import Head, LabelStats, Task, TaskKind

NUM_SCORE_BINS = 1000
BALANCED = ("balanced",)


@dataclass(frozen=True)
class Config:
    """Settings of the multilabel task.

    `label_smoothing` moves targets from 0 and 1 towards 0.5 by half its value. `positive_weight` multiplies
    the loss of the positives: one number for all classes, ("balanced",) (negatives / positives of the class),
    or one a class. `threshold` is the probability from which a class counts as predicted.
    """

    name: str = "multilabel"
    label_smoothing: Fraction = 0.0
    positive_weight: tuple[Positive | str, ...] = (1.0,)
    threshold: Annotated[float, Range(above=0, below=1)] = 0.5

    def __post_init__(self) -> None:
        check(self, "task")
        is_number = [not isinstance(weight, str) for weight in self.positive_weight]
        if self.positive_weight != BALANCED and not (is_number and all(is_number)):
            raise UserError(
                f"task.positive_weight is {shown(self.positive_weight)}; expected one positive number, "
                f"('balanced',) or a positive number for each class"
            )


def stats(labels: np.ndarray, label_names: tuple[str, ...]) -> LabelStats:
    """Return positives a class of the training labels [n, classes]."""
    return LabelStats(label_names, len(labels), counts=tuple(int(count) for count in labels.sum(0)))


def head(config: Config, label_stats: LabelStats) -> Head:
    """Return the head: an output for each class."""
    del config
    return Head(len(label_stats.label_names))


def build(config: Config, label_stats: LabelStats, preprocess: Any = None) -> Task:
    """Build the task for the classes of `label_stats`; how inputs are pre-processed does not matter to it."""
    del preprocess
    weights = jnp.asarray(_positive_weights(config, label_stats), jnp.float32)
    return Task(
        head=head(config, label_stats),
        targets=lambda batch, key: batch["label"].astype(jnp.float32),
        loss=partial(loss, smoothing=config.label_smoothing, positive_weight=weights),
        metrics=lambda logits, batch: sums(logits, batch["label"], batch["mask"], threshold=config.threshold),
        summarize=summarize,
        predictions=jax.nn.sigmoid,
        averaged=averaged,
    )


def loss(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    smoothing: float,
    positive_weight: Float[Array, " classes"],
) -> Float[Array, " batch"]:
    """Return the binary cross-entropy of each example in nats, averaged over the classes."""
    smooth = targets * (1.0 - smoothing) + 0.5 * smoothing
    positive = positive_weight[None, :] * smooth * jax.nn.log_sigmoid(logits)
    negative = (1.0 - smooth) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(positive + negative, axis=-1)


def averaged(logits: Float[Array, "members batch classes"]) -> Float[Array, "batch classes"]:
    """Return the log-odds of the members' mean sigmoid, computed without leaving logarithms."""
    positive = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
    return positive - jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)


def sums(
    logits: Float[Array, "batch classes"],
    labels: Float[Array, "batch classes"],
    mask: Bool[Array, " batch"],
    *,
    threshold: float,
) -> metrics.Sums:
    """Return masked counts a class, and histograms [classes, bins] of positives' and negatives' scores."""
    weight = mask.astype(jnp.int32)[:, None]
    actual = labels.astype(jnp.int32)
    scores = jax.nn.sigmoid(logits)
    predicted = (scores >= threshold).astype(jnp.int32)
    nats = loss(logits, labels, smoothing=0.0, positive_weight=jnp.ones(logits.shape[-1]))
    bins = jnp.clip((scores * NUM_SCORE_BINS).astype(jnp.int32), 0, NUM_SCORE_BINS - 1)
    classes = jnp.broadcast_to(jnp.arange(logits.shape[-1])[None, :], bins.shape)
    empty = jnp.zeros((logits.shape[-1], NUM_SCORE_BINS), jnp.int32)
    return {
        "count": jnp.sum(weight),
        "loss": jnp.sum(jnp.where(mask, nats, 0.0)),
        "exact": jnp.sum(mask & jnp.all(predicted == actual, axis=-1)),
        "class_hits": jnp.sum(weight * predicted * actual, axis=0),
        "class_actual": jnp.sum(weight * actual, axis=0),
        "class_predicted": jnp.sum(weight * predicted, axis=0),
        "positive_scores": empty.at[classes, bins].add(weight * actual),
        "negative_scores": empty.at[classes, bins].add(weight * (1 - actual)),
    }


def summarize(sums: Mapping[str, np.ndarray]) -> metrics.Summary:
    """Return mean average precision (scores binned to 0.001), F1, exact match and loss (nats)."""
    hits, actual, predicted = metrics.class_margins(sums)
    f1 = metrics.f1_scores(hits, actual, predicted)
    precision = average_precision(sums["positive_scores"], sums["negative_scores"])
    count = float(sums["count"])
    present = actual > 0
    scalars = {
        "mean_average_precision": float(np.mean(precision[present])) if present.any() else float("nan"),
        "macro_f1": float(np.mean(f1[present])) if present.any() else float("nan"),
        "micro_f1": float(metrics.f1_scores(hits.sum(), actual.sum(), predicted.sum())),
        "exact_match": float(sums["exact"]) / count,
        "loss": float(sums["loss"]) / count,
    }
    recall = metrics.ratio(hits, actual)
    per_class = {"average_precision": precision, "recall": recall, "f1": f1, "count": actual}
    return metrics.Summary(scalars, per_class, None)


def average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the area under precision over recall a class [C], from rising score histograms [C, bins].

    >>> average_precision(np.array([[0, 0, 2]]), np.array([[3, 1, 0]]))
    array([1.])
    """
    hits = np.cumsum(positives[:, ::-1], axis=1)
    retrieved = hits + np.cumsum(negatives[:, ::-1], axis=1)
    precision = np.nan_to_num(metrics.ratio(hits, retrieved))
    return metrics.ratio(np.sum(precision * positives[:, ::-1], axis=1), positives.sum(1))


def _positive_weights(config: Config, label_stats: LabelStats) -> np.ndarray:
    num_classes = len(label_stats.label_names)
    if config.positive_weight == BALANCED:
        counts = np.maximum(np.asarray(label_stats.counts, np.float64), 1.0)
        return (label_stats.num_examples - counts) / counts
    if len(config.positive_weight) not in (1, num_classes):
        raise UserError(
            f"task.positive_weight is {shown(config.positive_weight)}; expected one positive number, "
            f"('balanced',) or {num_classes} positive numbers"
        )
    return np.broadcast_to(np.asarray(config.positive_weight, np.float64), (num_classes,))


MAXIMIZED = {
    **dict.fromkeys(("mean_average_precision", "macro_f1", "micro_f1", "exact_match"), True),
    "loss": False,
}
KIND = TaskKind(Config, "multilabel", stats, head, build, "mean_average_precision", MAXIMIZED)
