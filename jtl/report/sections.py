"""The parts of a run's page that are about the run as a whole, from top to bottom."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.report import charts
from jtl.report import curves as curve_panels
from jtl.report.console import duration
from jtl.report.folder import Folder
from jtl.report.html import Markup, Part, element

# What people call the numbers, and which come first.
WORDS = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mean_average_precision": "mean average precision",
    "expected_calibration_error": "calibration error",
    "exact_match": "exact match",
    "loss": "loss",
    "mean_absolute_error": "mean absolute error",
    "root_mean_squared_error": "root mean squared error",
    "mean_squared_error": "mean squared error",
    "r2": "R²",
    "spearman": "Spearman",
    "f1": "F1",
}
# May be larger than 1, and are no shares where they are not.
UNBOUNDED = ("loss", "mean_absolute_error", "root_mean_squared_error", "mean_squared_error")
TILES = ("accuracy", "mean_average_precision", "r2", "macro_f1", "auroc", "mean_absolute_error", "spearman")
MAX_TILES = 3
PHASES = {
    "load": "loading data and weights",
    "compile": "compiling",
    "step": "training steps",
    "data_wait": "waiting for data",
    "evaluate": "evaluation",
    "checkpoint": "checkpoints",
    "explain": "explanations",
}


def words(name: str) -> str:
    """Return what people call a number.

    >>> words("macro_f1"), words("macro_f1_chosen")
    ('macro F1', 'macro F1, chosen thresholds')
    """
    if name.endswith("_chosen"):
        return f"{words(name.removesuffix('_chosen'))}, chosen thresholds"
    return WORDS.get(name, name.replace("_", " "))


def number(value: Any, digits: int = 4) -> str:
    """Return a number for people, "-" of none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.{digits}f}"
        if abs(value) < 1e4
        else f"{value:,.4g}"
    )


def table(header: Sequence[Part], rows: Sequence[Sequence[Part]], *, left: Sequence[int] = (0,)) -> Markup:
    """Return a table that scrolls sideways on a narrow screen; columns not in `left` are numbers."""

    def row(tag: str, cells: Sequence[Part]) -> Markup:
        made = [
            element(tag, each, class_=None if place in left else "number") for place, each in enumerate(cells)
        ]
        return element("tr", *made)

    body = [row("td", cells) for cells in rows]
    whole = element("table", element("thead", row("th", header)), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0")


def card(title: str, *parts: Part, wide: bool = True) -> Markup:
    """Return a part of the page with its heading."""
    return element("section", element("h3", title), *parts, class_="card wide" if wide else "card")


def head(found: Folder) -> Markup:
    """Return what was trained on what."""
    config, meta = found.config, found.meta
    status = str(found.summary.get("status", ""))
    lead = [
        element("b", _named(config.get("model"), "name"), " ", _named(config.get("model"), "size")),
        " by ",
        element("b", _named(config.get("strategy"), "name")),
        " from ",
        element("b", source(found)),
        " on ",
        element("b", str(_of(config, "data").get("path") or _of(config, "data").get("name", ""))),
    ]
    badge = element(
        "span", status.replace("_", " "), class_=f"badge {'good' if status == 'finished' else ''}"
    )
    names = meta.get("label_names") or []
    shown = ", ".join(map(str, names[:12])) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "")
    return element(
        "header",
        element("h1", found.name, " ", badge),
        element("p", *lead, class_="lead"),
        element("p", f"{len(names):,} classes: {shown}", class_="note") if names else None,
    )


def source(found: Folder) -> str:
    """Return what the weights it started from are called."""
    named = str(_of(found.summary, "weights").get("source", "none"))
    return "random weights" if named == "none" else named


def tiles(found: Folder) -> Markup:
    """Return the few numbers that say most."""
    made: list[Markup] = []
    for split, each in found.splits.items():
        own = _scores(each.metrics)
        names = [name for name in TILES if name in own][:MAX_TILES]
        for name in names:
            value, low, high = own[name]
            bounds = f"{number(low, 3)} to {number(high, 3)}" if low is not None else "no interval"
            made.append(_tile(f"{words(name)}, {split}", number(value, 3), bounds))
    summary = found.summary
    parameters = _of(summary, "parameters")
    total, trained = parameters.get("total", 0), parameters.get("trainable", 0)
    share = f"{trained / total:.1%} of {_compact(total)}" if total else ""
    made.append(_tile("trained parameters", _compact(trained), share))
    unit = found.facts.get("unit", "examples")
    seconds = sum(_of(summary, "seconds").values())
    steps = f"{number(summary.get('steps', 0))} steps, best {number(_of(summary, 'best').get('step'))}"
    made.append(_tile("took", duration(seconds), steps))
    rate = summary.get("examples_per_second", 0.0)
    waits = f"{summary.get('data_wait_fraction', 0.0):.0%} waiting for data"
    made.append(_tile(f"{unit} a second", number(float(rate), 0 if rate >= 100 else 1), waits))
    return element("div", *made, class_="tiles")


def results(found: Folder) -> Markup | None:
    """Return the numbers of every split with their intervals."""
    parts: list[Markup] = []
    for split, each in found.splits.items():
        own = _scores(each.metrics)
        rows: list[list[Part]] = []
        for name, (value, low, high) in own.items():
            bounds = "" if low is None else f"{number(low)} to {number(high)}"
            strip: Part = ""
            if low is not None and low >= 0.0 and high <= 1.0 and name not in UNBOUNDED:
                strip = charts.interval(value, low, high)
            rows.append([words(name), number(value), bounds, strip])
        count = each.metrics.get("num_examples")
        about = _of(each.metrics, "intervals")
        note = f"{number(count)} {found.facts.get('unit', 'examples')}"
        if about.get("resamples"):
            note += (
                f"; {about['level']:.0%} intervals by {about['method']}, {about['resamples']:,} sets, seed "
                f"{about['seed']}"
            )
        remarks = [element("p", str(line), class_="note") for line in each.metrics.get("remarks", [])]
        header = ["", "value", "interval", ""]
        part = card(
            f"Results on {split}",
            table(header, rows, left=(0, 3)),
            element("p", note, class_="note"),
            *remarks,
            wide=False,
        )
        parts.append(part)
    return element("div", *parts, class_="columns") if parts else None


def curves(found: Folder) -> Markup | None:
    """Return the curves of the run."""
    panels = curve_panels.panels(found.series)
    made = [
        element("div", charts.lines(panel, label="step", is_share=_is_share(panel)), class_="chart")
        for panel in panels
    ]
    return card("Curves", element("div", *made, class_="charts")) if made else None


def data(found: Folder) -> Markup | None:
    """Return what was known of the data before training."""
    splits = found.facts.get("data") or {}
    if not splits:
        return None
    unit = found.facts.get("unit", "examples")
    parts: list[Markup] = []
    for split, each in splits.items():
        counts = each.get("classes") or {}
        inner: list[Part] = [element("h4", f"{split}: {number(each['num_examples'])} {unit}")]
        if counts:
            inner.append(charts.bars(counts))
            few, most = min(counts.values()), max(counts.values())
            inner.append(
                element(
                    "p",
                    f"largest : smallest class {most / few:.1f}" if few else "a class has none",
                    class_="note",
                )
            )
        sizes = {**(each.get("values") or {}), **(each.get("sizes") or {})}
        if sizes:
            rows = [[name, *(f"{value:,.4g}" for value in values)] for name, values in sizes.items()]
            inner.append(table(["", "least", "25 %", "median", "75 %", "most"], rows))
            inner.append(element("p", f"sizes of {number(each.get('num_sized', 0))} {unit}", class_="note"))
        parts.append(element("div", *inner))
    return card(
        "The data before training",
        element("div", *parts, class_="charts"),
        element("p", str(found.facts.get("preprocess", "")), class_="note"),
    )


def model(found: Folder) -> Markup | None:
    """Return what became of the weights, and what of them trains."""
    rows = found.facts.get("freeze") or []
    report = str(found.facts.get("weights") or "")
    if not rows and not report:
        return None
    header = ["group", "parameters", "trains", "", "rate x", "decay", "from step"]
    lines: list[list[Part]] = []
    for row in rows:
        share = row["num_trainable"] / row["num_params"] if row["num_params"] else 0.0
        state = "frozen" if not share else "all" if share == 1 else f"{share:.1%}"
        low, high = row["multipliers"]
        rate = "" if not share else f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        lines.append(
            [
                row["name"],
                number(row["num_params"]),
                state,
                charts.interval(share, 0.0, share) if share else "",
                rate,
                f"{row['weight_decay']:g}" if share else "",
                number(row["start_step"]) if share else "",
            ]
        )
    return card(
        "Weights, and what of them trained",
        element("pre", report) if report else element("p", "from random weights", class_="note"),
        table(header, lines, left=(0, 3)) if lines else None,
    )


def speed(found: Folder) -> Markup | None:
    """Return where the seconds went, and the most memory."""
    seconds = _of(found.summary, "seconds")
    if not seconds:
        return None
    shown = {PHASES.get(name, name): float(value) for name, value in seconds.items()}
    peak = found.summary.get("peak_memory_bytes") or 0
    device = found.meta.get("device", "")
    note = f"most memory {peak / 2**30:.2f} GiB; {device}; seconds are of the process that finished the run"
    return card("Speed and memory", charts.bars(shown, " s"), element("p", note, class_="note"))


def notes(found: Folder) -> Markup | None:
    """Return what was said before and during training."""
    said = found.meta.get("notes") or []
    return card("Notes", element("ul", *(element("li", str(line)) for line in said))) if said else None


def settings(found: Folder) -> Markup:
    """Return the command, the configuration and the versions."""
    versions = found.meta.get("versions") or {}
    text = json.dumps(found.config, indent=2, ensure_ascii=False)
    return card(
        "How to make it again",
        element("pre", str(found.facts["command"])) if found.facts.get("command") else None,
        element("details", element("summary", "configuration"), element("pre", text)),
        element(
            "details",
            element("summary", "versions"),
            table(["", ""], [[str(name), str(value)] for name, value in versions.items()], left=(0, 1)),
        ),
        element("p", f"digest of the parameters {found.summary.get('digest', '')}", class_="note digest"),
    )


def footer(found: Folder) -> Markup:
    """Return what made the page."""
    version = (found.meta.get("versions") or {}).get("jtl", "")
    return element("footer", f"jtl {version} · this page needs nothing but itself")


def scores_of(found: Folder, split: str) -> dict[str, tuple[Any, Any, Any]]:
    """Return value, low and high (None: none) of each number of a split, in the order of `WORDS`."""
    return _scores(found.splits[split].metrics) if split in found.splits else {}


def _scores(metrics: Mapping[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
    found: dict[str, tuple[Any, Any, Any]] = {
        name: (value, None, None) for name, value in _of(metrics, "metrics").items()
    }
    for name, row in _of(metrics, "scores").items():
        found[name] = (row["value"], row["low"], row["high"])
    found = {name: each for name, each in found.items() if each[0] is not None}
    order = [*(name for name in WORDS if name in found), *(name for name in found if name not in WORDS)]
    return {name: found[name] for name in order}


def _tile(name: str, value: str, note: str) -> Markup:
    return element(
        "div",
        element("span", name, class_="name"),
        element("span", value, class_="value"),
        element("span", note, class_="note"),
        class_="tile",
    )


def _is_share(panel: curve_panels.Series) -> bool:
    return all(0.0 <= value <= 1.0 for points in panel.values() for _, value in points)


def _of(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _named(section: Any, name: str) -> str:
    return str(section.get(name, "")) if isinstance(section, Mapping) else ""


def _compact(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}"
