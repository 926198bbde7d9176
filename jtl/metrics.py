"""Metrics as sums: added over batches, divided once at the end, exact under masks and any batch size.

Shape legend: C classes. Counts are kept in int32 on the device and in int64 once merged on the host.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from numpy.typing import ArrayLike

Sums = dict[str, Array]
Totals = dict[str, np.ndarray]
MAX_CONFUSION_CLASSES = 1000
# What stands beside the sums of a batch, is added to nothing, and has a row an example.
LOGITS = "logits"
# What the numbers of another domain are called by in a history.
TARGET_PREFIX = "target_"
# What the numbers of each of several heads are called by.
GRID_PREFIX = "grid/"


class Summary(NamedTuple):
    """Final numbers of one evaluation.

    `scalars` by name; `per_class` vectors [C] by name, of which the first is the one that is worst where it
    is smallest; `confusion` [true, predicted] counts, or None where
    the task has none or has more than `MAX_CONFUSION_CLASSES` classes. `logits` [examples, outputs] and
    `labels` [examples, …] are of every example in its order, None where they were not kept.
    """

    scalars: dict[str, float]
    per_class: dict[str, np.ndarray]
    confusion: np.ndarray | None
    logits: np.ndarray | None = None
    labels: np.ndarray | None = None


def confusion_sums(
    predicted: Int[Array, " batch"],
    actual: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    num_classes: int,
) -> Sums:
    """Return the counts behind recall, precision and F1: a matrix [true, predicted], or only its margins.

    The margins (hits, true and predicted counts a class) are for more than `MAX_CONFUSION_CLASSES` classes.
    """
    weight = mask.astype(jnp.int32)
    if num_classes <= MAX_CONFUSION_CLASSES:
        matrix = jnp.zeros((num_classes, num_classes), jnp.int32).at[actual, predicted].add(weight)
        return {"confusion": matrix}
    zeros = jnp.zeros((num_classes,), jnp.int32)
    hits = weight * (predicted == actual)
    return {
        "class_hits": zeros.at[actual].add(hits),
        "class_actual": zeros.at[actual].add(weight),
        "class_predicted": zeros.at[predicted].add(weight),
    }


def class_margins(sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (hits, actual, predicted) [C] from what `confusion_sums` gave."""
    if "confusion" in sums:
        matrix = sums["confusion"]
        return np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    return sums["class_hits"], sums["class_actual"], sums["class_predicted"]


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """Return numerator / denominator with nan where there is nothing to divide by.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    result = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) != 0)


def f1_scores(hits: ArrayLike, actual: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """Return F1 a class [C]: 2 hits / (actual + predicted); nan for a class neither present nor predicted.

    >>> f1_scores(np.array([1]), np.array([2]), np.array([1])).round(3)
    array([0.667])
    """
    return ratio(2.0 * np.asarray(hits), np.add(actual, predicted))


def merge(totals: Totals | None, sums: Mapping[str, ArrayLike]) -> Totals:
    """Add sums, of one batch or some of them, to the totals on the host, in int64 or float64.

    >>> merge({"count": np.array(2), "loss": np.array(0.5)}, {"count": np.array(1, np.int32)})
    {'count': array(3), 'loss': array(0.5)}
    """
    found: Totals = dict(totals or {})
    for name, value in sums.items():
        value = np.asarray(value)
        wide = value.astype(np.int64 if value.dtype.kind in "iu" else np.float64)
        found[name] = np.asarray(found[name] + wide) if name in found else wide
    return found


def divided(sums: Sums) -> tuple[Sums, Sums]:
    """Return the sums that are whole numbers, which are exact in any order, and the others."""
    whole = {name for name, value in sums.items() if jnp.issubdtype(value.dtype, jnp.integer)}
    return (
        {name: value for name, value in sums.items() if name in whole},
        {name: value for name, value in sums.items() if name not in whole},
    )
