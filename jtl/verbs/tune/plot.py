"""A search as a picture: how trials went, what mattered, and which values the good ones have in common."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = "viridis"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture as a PNG; nothing where no trial is whole."""
    whole = [row for row in result["trials"] if row["value"] is not None]
    if not whole:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 7.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[1.0, 1.2])
    _draw_trials(figure.add_subplot(grid[0, 0]), result)
    _draw_importance(figure.add_subplot(grid[0, 1]), result["importance"])
    _draw_parallel(figure, figure.add_subplot(grid[1, :]), whole, result)
    figure.savefig(path)


def _draw_trials(axis: Any, result: Mapping[str, Any]) -> None:
    """Draw every evaluation of every trial; those given up end early."""
    for row in result["trials"]:
        places = range(1, len(row["measured"]) + 1)
        is_whole = row["value"] is not None
        colour, width = ("C0", 1.2) if is_whole else ("0.6", 0.8)
        axis.plot(places, row["measured"], color=colour, linewidth=width, alpha=0.7)
        axis.plot(places[-1:], row["measured"][-1:], "o" if is_whole else "x", color=colour, markersize=4)
    best = result["best"]
    axis.plot(range(1, len(best["measured"]) + 1), best["measured"], color="C1", linewidth=2.0)
    axis.set_xlabel("evaluation (grey: given up; orange: the best)", fontsize="small")
    axis.set_ylabel(result["metric"], fontsize="small")
    axis.xaxis.get_major_locator().set_params(integer=True)
    _plain(axis)


def _draw_importance(axis: Any, importance: Mapping[str, float]) -> None:
    names = list(importance)
    axis.barh(range(len(names)), [importance[name] for name in names], color="C0", height=0.6)
    axis.set_yticks(range(len(names)), names, fontsize="small")
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axis.set_xlabel(
        "share of the spread it explains" if names else "too few whole trials to say what matters",
        fontsize="small",
    )
    _plain(axis)


def _draw_parallel(
    figure: Any, axis: Any, whole: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> None:
    """Draw a line a whole trial through its values, each between the least and the most that were tried."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    names = list(whole[0]["values"])
    ticks = [_scaled([row["values"][name] for row in whole]) for name in names]
    results = [row["value"] for row in whole]
    norm = Normalize(min(results), max(results))
    sign = 1 if result["is_maximized"] else -1
    for place in sorted(range(len(whole)), key=lambda place: sign * results[place]):
        heights = [
            *(scaled[place] for scaled, _ in ticks),
            norm(results[place]) if norm.vmin != norm.vmax else 0.5,
        ]
        axis.plot(range(len(names) + 1), heights, color=colormaps[COLOURS](norm(results[place])), alpha=0.8)
    for column, (_, ends) in enumerate([*ticks, ([], (f"{norm.vmin:.4g}", f"{norm.vmax:.4g}"))]):
        axis.axvline(column, color="0.5", linewidth=0.8)
        axis.text(column, -0.03, ends[0], ha="center", va="top", fontsize="x-small")
        axis.text(column, 1.03, ends[1], ha="center", va="bottom", fontsize="x-small")
    axis.set_xticks(range(len(names) + 1), [*names, result["metric"]], fontsize="small")
    axis.tick_params(axis="x", length=0, pad=14)
    axis.set_yticks([])
    axis.set_ylim(-0.02, 1.02)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)


def _scaled(values: Sequence[float | str]) -> tuple[list[float], tuple[str, str]]:
    """Return values as heights from 0 to 1, in the logarithm where they span a factor of ten, and both ends.

    >>> _scaled([1e-4, 1e-3, 1e-2])
    ([0.0, 0.5, 1.0], ('0.0001', '0.01'))
    >>> _scaled(["a", "b", "a"])
    ([0.0, 1.0, 0.0], ('a', 'b'))
    """
    if any(isinstance(value, str) for value in values):
        known = sorted({str(value) for value in values}, key=lambda value: (len(value), value))
        heights, ends = [float(known.index(str(value))) for value in values], (known[0], known[-1])
    else:
        heights = [float(value) for value in values]
        ends = (f"{min(heights):.3g}", f"{max(heights):.3g}")
        if min(heights) > 0 and max(heights) / min(heights) >= 10:
            heights = [math.log10(value) for value in heights]
    low, high = min(heights), max(heights)
    return [round((each - low) / (high - low), 6) if high > low else 0.5 for each in heights], ends


def _plain(axis: Any) -> None:
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
