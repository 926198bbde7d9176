"""One class of several: softmax cross-entropy with label smoothing and class weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jtl import metrics
from jtl.errors import UserError
from jtl.tasks.contract import LabelStats, Task, TaskKind


@dataclass(frozen=True)
class Config:
    """Settings of the multiclass task.

    `label_smoothing` is the probability mass spread evenly over all classes (Szegedy et al. 2016, sec. 7).
    `class_weights` is empty (every example counts the same), `("balanced",)` (n / (C n_c), mean 1 over the
    training set) or one positive number per class.
    """

    name: str = "multiclass"
    label_smoothing: float = 0.0
    class_weights: tuple[float | str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"task.label_smoothing is {self.label_smoothing}; expected 0 <= value < 1")


def stats(labels: np.ndarray, label_names: tuple[str, ...]) -> LabelStats:
    """Return examples a class of the training labels [n]."""
    counts = np.bincount(labels, minlength=len(label_names))
    return LabelStats(label_names, len(labels), counts=tuple(int(count) for count in counts))


def build(config: Config, label_stats: LabelStats) -> Task:
    """Build the task for the classes of `label_stats`."""
    num_classes = len(label_stats.label_names)
    if num_classes < 2:
        raise UserError(f"task 'multiclass' needs at least 2 classes, found {label_stats.label_names}")
    weights = jnp.asarray(_class_weights(config, label_stats), jnp.float32)
    return Task(
        head_size=num_classes,
        targets=lambda labels: jax.nn.one_hot(labels, num_classes, dtype=jnp.float32),
        loss=partial(loss, smoothing=config.label_smoothing, class_weights=weights),
        metrics=sums,
        summarize=summarize,
        predictions=jax.nn.softmax,
        monitor="accuracy",
    )


def loss(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    smoothing: float,
    class_weights: Float[Array, " classes"],
) -> Float[Array, " batch"]:
    """Return the cross-entropy of each example in nats, times the weight of its (blended) class."""
    smooth = targets * (1.0 - smoothing) + smoothing / targets.shape[-1]
    nats = -jnp.sum(smooth * jax.nn.log_softmax(logits), axis=-1)
    return nats * (targets @ class_weights)


def sums(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], mask: Bool[Array, " batch"]
) -> metrics.Sums:
    """Return masked counts and the summed plain cross-entropy (no smoothing, no class weights).

    Among the first five counts a label whose logit at most four others exceed; ties do not count against it.
    """
    label_logits = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    nats = jax.nn.logsumexp(logits, axis=-1) - label_logits[:, 0]
    num_above = jnp.sum(logits > label_logits, axis=-1)
    predicted = jnp.argmax(logits, axis=-1)
    weight = mask.astype(jnp.int32)
    return {
        "count": jnp.sum(weight),
        "loss": jnp.sum(jnp.where(mask, nats, 0.0)),
        "correct": jnp.sum(weight * (predicted == labels)),
        "correct_top5": jnp.sum(weight * (num_above < 5)),
        **metrics.confusion_sums(predicted, labels, mask, logits.shape[-1]),
    }


def summarize(sums: Mapping[str, np.ndarray]) -> metrics.Summary:
    """Return accuracy, top-5, loss (nats), macro-F1 and balanced accuracy (means over classes that occur)."""
    count = float(sums["count"])
    hits, actual, predicted = metrics.class_margins(sums)
    recall = metrics.ratio(hits, actual)
    f1 = metrics.f1_scores(hits, actual, predicted)
    present = actual > 0
    scalars = {
        "accuracy": float(sums["correct"]) / count,
        "loss": float(sums["loss"]) / count,
        "macro_f1": float(np.mean(f1[present])),
        "balanced_accuracy": float(np.mean(recall[present])),
    }
    if len(actual) > 5:
        scalars["top5_accuracy"] = float(sums["correct_top5"]) / count
    per_class = {"recall": recall, "f1": f1, "precision": metrics.ratio(hits, predicted), "count": actual}
    return metrics.Summary(scalars, per_class, sums.get("confusion"))


def _class_weights(config: Config, label_stats: LabelStats) -> np.ndarray:
    num_classes = len(label_stats.label_names)
    if not config.class_weights:
        return np.ones(num_classes)
    if config.class_weights == ("balanced",):
        counts = np.asarray(label_stats.counts, np.float64)
        return label_stats.num_examples / (num_classes * np.maximum(counts, 1.0))
    is_number = [isinstance(weight, int | float) and weight > 0 for weight in config.class_weights]
    if len(config.class_weights) != num_classes or not all(is_number):
        raise UserError(
            f"task.class_weights is {config.class_weights}; expected (), ('balanced',) or {num_classes} "
            f"positive numbers, one for each of {', '.join(label_stats.label_names[:10])}"
        )
    return np.asarray(config.class_weights, np.float64)


KIND = TaskKind(Config, "class", stats, build)
