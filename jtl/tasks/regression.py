"""Real-valued targets: squared or Huber loss on standardised values, metrics in the user's own units."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl import metrics
from jtl.ranges import NotNegative, check
from jtl.tasks.contract import Head, LabelStats, Task, TaskKind

ROUNDING = 1e-6


@dataclass(frozen=True)
class Config:
    """Settings of the regression task.

    Targets are standardised with the training labels' mean and standard deviation, so that learning rates do
    not depend on their unit. `huber_delta`, in standard deviations, is where the loss turns from quadratic to
    linear (0: squared everywhere).
    """

    name: str = "regression"
    huber_delta: NotNegative = 0.0

    def __post_init__(self) -> None:
        check(self, "task")


def stats(labels: np.ndarray, label_names: tuple[str, ...]) -> LabelStats:
    """Return mean and standard deviation of the training labels [n, targets] (1 for a constant target)."""
    mean, std = labels.mean(0, dtype=np.float64), labels.std(0, dtype=np.float64)
    std = np.where(std > 0, std, 1.0)
    return LabelStats(label_names, len(labels), mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def head(config: Config, label_stats: LabelStats) -> Head:
    """Return the head: an output for each number of a label."""
    del config
    return Head(len(label_stats.mean))


def build(config: Config, label_stats: LabelStats, preprocess: Any = None) -> Task:
    """Build the task for the numbers of `label_stats`; how inputs are pre-processed does not matter to it."""
    del preprocess
    mean, std = jnp.asarray(label_stats.mean, jnp.float32), jnp.asarray(label_stats.std, jnp.float32)
    return Task(
        head=head(config, label_stats),
        targets=lambda batch, key: (batch["label"].astype(jnp.float32) - mean[None, :]) / std[None, :],
        loss=partial(loss, huber_delta=config.huber_delta),
        metrics=lambda logits, batch: sums(logits, batch["label"], batch["mask"], mean=mean, std=std),
        summarize=partial(summarize, std=np.asarray(label_stats.std)),
        predictions=lambda logits: logits * std[None, :] + mean[None, :],
        averaged=lambda logits: jnp.mean(logits, axis=0),
    )


def loss(
    logits: Float[Array, "batch targets"], targets: Float[Array, "batch targets"], *, huber_delta: float
) -> Float[Array, " batch"]:
    """Return half the squared error in squared standard deviations (Huber 1964), mean over targets."""
    error = jnp.abs(logits - targets)
    if huber_delta == 0:
        return jnp.mean(0.5 * jnp.square(error), axis=-1)
    linear = huber_delta * (error - 0.5 * huber_delta)
    return jnp.mean(jnp.where(error <= huber_delta, 0.5 * jnp.square(error), linear), axis=-1)


def sums(
    logits: Float[Array, "batch targets"],
    labels: Float[Array, "batch targets"],
    mask: Bool[Array, " batch"],
    *,
    mean: Float[Array, " targets"],
    std: Float[Array, " targets"],
) -> metrics.Sums:
    """Return masked sums of errors and of standardised labels (small, so that R² does not cancel)."""
    centred = (labels - mean[None, :]) / std[None, :]
    weight = mask.astype(jnp.float32)[:, None]
    error = logits - centred
    return {
        "count": jnp.sum(mask.astype(jnp.int32)),
        "squared_error": jnp.sum(weight * jnp.square(error), axis=0),
        "absolute_error": jnp.sum(weight * jnp.abs(error), axis=0),
        "label": jnp.sum(weight * centred, axis=0),
        "squared_label": jnp.sum(weight * jnp.square(centred), axis=0),
    }


def summarize(sums: Mapping[str, np.ndarray], *, std: np.ndarray) -> metrics.Summary:
    """Return errors in the labels' unit and R² (1 - squared error / variance around this split's mean).

    R² has no value (nan) where all labels of the split are equal.
    """
    count = float(sums["count"])
    squared = sums["squared_error"] / count
    absolute = sums["absolute_error"] / count * std
    mean_square = sums["squared_label"] / count
    variance = mean_square - np.square(sums["label"] / count)
    # Of equal labels the float32 sums leave a rest of this size, and no variance.
    variance = np.where(variance > ROUNDING * mean_square, variance, 0.0)
    r2 = 1.0 - metrics.ratio(squared, variance)
    mse = squared * np.square(std)
    scalars = {
        "mean_squared_error": float(np.mean(mse)),
        "root_mean_squared_error": float(np.sqrt(np.mean(mse))),
        "mean_absolute_error": float(np.mean(absolute)),
        "r2": float(np.mean(r2)),
        "loss": float(np.mean(0.5 * squared)),
    }
    return metrics.Summary(scalars, {"r2": r2, "mean_absolute_error": absolute}, None)


ERRORS = ("mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "loss")
MAXIMIZED = {**dict.fromkeys(ERRORS, False), "r2": True}
KIND = TaskKind(Config, "regression", stats, head, build, "mean_squared_error", MAXIMIZED)
