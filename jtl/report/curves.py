"""A picture of a run: training loss and validation metrics over the steps, from metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.report.writer import reports

LOSSES = ("train/loss", "val/loss", "target/loss")
# What adaptation measures without labels: early values may lie in 0..1, and are no shares all the same.
NATS = ("target/im", "target/entropy", "target/snd")
MAX_POINTS_DRAWN_BARE = 200
SMOOTHING_SPAN = 0.02

Series = dict[str, list[tuple[float, float]]]


def plot(metrics_path: Path, image_path: Path) -> None:
    """Write the picture of a run from its metrics.jsonl."""
    draw(read(metrics_path), image_path, "step")


def draw(series: Series, image_path: Path, label: str) -> None:
    """Write a PNG with panels of losses, of metrics in nats, of those between 0 and 1, and of each other.

    `label` is what the horizontal axis shows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = panels(series)
    height = 3.2 if len(drawn) <= 2 else 2.4
    figure = Figure(figsize=(8.0, height * max(len(drawn), 1)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(len(drawn), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, drawn, strict=False):
        _draw(axis, panel)
    axes[-1].set_xlabel(label)
    figure.savefig(image_path)


def panels(series: Series) -> list[Series]:
    """Return the training loss and the validation metrics grouped by what shares an axis.

    >>> panels({"val/loss": [(1, 2.0)], "val/accuracy": [(1, 0.5)], "val/r2": [(1, -3.0)], "a": [(1, 0)]})
    [{'val/loss': [(1, 2.0)]}, {'val/accuracy': [(1, 0.5)]}, {'val/r2': [(1, -3.0)]}]
    >>> panels({"target/im": [(1, 0.1)], "target/accuracy": [(1, 0.5)]})
    [{'target/im': [(1, 0.1)]}, {'target/accuracy': [(1, 0.5)]}]
    """
    losses = {name: points for name, points in series.items() if name in LOSSES}
    others = {
        name: points
        for name, points in series.items()
        if name.startswith(("val/", "target/")) and name not in (*LOSSES, *NATS)
    }
    nats = {name: points for name, points in series.items() if name in NATS}
    shares = {name: points for name, points in others.items() if all(0 <= value <= 1 for _, value in points)}
    single = [{name: points} for name, points in others.items() if name not in shares]
    return [panel for panel in (losses, nats, shares, *single) if panel]


def read(path: Path) -> Series:
    """Return the finite values of each name as (step, value), in the order of the file."""
    series: Series = {}
    for _, report in reports(path):
        for name, value in report.items():
            if name not in ("step", "time") and value is not None:
                series.setdefault(name, []).append((report["step"], value))
    return series


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of each value and its `window` - 1 predecessors (fewer at the start).

    >>> smoothed([2.0, 4.0, 6.0], 2).tolist()
    [2.0, 3.0, 5.0]
    """
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _draw(axis: Any, panel: Series) -> None:
    for index, (name, points) in enumerate(panel.items()):
        steps, values = zip(*points, strict=True)
        color, is_long = f"C{index}", len(points) > MAX_POINTS_DRAWN_BARE
        if is_long:
            # The raw values stay behind as a shade: their spread is part of what a loss curve says.
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = smoothed(values, max(2, round(SMOOTHING_SPAN * len(points))))
        marker = "o" if len(points) <= 40 else ""
        axis.plot(steps, values, color=color, marker=marker, markersize=3, linewidth=1.5, label=name)
    axis.grid(alpha=0.3)
    # Beside the panel: ten lines' names would cover what they name.
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small", frameon=False)
    axis.margins(x=0.02)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
