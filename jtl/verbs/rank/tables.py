"""A ranking as text: a table of what is held out and what it costs, and one of the scores."""

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "-"
# Shorter ones are told in seconds.
SHORT = 60.0


def tables(records: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return both tables, candidates in their order."""
    from jtl.ranking import NEIGHBOURS, PROBE
    from jtl.report.tables import WHOLE, aligned
    from jtl.verbs.rank.results import METRICS, bounds

    unit = " %" if metric == METRICS["class"] else ""
    columns = ["weights", f"probe{unit}", "behind", f"kNN{unit}", "best layer", "epoch", "memory"]
    rows = [
        [
            each["label"],
            bounds(each[PROBE], metric, ""),
            bounds(each["behind"], metric, "") if place else NONE,
            bounds(each[NEIGHBOURS], metric, ""),
            _layer(each["best_layer"], metric),
            *_cost(each["cost"]),
        ]
        for place, each in enumerate(records)
    ]
    scores = list(records[0]["scores"])
    of_scores = [[each["label"], *(_number(each["scores"][name]) for name in scores)] for each in records]
    parts = [[columns, *rows], [["weights", *scores], *of_scores]]
    return "\n\n".join(aligned(part, left=(0,), width=WHOLE) for part in parts)


def _layer(best: Mapping[str, Any], metric: str) -> str:
    from jtl.verbs.rank.results import bounds

    gain = bounds({**best, "low": None, "high": None}, metric, "")
    return f"{best['name']} +{gain}" if best["value"] else best["name"]


def _cost(cost: Mapping[str, Any] | None) -> tuple[str, str]:
    from jtl.memory import text
    from jtl.report.console import duration

    if cost is None:
        return NONE, NONE
    seconds = cost["epoch_seconds"]
    if seconds is None:
        return NONE, text(cost["memory_bytes"])
    return f"{seconds:.1f} s" if seconds < SHORT else duration(seconds), text(cost["memory_bytes"])


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
