"""Several runs on one page: their numbers, their curves, their classes, and in what they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl.report import charts
from jtl.report.curves import Series
from jtl.report.folder import Folder
from jtl.report.html import Markup, Part, element
from jtl.report.sections import card, number, scores_of, table, words

MAX_CLASSES = 60


def parts(runs: Sequence[Folder]) -> list[Markup]:
    """Return the parts of the page, from top to bottom."""
    found = [_head(runs), _numbers(runs), _curves(runs), _classes(runs), _differences(runs)]
    return [part for part in found if part]


def _head(runs: Sequence[Folder]) -> Markup:
    return element(
        "header",
        element("h1", f"{len(runs)} runs side by side"),
        element("p", " · ".join(found.name for found in runs), class_="lead"),
    )


def _numbers(runs: Sequence[Folder]) -> Markup:
    rows: list[list[Part]] = []
    names = dict.fromkeys(
        (split, name) for found in runs for split in found.splits for name in scores_of(found, split)
    )
    for split, name in names:
        cells: list[Part] = [f"{words(name)}, {split}"]
        for found in runs:
            value, low, high = scores_of(found, split).get(name, (None, None, None))
            small = None if low is None else element("small", f"{number(low, 3)} to {number(high, 3)}")
            cells.append(element("span", number(value), " ", small, class_="cell"))
        rows.append(cells)
    for name in ("steps", "examples_per_second", "peak_memory_bytes"):
        rows.append([words(name), *(number(found.summary.get(name)) for found in runs)])
    trained = [(found.summary.get("parameters") or {}).get("trainable") for found in runs]
    rows.append(["trained parameters", *map(number, trained)])
    seconds = [float(sum((found.summary.get("seconds") or {}).values())) for found in runs]
    rows.append(["seconds", *(number(value, 0) for value in seconds)])
    note = "intervals are of each run by itself; jtl compare has those of paired differences"
    return card(
        "Numbers", table(["", *(found.name for found in runs)], rows), element("p", note, class_="note")
    )


def _curves(runs: Sequence[Folder]) -> Markup | None:
    names = dict.fromkeys(
        name for found in runs for name in found.series if name.startswith(("val/", "train/loss"))
    )
    made: list[Markup] = []
    for name in names:
        series: Series = {found.name: found.series[name] for found in runs if name in found.series}
        if len(series) < 2:
            continue
        made.append(element("div", element("h4", name), charts.lines(series, label="step"), class_="chart"))
    return card("Curves", element("div", *made, class_="charts")) if made else None


def _classes(runs: Sequence[Folder]) -> Markup | None:
    """Return the first number a class of each run, where all runs have the same classes."""
    split = next(iter(runs[0].splits), "")
    kept = [found.splits[split].metrics for found in runs if split in found.splits]
    names = [str(name) for name in (kept[0].get("label_names") or ())] if kept else []
    if (
        len(kept) < len(runs)
        or not names
        or any(each.get("label_names") != kept[0]["label_names"] for each in kept)
    ):
        return None
    columns = [(each.get("per_class") or {}) for each in kept]
    metric = next((name for name in columns[0] if name != "count"), "")
    if not metric or any(metric not in each for each in columns):
        return None
    rows = [
        [name, *(number(each[metric][place], 3) for each in columns)]
        for place, name in enumerate(names[:MAX_CLASSES])
    ]
    return card(f"{words(metric)} a class, {split}", table(["class", *(found.name for found in runs)], rows))


def _differences(runs: Sequence[Folder]) -> Markup:
    """Return the settings in which the runs differ."""
    flat = [_flat(found.config) for found in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = [
        [name, *(each.get(name, "-") for each in flat)]
        for name in names
        if len({each.get(name) for each in flat}) > 1
    ]
    columns = tuple(range(len(runs) + 1))
    header = ["setting", *(found.name for found in runs)]
    return card(
        "Settings that differ",
        table(header, rows, left=columns) if rows else element("p", "none", class_="note"),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found
