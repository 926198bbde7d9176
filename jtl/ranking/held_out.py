"""Predictions of examples that were held out, and how good they are, with intervals.

Quality is accuracy where labels are classes [n], R² (the mean over targets) where they are numbers [n v].
Shape legend: s sets of a bootstrap, n examples, v target values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jtl.metrics import ratio
from jtl.ranking.contract import Features
from jtl.report import bootstrap
from jtl.report.bootstrap import Interval, Settings


def predictions(
    fitted: Callable[[Any, Any, Any], Any],
    features: Features,
    labels: np.ndarray,
    folds: Int[np.ndarray, " n"],
) -> np.ndarray:
    """Return what is predicted of each example by what was fitted to the other folds."""
    found = np.zeros_like(labels, np.int64 if labels.ndim == 1 else np.float64)
    for fold in np.unique(folds):
        is_held = folds == fold
        found[is_held] = fitted(features[~is_held], labels[~is_held], features[is_held])
    return found


def quality(
    predicted: np.ndarray, labels: np.ndarray, weights: Float[np.ndarray, "s n"]
) -> Float[np.ndarray, " s"]:
    """Return accuracy or R² of the examples, each counted as often as its weight says."""
    total = weights.sum(axis=1)
    if labels.ndim == 1:
        return weights @ (predicted == labels).astype(np.float64) / total
    lost = weights @ (labels - predicted) ** 2
    # Around the mean of each set; of targets that do not vary in it there is no value.
    mean = weights @ labels / total[:, None]
    spread = weights @ labels**2 - total[:, None] * mean**2
    return np.mean(1.0 - ratio(lost, spread), axis=1)


def intervals(
    predicted: Mapping[str, np.ndarray], labels: np.ndarray, settings: Settings, *, reference: str = ""
) -> dict[str, Interval]:
    """Return the quality of each of several predictions of the same examples, with its interval.

    With a `reference`, one of them, it is how much better that one is than each: both are measured on the
    same sets, so that what they share falls out.
    """

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {name: quality(each, labels, weights) for name, each in predicted.items()}
        return {name: found[reference] - each for name, each in found.items()} if reference else found

    return bootstrap.intervals(statistic, len(labels), settings)
