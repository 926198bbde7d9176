"""An evaluation as files and people have it: its numbers with intervals, classes, confusions, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.metrics import Summary
from jtl.report.bootstrap import Interval, Settings
from jtl.report.calibration import NUM_BINS
from jtl.report.scores import Scores
from jtl.report.tables import aligned

# Up to here metrics.json has the whole confusion matrix.
MAX_MATRIX = 100
MAX_CONFUSIONS = 20


def with_scores(found: Summary, scores: Scores) -> Summary:
    """Return the task's numbers, as they are, with those of every example behind them."""
    scalars = {name: float(each.value) for name, each in scores.scalars.items()}
    per_class = {name: each.value for name, each in scores.per_class.items()}
    # The count of examples stays last.
    own = dict(found.per_class)
    last = {name: own.pop(name) for name in ("count",) if name in own}
    return found._replace(
        scalars={
            **found.scalars,
            **{name: each for name, each in scalars.items() if name not in found.scalars},
        },
        per_class={**own, **{name: each for name, each in per_class.items() if name not in own}, **last},
    )


def as_json(scores: Scores, settings: Settings) -> dict[str, Any]:
    """Return what metrics.json has of it: `scores` by name as value, low and high, and how they were made."""
    found: dict[str, Any] = {
        "scores": {name: _row(each) for name, each in scores.scalars.items()},
        "scores_per_class": {name: each._asdict() for name, each in scores.per_class.items()},
        "intervals": {
            "method": "percentile bootstrap over the examples",
            "level": settings.level,
            "resamples": settings.resamples,
            "seed": settings.seed,
        },
        "remarks": scores.notes,
    }
    if scores.reliability:
        found["calibration"] = {"bins": NUM_BINS, "reliability": scores.reliability}
    if scores.points:
        found["operating_points"] = scores.points
    return found


def confusions(matrix: np.ndarray | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the largest confusions of a matrix [true, predicted], and of few classes the matrix itself.

    >>> confusions(np.array([[5, 1], [2, 2]]), ("ant", "bee"))["confusions"][0]
    {'true': 'bee', 'predicted': 'ant', 'count': 2, 'share': 0.5}
    """
    if matrix is None:
        return {}
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    places = [np.unravel_index(place, wrong.shape) for place in order.tolist() if wrong.flat[place]]
    largest = [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(wrong[true, predicted]),
            "share": float(wrong[true, predicted] / matrix[true].sum()),
        }
        for true, predicted in places
    ]
    return {"confusions": largest} | ({"confusion": matrix.tolist()} if len(matrix) <= MAX_MATRIX else {})


def bounds(scores: Scores) -> dict[str, tuple[float, float]]:
    """Return low and high of each number of all classes together."""
    return {name: (float(each.low), float(each.high)) for name, each in scores.scalars.items()}


def points_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Return operating points as a table, a class a row."""
    names = [name for name in rows[0] if name != "class"]
    lines = [[row["class"], *(_cell(row[name]) for name in names)] for row in rows]
    return aligned([["class", *names], *lines], left=(0,), width=width)


def _row(each: Interval) -> dict[str, float]:
    return {name: float(value) for name, value in each._asdict().items()}


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
