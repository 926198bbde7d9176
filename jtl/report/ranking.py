"""What hangs on the order of scores alone, for many weightings of the examples at once.

Weights [s, n] are how often each of n examples is in each of s sets (see `bootstrap`); equal scores are one
group. With all weights 1 these are scikit-learn 1.9's `roc_auc_score` and `average_precision_score` and
scipy 1.17's `spearmanr`; those take one set at a time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jtl.metrics import ratio


class Order(NamedTuple):
    """The examples from the lowest score to the highest, and where among them each group of equals begins."""

    rows: np.ndarray
    starts: np.ndarray


def order(scores: Float[np.ndarray, " n"]) -> Order:
    """Return the order of scores."""
    rows = np.argsort(scores, kind="stable")
    ordered = scores[rows]
    return Order(rows, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])))


def auroc(
    found: Order, is_positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "s n"]
) -> Float[np.ndarray, " s"]:
    """Return the share of pairs of a positive and a negative whose scores stand in that order, ties half."""
    positives, negatives = _by_group(found, is_positive, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2.0
    return ratio(np.sum(positives * below, axis=1), positives.sum(1) * negatives.sum(1))


def average_precision(
    found: Order, is_positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "s n"]
) -> Float[np.ndarray, " s"]:
    """Return the mean over the positives of the precision at their score."""
    positives, negatives = _by_group(found, is_positive, weights)
    hits, misses = (np.cumsum(each[:, ::-1], axis=1)[:, ::-1] for each in (positives, negatives))
    precision = np.nan_to_num(ratio(hits, hits + misses))
    return ratio(np.sum(precision * positives, axis=1), positives.sum(1))


def correlation(first: Order, second: Order, weights: Float[np.ndarray, "s n"]) -> Float[np.ndarray, " s"]:
    """Return Spearman's rank correlation, equal values having the mean of their ranks."""
    ranks = [_ranks(each, weights) for each in (first, second)]
    total = weights.sum(1, keepdims=True)
    left, right = (each - np.sum(weights * each, axis=1, keepdims=True) / total for each in ranks)
    spread = np.sum(weights * left**2, axis=1) * np.sum(weights * right**2, axis=1)
    return ratio(np.sum(weights * left * right, axis=1), np.sqrt(spread))


def _by_group(found: Order, is_positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = weights[:, found.rows]
    positives = np.where(is_positive[found.rows][None, :], ordered, 0.0)
    return (
        np.add.reduceat(positives, found.starts, axis=1),
        np.add.reduceat(ordered - positives, found.starts, axis=1),
    )


def _ranks(found: Order, weights: np.ndarray) -> Float[np.ndarray, "s n"]:
    """Return the rank of each example among so many of each."""
    sizes = np.add.reduceat(weights[:, found.rows], found.starts, axis=1)
    means = np.cumsum(sizes, axis=1) - sizes + (sizes + 1.0) / 2.0
    group: Int[np.ndarray, " n"] = np.repeat(
        np.arange(len(found.starts)), np.diff(found.starts, append=len(found.rows))
    )
    ranks = np.empty_like(weights)
    ranks[:, found.rows] = means[:, group]
    return ranks
