"""The parts of a run's page about the examples of a split: classes, confusions, calibration, pictures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.errors import counted
from jtl.report import charts
from jtl.report.folder import Split
from jtl.report.html import Markup, Part, element
from jtl.report.sections import card, number, table, words

MAX_CLASSES = 60
MAX_CELLS = 24
BASE64 = re.compile(r"[A-Za-z0-9+/=]+")
TITLES = {"mistakes": "The mistakes it is surest of", "random": "Taken by chance"}


def classes(split: Split, data: Mapping[str, Any]) -> Markup | None:
    """Return a row a class, the worst first, with intervals in small print."""
    del data
    names = [str(name) for name in split.metrics.get("label_names") or ()]
    own = split.metrics.get("per_class") or {}
    more = split.metrics.get("scores_per_class") or {}
    columns = [*(name for name in own if name != "count"), *(name for name in more if name not in own)]
    if not names or not columns:
        return None
    values = {name: own[name] if name in own else more[name]["value"] for name in columns}
    first = values[columns[0]]
    order = sorted(range(len(names)), key=lambda place: (first[place] is None, first[place] or 0.0))
    counts = own.get("count")
    rows: list[list[Part]] = []
    for place in order[:MAX_CLASSES]:
        cells: list[Part] = [names[place]]
        for name in columns:
            bounds = more.get(name)
            low = bounds["low"][place] if bounds else None
            small = None
            if bounds and low is not None:
                small = element("small", f"{number(low, 2)} to {number(bounds['high'][place], 2)}")
            cells.append(element("span", number(values[name][place], 3), " ", small, class_="cell"))
        rows.append([*cells, *([number(counts[place])] if counts else [])])
    note = f"the {MAX_CLASSES} worst of {len(names):,}" if len(names) > MAX_CLASSES else None
    header = ["class", *map(words, columns), *(["count"] if counts else [])]
    return card(
        "Classes, the worst first", table(header, rows), element("p", note, class_="note") if note else None
    )


def points(split: Split) -> Markup | None:
    """Return the operating points."""
    found = split.metrics.get("operating_points") or []
    if not found:
        return None
    names = [name for name in found[0] if name != "class"]
    rows = [[str(row["class"]), *(number(row[name]) for name in names)] for row in found[:MAX_CLASSES]]
    return card("Operating points", table(["class", *map(words, names)], rows))


def confusions(split: Split) -> Markup | None:
    """Return the largest confusions, and of few classes the matrix."""
    largest = split.metrics.get("confusions") or []
    matrix = split.metrics.get("confusion") or []
    names = [str(name) for name in split.metrics.get("label_names") or ()]
    if not largest and not matrix:
        return None
    parts: list[Part] = []
    if matrix and len(matrix) <= MAX_CELLS:
        parts.append(_matrix(matrix, names))
    rows = [
        [str(row["true"]), "→", str(row["predicted"]), number(row["count"]), f"{row['share']:.1%}"]
        for row in largest
    ]
    if rows:
        parts.append(table(["true", "", "taken for", "times", "share"], rows, left=(0, 1, 2)))
    else:
        parts.append(element("p", "no example was taken for another class", class_="note"))
    return card("Confusions, the largest first", element("div", *parts, class_="charts"))


def calibration(split: Split) -> Markup | None:
    """Return the reliability diagram."""
    rows = (split.metrics.get("calibration") or {}).get("reliability") or []
    if not rows:
        return None
    error = (split.metrics.get("scores") or {}).get("expected_calibration_error") or {}
    text = (
        f"Of the examples predicted with a confidence, the share that is right; on the diagonal it is what "
        f"it says. Expected calibration error {number(error.get('value'))} in "
        f"{split.metrics['calibration']['bins']} bins ({number(error.get('low'))} to "
        f"{number(error.get('high'))}; few examples make it too large). Darker bars have more examples."
    )
    chart = element("div", charts.reliability(rows), class_="chart")
    return card("Calibration", element("div", chart, element("p", text, class_="note"), class_="charts"))


def gallery(split: Split, why: str, facts: Mapping[str, Any]) -> Markup | None:
    """Return the examples that were chosen for a reason, as pictures or texts, with what was explained."""
    found = [item for item in split.gallery if item.get("why") == why]
    if not found:
        return None
    is_pictures = any(item.get("picture") for item in found)
    shown = [_item(item) for item in found]
    kind = "gallery" if is_pictures else "gallery texts"
    title = f"{TITLES.get(why, why)}: {counted(len(found), str(facts.get('unit', 'examples')))}"
    return card(title, _legend(found, facts), element("div", *shown, class_=kind))


def _legend(items: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Markup | None:
    """Return what is to be known of the overlays, None where there are none."""
    method = str(facts.get("explained") or "")
    if not method or not any(item.get("overlay") or item.get("tokens") for item in items):
        return None
    where = (
        "light is where it mattered" if any(item.get("overlay") for item in items) else "darker matters more"
    )
    return element("p", f"Beside some: what the prediction hangs on ({method}); {where}.", class_="note")


def _item(item: Mapping[str, Any]) -> Markup:
    is_right = bool(item.get("is_right"))
    name = str(item.get("name", ""))
    said = element(
        "figcaption",
        element("b", str(item.get("predicted", "")), class_="right" if is_right else "wrong"),
        None if is_right else element("span", ", really ", element("b", str(item.get("label", "")))),
        element("small", str(item.get("detail", ""))),
        element("small", name.rsplit("/", 1)[-1], title=name, class_="file"),
    )
    pictures = [_picture(str(item.get(key) or ""), name) for key in ("picture", "overlay")]
    is_pair = all(pictures)
    text = element("blockquote", str(item["text"]), dir="auto") if item.get("text") else None
    shown = element("div", *pictures, class_="pair" if is_pair else None)
    return element("figure", shown, text, _tokens(item), said, class_="explained" if is_pair else None)


def _tokens(item: Mapping[str, Any]) -> Markup | None:
    """Return the tokens of a text, each on the colour of its share."""
    found = [token for token in item.get("tokens") or () if isinstance(token, list) and len(token) == 2]
    if not found:
        return None
    spans = [
        element(
            "span", str(text), class_="for" if share >= 0 else "against", style=f"--share:{abs(share):.3f}"
        )
        for text, share in found
        if isinstance(share, int | float)
    ]
    spaced = [part for span in spans for part in (span, " ")]
    return element("p", *spaced, class_="tokens", dir="auto")


def _picture(encoded: str, name: str) -> Markup | None:
    """Return a small JPEG; whatever is none in base64 is left out."""
    if not encoded or not BASE64.fullmatch(encoded):
        return None
    return element("img", src=f"data:image/jpeg;base64,{encoded}", alt=name, loading="lazy")


def _matrix(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    header = element("tr", element("th", "true"), *(element("th", name, class_="turned") for name in names))
    rows = []
    for true, row in enumerate(matrix):
        total = sum(row) or 1
        cells = [
            element(
                "td",
                number(count) if count else "",
                class_="hit" if true == place else "miss",
                style=f"--share:{(count / total) ** 0.5:.3f}",
                title=f"{names[true]} taken for {names[place]}: {count:,} ({count / total:.1%})",
            )
            for place, count in enumerate(row)
        ]
        rows.append(element("tr", element("th", names[true]), *cells))
    whole = element("table", element("thead", header), element("tbody", *rows), class_="matrix")
    return element("div", whole, class_="scroll", tabindex="0")
