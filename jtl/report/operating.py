"""Operating points: from which score on an example is of a class; chosen on one set, used on another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jtl.metrics import f1_scores, ratio


class Wanted(NamedTuple):
    """What an operating point is to reach: `metric` is "recall" or "precision"."""

    metric: str
    least: float


def thresholds(
    scores: Float[np.ndarray, "n classes"], is_positive: Bool[np.ndarray, "n classes"], wanted: Wanted | None
) -> Float[np.ndarray, " classes"]:
    """Return the score of each class from which an example counts as one of it.

    Of the scores that reach what is wanted the one of the best other metric (recall for precision, precision
    for recall); without a wish, the one of the best F1. nan where there is none: nothing reaches it, or no
    example is of the class. Between two equals the higher is taken.
    """
    return np.array([_threshold(*each, wanted) for each in zip(scores.T, is_positive.T, strict=True)])


def at(
    limits: Float[np.ndarray, " classes"],
    scores: Float[np.ndarray, "n classes"],
    is_positive: Bool[np.ndarray, "n classes"],
) -> Mapping[str, np.ndarray]:
    """Return precision, recall, specificity and F1 a class at those thresholds; nan where there is none."""
    is_taken = scores >= limits[None, :]
    hits, taken = (is_taken & is_positive).sum(0), is_taken.sum(0)
    positives = is_positive.sum(0)
    negatives = len(scores) - positives
    found = {
        "recall": ratio(hits, positives),
        "precision": ratio(hits, taken),
        "specificity": 1.0 - ratio(taken - hits, negatives),
        "f1": f1_scores(hits, positives, taken),
    }
    return {name: np.where(np.isnan(limits), np.nan, values) for name, values in found.items()}


def rows(limits: np.ndarray, found: Mapping[str, np.ndarray], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row a class, for JSON."""
    return [
        {"class": name, "threshold": float(limits[place])}
        | {metric: float(values[place]) for metric, values in found.items()}
        for place, name in enumerate(names)
    ]


def _threshold(scores: np.ndarray, is_positive: np.ndarray, wanted: Wanted | None) -> float:
    from sklearn.metrics import precision_recall_curve

    if not is_positive.any():
        return float("nan")
    precision, recall, limits = precision_recall_curve(is_positive, scores, drop_intermediate=False)
    # The last point, recall 0, belongs to no score.
    precision, recall = precision[:-1], recall[:-1]
    if wanted is None:
        reached, best = (
            np.ones(len(limits), bool),
            np.nan_to_num(ratio(2 * precision * recall, precision + recall)),
        )
    else:
        by_name = {"recall": recall, "precision": precision}
        reached = by_name.pop(wanted.metric) >= wanted.least
        (best,) = by_name.values()
    if not reached.any():
        return float("nan")
    best = np.where(reached, best, -1.0)
    return float(limits[np.flatnonzero(best == best.max())[-1]])
