"""A ranking as a picture: what is held out with its intervals, and which layers transfer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.report import fonts

INCHES_A_CANDIDATE = 0.5
NUM_COLOURS = 10


def plot(records: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Write the picture as a PNG."""
    draw(records, metric).savefig(path)


def draw(records: Sequence[Mapping[str, Any]], metric: str) -> Any:
    """Return the matplotlib figure: a row a candidate, best first, and beside it a line over its depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(3.2, 1.4 + INCHES_A_CANDIDATE * len(records))
    figure = Figure(figsize=(10.5, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1.0])
    _draw_held_out(left, records, metric)
    _draw_layers(right, records, metric)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure


def _draw_held_out(axis: Any, records: Sequence[Mapping[str, Any]], metric: str) -> None:
    from jtl.ranking import NEIGHBOURS, PROBE

    for name, offset, mark in ((PROBE, -0.12, "o"), (NEIGHBOURS, 0.12, "s")):
        for row, each in enumerate(records):
            found, colour = each[name], f"C{row % NUM_COLOURS}"
            if found["value"] is None:
                continue
            label = name if row == 0 else None
            axis.plot(
                [found["value"]], [row + offset], mark, color=colour, markersize=6, label=label,
                fillstyle="full" if name == PROBE else "none",
            )  # fmt: skip
            if found["low"] is not None:
                axis.plot([found["low"], found["high"]], [row + offset] * 2, color=colour, linewidth=1.2)
    texts = [fonts.drawable(each["label"], row) for row, each in enumerate(records)]
    axis.set_yticks(range(len(records)), texts, parse_math=False, fontfamily=list(fonts.families()))
    axis.set_ylim(len(records) - 0.5, -0.5)
    axis.set_xlabel(f"{metric} on held-out examples, 95 % interval", fontsize="small")
    axis.legend(fontsize="small", frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)


def _draw_layers(axis: Any, records: Sequence[Mapping[str, Any]], metric: str) -> None:
    for row, each in enumerate(records):
        values = list(each["layers"].values())
        depths = [place / max(len(values) - 1, 1) for place in range(len(values))]
        colour = f"C{row % NUM_COLOURS}"
        axis.plot(depths, values, color=colour, linewidth=1.4)
        best = list(each["layers"]).index(each["best_layer"]["name"])
        axis.plot([depths[best]], [values[best]], "D", color=colour, markersize=5)
    axis.set_xlabel("layer, from the input (0) to the head (1); diamond: the best", fontsize="small")
    axis.set_ylabel(f"{metric} of a ridge probe", fontsize="small")
