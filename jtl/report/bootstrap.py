"""Bootstrap intervals: a statistic of weighted examples, of the set as it is and of sets drawn from it.

Efron and Tibshirani 1993, ch. 13 (percentile intervals). A resample is how often each example was drawn,
so one definition with weights [sets, examples] serves the value (all ones) and its interval, and no example
is copied. Shape legend: s sets, n examples.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Weights of a chunk of sets; with what a statistic makes of them a few hundred MB at most.
MAX_CHUNK = 1 << 22

Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Settings(NamedTuple):
    """How intervals are made: the number of sets drawn (0: no intervals), the seed, and what is covered."""

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95


class Interval(NamedTuple):
    """A number of a set of examples, and between what bounds it lies in sets drawn from it.

    All are [] or [classes]; nan where there is no value, such as the recall of a class without examples.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def intervals(statistic: Statistic, num_examples: int, settings: Settings) -> dict[str, Interval]:
    """Return each number that the statistic gives of weights [s, n], as [s] or [s, …], with its interval.

    A number that has no value in some sets has the interval of the others. Equal arguments give equal bits.

    >>> values = np.arange(100.0)
    >>> found = intervals(lambda weights: {"mean": weights @ values / 100}, 100, Settings())["mean"]
    >>> float(found.value), round(float(found.low), 5), round(float(found.high), 5)
    (49.5, 43.81925, 54.9505)
    """
    whole = {name: value[0] for name, value in statistic(np.ones((1, num_examples))).items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in whole}
    random = np.random.default_rng(settings.seed)
    chunk = max(1, MAX_CHUNK // num_examples)
    for start in range(0, settings.resamples, chunk):
        weights = resampled(random, min(chunk, settings.resamples - start), num_examples)
        for name, values in statistic(weights).items():
            drawn[name].append(values)
    tail = (1.0 - settings.level) / 2.0
    found = {}
    for name, value in whole.items():
        none = np.full_like(value, np.nan, dtype=np.float64)
        bounds = _quantiles(np.concatenate(drawn[name]), (tail, 1.0 - tail)) if drawn[name] else (none, none)
        found[name] = Interval(np.asarray(value, np.float64), *bounds)
    return found


def resampled(random: np.random.Generator, num_sets: int, num_examples: int) -> Float[np.ndarray, "s n"]:
    """Return how often each example is in each of so many sets, drawn with replacement, of the same size."""
    rows = random.integers(num_examples, size=(num_sets, num_examples))
    rows += np.arange(num_sets)[:, None] * num_examples
    counts = np.bincount(rows.ravel(), minlength=num_sets * num_examples)
    return counts.reshape(num_sets, num_examples).astype(np.float64)


def _quantiles(values: np.ndarray, shares: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        # Where no set has a value, the interval has none.
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(values, shares, axis=0)
    return np.asarray(low), np.asarray(high)
