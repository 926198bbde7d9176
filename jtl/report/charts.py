"""Charts as inline SVG: lines over steps, a reliability diagram, bars. Colours are the style sheet's.

Lengths are in units of the drawing, which is as wide as its column on the page.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.report.curves import Series, smoothed
from jtl.report.html import Markup, element, together

WIDTH, HEIGHT = 440.0, 256.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 34.0
NUM_COLOURS = 8
MAX_POINTS = 240
SMOOTHING = 0.02


def lines(series: Series, *, label: str, is_share: bool = False) -> Markup:
    """Return a chart of (step, value) lines by name, and its legend; long ones have their spread behind."""
    points = [point for each in series.values() for point in each]
    x_low, x_high = _span([x for x, _ in points], 0.0)
    y_low, y_high = _span([y for _, y in points], 0.04)
    if is_share:
        y_low, y_high = max(0.0, y_low), min(1.0, y_high)
    frame = _Frame((x_low, x_high), (y_low, y_high))
    drawn: list[Markup] = [frame.axes(label)]
    for index, (name, found) in enumerate(series.items()):
        colour = f"c{index % NUM_COLOURS}"
        steps, values = (np.array(each, np.float64) for each in zip(*found, strict=True))
        if len(found) > MAX_POINTS:
            drawn.append(frame.line(*_thinned(steps, values), f"{colour} raw"))
            values = smoothed(values.tolist(), max(2, round(SMOOTHING * len(values))))
            steps, values = _thinned(steps, values)
        drawn.append(frame.line(steps, values, colour))
        if len(steps) <= 40:
            drawn += [frame.dot(x, y, colour, f"{name}: {y:.4g} at step {x:,.0f}") for x, y in found]
    return together(_svg(*drawn), legend(list(series)))


def legend(names: Sequence[str]) -> Markup:
    """Return the names with their colours."""
    keys = [
        element("span", element("i", class_=f"key c{index % NUM_COLOURS}"), name)
        for index, name in enumerate(names)
    ]
    return element("p", *keys, class_="legend")


def reliability(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the reliability diagram of bins: accuracy over confidence, as bars, with the diagonal."""
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    most = max(row["count"] for row in rows)
    drawn = [frame.axes("confidence")]
    for row in rows:
        left, right = frame.x(row["from"]), frame.x(row["to"])
        top, base = frame.y(row["accuracy"]), frame.y(0.0)
        told = f"{row['count']:,} examples: confidence {row['confidence']:.3f}, right {row['accuracy']:.3f}"
        drawn.append(
            element(
                "rect",
                element("title", told),
                x=_short(left + 1),
                y=_short(top),
                width=_short(right - left - 2),
                height=_short(max(base - top, 1.0)),
                class_="bar",
                opacity=_short(0.25 + 0.75 * math.sqrt(row["count"] / most)),
            )
        )
        x, y = frame.x(row["confidence"]), frame.y(row["accuracy"])
        drawn.append(_line(x, y, x, frame.y(row["confidence"]), "gap"))
    drawn.append(_line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "diagonal"))
    return _svg(*drawn)


def bars(counts: Mapping[str, float], unit: str = "", limit: int = 40) -> Markup:
    """Return horizontal bars, a name each, of up to `limit` names: the largest, and the smallest behind."""
    order = sorted(counts, key=lambda name: -counts[name])
    kept = order if len(order) <= limit else [*order[: limit // 2], *order[-limit // 2 :]]
    most = max(counts.values(), default=0.0) or 1.0
    rows = [
        element(
            "div",
            element("span", name, class_="name", title=name),
            element("span", element("i", style=f"width:{100 * counts[name] / most:.2f}%"), class_="track"),
            element(
                "span", f"{counts[name]:,.4g}{unit}" if counts[name] % 1 else f"{counts[name]:,.0f}{unit}"
            ),
            class_="row",
        )
        for name in kept
    ]
    note = f"{len(order) - len(kept):,} between them are left out" if len(order) > len(kept) else None
    return element("div", *rows, element("p", note, class_="note") if note else None, class_="bars")


def interval(value: float, low: float, high: float) -> Markup:
    """Return a share between 0 and 1 with its interval, as a small strip."""
    strip = [
        element("i", style=f"left:{100 * low:.1f}%;width:{max(100 * (high - low), 0.5):.1f}%"),
        element("b", style=f"left:{100 * value:.1f}%"),
    ]
    return element("span", *strip, class_="strip", aria_hidden="true")


class _Frame:
    """Where numbers lie in the drawing."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        low, high = self.xs
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.ys
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def axes(self, label: str) -> Markup:
        """Return grid lines with their numbers; `label` says what the horizontal axis shows."""
        drawn: list[Markup] = []
        for value in _ticks(*self.ys, 5):
            y = self.y(value)
            drawn += [_line(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 5, y + 4, _number(value), "end")]
        for value in _ticks(*self.xs, 6):
            drawn.append(_text(self.x(value), HEIGHT - BOTTOM + 15, _number(value), "middle"))
        return together(*drawn, _text(WIDTH - RIGHT, HEIGHT - 1, label, "end"))

    def line(self, xs: np.ndarray, ys: np.ndarray, kind: str) -> Markup:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        return element("polyline", points=places, class_=f"line {kind}")

    def dot(self, x: float, y: float, kind: str, told: str) -> Markup:
        return element(
            "circle",
            element("title", told),
            cx=_short(self.x(x)),
            cy=_short(self.y(y)),
            r="3",
            class_=f"dot {kind}",
        )


def _svg(*drawn: Markup) -> Markup:
    return element("svg", *drawn, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=_short(x1), y1=_short(y1), x2=_short(x2), y2=_short(y2), class_=kind)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return element("text", words, x=_short(x), y=_short(y), text_anchor=anchor)


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers within a range.

    >>> _ticks(0.0, 1.0, 5), _ticks(3, 97, 5)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0])
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    stride = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.ceil(low / stride - 1e-9), math.floor(high / stride + 1e-9)
    return [round(place * stride, 12) for place in range(first, last + 1)]


def _thinned(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most so many points, each the mean of its neighbours: a run may have a million."""
    if len(xs) <= MAX_POINTS:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), MAX_POINTS)
    return np.array([xs[part].mean() for part in parts]), np.array([ys[part].mean() for part in parts])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _short(value: float) -> str:
    return f"{value:.2f}"
