"""What a run knows of its own evaluations: the best step and when to stop, as pure functions of the history.

The history, a list of {"step": …, metric name: value}, is saved in every checkpoint; nothing else is
remembered.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

History = list[dict[str, Any]]


def best(
    history: Sequence[Mapping[str, Any]], metric: str, *, is_maximized: bool
) -> Mapping[str, Any] | None:
    """Return the entry with the best value of `metric`, or None without any.

    Small validation sets give many equal values: of those the lowest loss is best, then the earliest. Where
    none has a value, the last is returned.

    >>> best([{"step": 5, "accuracy": 0.8}, {"step": 10, "accuracy": 0.8}], "accuracy", is_maximized=True)
    {'step': 5, 'accuracy': 0.8}
    """
    ordered = ranked(history, metric, is_maximized=is_maximized)
    if ordered and math.isnan(ordered[0].get(metric, math.nan)):
        return history[-1]
    return ordered[0] if ordered else None


def ranked(
    history: Sequence[Mapping[str, Any]], metric: str, *, is_maximized: bool
) -> list[Mapping[str, Any]]:
    """Return the entries from best to worst, by the rule of `best`; those without a value come last.

    >>> entries = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]
    >>> [entry["step"] for entry in ranked(entries, "loss", is_maximized=False)]
    [2, 1]
    """

    def place(entry: Mapping[str, Any]) -> tuple[float, ...]:
        value = _gain(entry.get(metric, math.nan), is_maximized)
        missing = math.isnan(value)
        return (missing, 0.0 if missing else -value, entry.get("loss", 0.0), entry["step"])

    return sorted(history, key=place)


def is_exhausted(
    history: Sequence[Mapping[str, Any]], metric: str, *, is_maximized: bool, patience: int, min_gain: float
) -> bool:
    """Return whether the last `patience` evaluations (0: never) brought no gain above `min_gain`.

    An evaluation in which the metric has no value (nan) says nothing, and does not count.

    >>> entries = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.6}, {"step": 3, "loss": 0.7}]
    >>> is_exhausted(entries, "loss", is_maximized=False, patience=2, min_gain=0.0)
    True
    """
    if patience == 0:
        return False
    reference, since = -math.inf, 0
    for entry in history:
        gain = _gain(entry.get(metric, math.nan), is_maximized)
        if math.isnan(gain):
            continue
        if gain > reference + min_gain:
            reference, since = gain, 0
        else:
            since += 1
    return since >= patience


def _gain(value: float, is_maximized: bool) -> float:
    return value if is_maximized else -value
