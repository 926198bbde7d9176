"""Statistics of a few runs: their spread, and the mean difference of two variants over runs in pairs.

Two runs are a pair where they share the seed (the head's start and the order of the examples) or the fold
(the examples). What they share falls out of the difference, so its interval is narrower than that of two
means.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Spread(NamedTuple):
    """Mean and sample standard deviation (None of one value), extremes and how many."""

    mean: float
    std: float | None
    low: float
    high: float
    num_values: int


class Gain(NamedTuple):
    """By how much one variant is better: the mean over pairs, and its confidence interval (None of one pair).

    `std` is the standard deviation of the differences.
    """

    mean: float
    low: float | None
    high: float | None
    std: float | None
    num_pairs: int


def spread(values: Sequence[float]) -> Spread:
    """Return what a table says of a few values.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, std=1.0, low=1.0, high=3.0, num_values=3)
    """
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values), len(values))


def gain(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    *,
    is_maximized: bool = True,
    shared_fraction: float = 0.0,
) -> Gain | None:
    """Return by how much `ours` is better than `theirs` over the runs both have; None without any.

    The interval is that of the paired t-test: mean ± t(LEVEL, n - 1) s sqrt(1/n + shared). For k folds the
    training sets overlap, which makes the plain interval too narrow: `shared_fraction` is then the share of a
    fold to its training set, 1 / (k - 1) (Nadeau & Bengio 2003, the corrected resampled t-test); 0 for seeds.

    >>> gain({0: 0.9, 1: 0.8, 2: 0.85}, {0: 0.7, 1: 0.6, 3: 0.1})
    Gain(mean=0.2, low=0.2, high=0.2, std=0.0, num_pairs=2)
    """
    from scipy.special import stdtrit

    sign = 1.0 if is_maximized else -1.0
    # Metrics are quotients of counts: what differs below this is the rounding of a subtraction.
    found = [round(sign * (ours[key] - theirs[key]), 12) for key in ours if key in theirs]
    if not found:
        return None
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Gain(mean, None, None, None, 1)
    std = statistics.stdev(found)
    quantile = float(stdtrit(len(found) - 1, 0.5 + LEVEL / 2))
    half = quantile * std * math.sqrt(1 / len(found) + shared_fraction)
    return Gain(mean, mean - half, mean + half, std, len(found))


def verdict(found: Gain) -> str:
    """Return "better" or "worse" where the interval is on one side of 0, "unclear", or "single" of one pair.

    "alike" are differences that are all the same, which small sets of examples give: they have no spread.

    >>> verdict(Gain(0.02, -0.01, 0.05, 0.01, 3)), verdict(Gain(0.02, 0.01, 0.03, 0.01, 3))
    ('unclear', 'better')
    """
    if found.low is None or found.high is None:
        return "single"
    if found.low <= 0.0 <= found.high:
        return "unclear"
    if found.std == 0.0:
        return "alike"
    return "better" if found.low > 0.0 else "worse"
