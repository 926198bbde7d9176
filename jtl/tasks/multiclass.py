"""One class of several: softmax cross-entropy, with what helps where classes are rare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jtl import metrics
from jtl.errors import UserError, shown
from jtl.ranges import Fraction, NotNegative, Positive, ReadIf, check
from jtl.tasks.contract import Head, LabelStats, Task, TaskKind

SMALLEST_REST = 1e-12
# Among how many places a label counts as found; of so few classes it always is.
TOP = 5


@dataclass(frozen=True)
class Config:
    """Settings of the multiclass task.

    `label_smoothing` is the probability mass spread evenly over all classes (Szegedy et al. 2016, sec. 7).
    `class_weights` is empty (every example counts the same), `("balanced",)` (n / (C n_c), mean 1 over the
    training set), `("effective",)` ((1 - beta) / (1 - beta^n_c), beta being `effective_beta`, mean 1 over the
    classes; Cui et al. 2019, eq. 2) or one positive number per class. `focal_gamma` takes weight from what is
    already recognised (Lin et al. 2017, eq. 4). `logit_adjustment` times the log of each class's share of the
    training examples is added to its logit in the training loss alone (Menon et al. 2021, eq. 10, its tau).
    Shares and counts are of the examples as `train.sampling` draws them.
    """

    name: str = "multiclass"
    label_smoothing: Fraction = 0.0
    class_weights: tuple[Positive | str, ...] = ()
    effective_beta: Annotated[Fraction, ReadIf("class_weights", (("effective",),))] = 0.999
    focal_gamma: NotNegative = 0.0
    logit_adjustment: NotNegative = 0.0

    def __post_init__(self) -> None:
        check(self, "task")
        is_named = self.class_weights in WEIGHTINGS
        if not is_named and any(isinstance(weight, str) for weight in self.class_weights):
            raise UserError(
                f"task.class_weights is {shown(self.class_weights)}; expected (), ('balanced',), "
                f"('effective',) or a positive number for each class"
            )


def stats(labels: np.ndarray, label_names: tuple[str, ...]) -> LabelStats:
    """Return examples a class of the training labels [n]."""
    counts = np.bincount(labels, minlength=len(label_names))
    return LabelStats(label_names, len(labels), counts=tuple(int(count) for count in counts))


def head(config: Config, label_stats: LabelStats) -> Head:
    """Return the head: an output for each class.

    Raises:
        UserError: there are fewer than two classes.
    """
    del config
    if len(label_stats.label_names) < 2:
        raise UserError(f"task 'multiclass' needs at least 2 classes, found {label_stats.label_names}")
    return Head(len(label_stats.label_names))


def build(config: Config, label_stats: LabelStats, preprocess: Any = None) -> Task:
    """Build the task for the classes of `label_stats`; how inputs are pre-processed does not matter to it."""
    del preprocess
    num_classes = len(label_stats.label_names)
    weights = jnp.asarray(_class_weights(config, label_stats), jnp.float32)
    shift = jnp.asarray(_logit_shift(config, label_stats), jnp.float32) if config.logit_adjustment else None
    return Task(
        head=head(config, label_stats),
        targets=lambda batch, key: jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32),
        loss=partial(
            loss,
            smoothing=config.label_smoothing,
            class_weights=weights,
            focal_gamma=config.focal_gamma,
            shift=shift,
        ),
        metrics=lambda logits, batch: sums(logits, batch["label"], batch["mask"]),
        summarize=summarize,
        predictions=jax.nn.softmax,
        averaged=averaged,
        unmeasured={} if num_classes > TOP else {f"top{TOP}_accuracy": f"there are {num_classes} classes"},
    )


def loss(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    smoothing: float,
    class_weights: Float[Array, " classes"],
    focal_gamma: float = 0.0,
    shift: Float[Array, " classes"] | None = None,
) -> Float[Array, " batch"]:
    """Return the cross-entropy of each example in nats, times the weight of its (blended) class.

    `shift` is added to the logits first; each class's term is then scaled by (1 - its probability) to the
    power of `focal_gamma`.
    """
    smooth = targets * (1.0 - smoothing) + smoothing / targets.shape[-1]
    log_probabilities = jax.nn.log_softmax(logits if shift is None else logits + shift[None])
    terms = smooth * log_probabilities
    if focal_gamma:
        # 1 - p from log p keeps its digits where p is near 1. Below 1, the power's slope at 0 is infinite.
        rest = jnp.maximum(-jnp.expm1(log_probabilities), SMALLEST_REST)
        terms = terms * rest**focal_gamma
    return -jnp.sum(terms, axis=-1) * (targets @ class_weights)


def averaged(logits: Float[Array, "members batch classes"]) -> Float[Array, "batch classes"]:
    """Return the logarithm of the members' mean softmax, computed without leaving logarithms."""
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(log_probabilities, axis=0) - jnp.log(logits.shape[0])


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
        "correct_top5": jnp.sum(weight * (num_above < TOP)),
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
    if len(actual) > TOP:
        scalars["top5_accuracy"] = float(sums["correct_top5"]) / count
    per_class = {"recall": recall, "f1": f1, "precision": metrics.ratio(hits, predicted), "count": actual}
    return metrics.Summary(scalars, per_class, sums.get("confusion"))


def _class_weights(config: Config, label_stats: LabelStats) -> np.ndarray:
    num_classes = len(label_stats.label_names)
    if not config.class_weights:
        return np.ones(num_classes)
    weighting = WEIGHTINGS.get(config.class_weights)
    if weighting is not None:
        counts = np.maximum(np.asarray(label_stats.counts, np.float64), 1.0)
        return weighting(config, counts, label_stats.num_examples)
    if len(config.class_weights) != num_classes:
        raise UserError(
            f"task.class_weights is {shown(config.class_weights)}; expected (), ('balanced',), "
            f"('effective',) or {num_classes} positive numbers, one for each of "
            f"{', '.join(label_stats.label_names[:10])}"
        )
    return np.asarray(config.class_weights, np.float64)


def _balanced(config: Config, counts: np.ndarray, num_examples: int) -> np.ndarray:
    del config
    return num_examples / (len(counts) * counts)


def _effective(config: Config, counts: np.ndarray, num_examples: int) -> np.ndarray:
    del num_examples
    weights = (1.0 - config.effective_beta) / (1.0 - config.effective_beta**counts)
    return weights * len(counts) / weights.sum()


def _logit_shift(config: Config, label_stats: LabelStats) -> np.ndarray:
    """Return tau times the log of each class's share.

    Raises:
        UserError: a class has no training examples.
    """
    counts = np.asarray(label_stats.counts, np.float64)
    if not counts.all():
        absent = label_stats.label_names[int(counts.argmin())]
        raise UserError(
            f"task.logit_adjustment is {config.logit_adjustment}, but class {absent!r} has no training "
            f"examples, and so no share to take the logarithm of; add some, or set task.logit_adjustment=0"
        )
    return config.logit_adjustment * np.log(counts / counts.sum())


WEIGHTINGS: dict[tuple[float | str, ...], Callable[[Config, np.ndarray, int], np.ndarray]] = {
    ("balanced",): _balanced,
    ("effective",): _effective,
}
MAXIMIZED = {
    **dict.fromkeys(("accuracy", "top5_accuracy", "macro_f1", "balanced_accuracy"), True),
    "loss": False,
}
KIND = TaskKind(Config, "class", stats, head, build, "accuracy", MAXIMIZED)
