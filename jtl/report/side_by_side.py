"""Several runs on one page: which is better by how much, numbers, curves, classes, how they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl.report import charts, folder, gains
from jtl.report.bootstrap import Interval, Settings
from jtl.report.curves import Series
from jtl.report.folder import Folder
from jtl.report.html import Markup, Part, element
from jtl.report.sections import card, number, scores_of, table, words

MAX_CLASSES = 60
SETTINGS = Settings()


def parts(runs: Sequence[Folder]) -> list[Markup]:
    """Return the parts of the page, from top to bottom."""
    found = [_head(runs), _gains(runs), _numbers(runs), _curves(runs), _classes(runs), _differences(runs)]
    return [part for part in found if part]


def _head(runs: Sequence[Folder]) -> Markup:
    return element(
        "header",
        element("h1", f"{len(runs)} runs side by side"),
        element("p", " · ".join(found.name for found in runs), class_="lead"),
    )


def _gains(runs: Sequence[Folder]) -> Markup | None:
    """Return which runs are better: of their comparison over seeds or folds, and over the same examples."""
    made: list[Markup] = []
    compared = folder.comparison(runs)
    if lines := [str(line) for line in compared.get("sentences") or ()]:
        judged = f"{words(str(compared.get('metric', '')))}, {compared.get('column', '')}"
        state = "" if compared.get("status") == "finished" else " (not finished)"
        title = f"Over {compared.get('unit', 'run')}s, by jtl compare: {judged}{state}"
        made += [element("h4", title), *(element("p", line) for line in lines)]
    split = next(iter(runs[0].splits), "")
    if lines := gains_of_examples(runs, split):
        made += [element("h4", f"Over the examples of {split}"), *(element("p", line) for line in lines)]
    return card("Which is better", *made) if made else None


def gains_of_examples(runs: Sequence[Folder], split: str, settings: Settings = SETTINGS) -> list[str]:
    """Return a sentence for each run but the first: by how much it is better on the examples both predicted.

    They are about what the first run is judged by, or accuracy; there are none where runs kept no predictions
    of the same examples, or of no classes.
    """
    told = [gains.read(run.path / split) if split in run.splits else None for run in runs]
    first, *others = told
    monitor = str(runs[0].facts.get("monitor", "")).rpartition("/")[2]
    lines, num_examples = [], 0
    for run, own in zip(runs[1:], others, strict=True):
        found = None if first is None or own is None else gains.over(own, first, settings)
        if found is None or first is None:
            continue
        num_examples = len(first.labels)
        name = monitor if monitor in found else "accuracy"
        lines.append(_sentence(run.name, runs[0].name, words(name), split, found[name]))
    if not lines:
        return []
    how = f"paired bootstrap over the {num_examples:,} examples, {settings.resamples:,} sets"
    return [*lines, f"In brackets: {settings.level:.0%} intervals, {how}; they say nothing of other seeds."]


def _sentence(run: str, reference: str, metric: str, split: str, found: Interval) -> str:
    gain, low, high = (float(value) for value in found)
    interval = f"({low:+.4f} to {high:+.4f})"
    if low <= 0.0 <= high:
        return (
            f"{run} and {reference} cannot be told apart by {metric} on {split}: the gain of {gain:+.4f} "
            f"{interval} may be chance."
        )
    kind = "better" if gain > 0.0 else "worse"
    return f"{run} is {kind} than {reference} by {abs(gain):.4f} of {metric} on {split} {interval}."


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
    note = "intervals are of each run by itself; those of differences, where there are any, stand above"
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
