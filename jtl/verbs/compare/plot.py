"""A comparison as a picture: every run as a point, its variant's mean as a bar, and the gains beside them."""

from pathlib import Path
from typing import Any

from jtl.report import fonts
from jtl.verbs.compare.tables import Comparison, references

INCHES_A_VARIANT = 0.55


def plot(found: Comparison, path: Path) -> None:
    """Write the picture as a PNG."""
    draw(found).savefig(path)


def draw(found: Comparison) -> Any:
    """Return the matplotlib figure: a row a variant; runs of the same seed or fold are joined by a line.

    Beside it, the gain over each reference with its interval (a bare point of a single pair).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(found.spreads)
    refs = list(references(found.setup.roles, labels).items())
    height = 1.6 + INCHES_A_VARIANT * len(labels)
    figure = Figure(figsize=(5.2 + 2.6 * len(refs), height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        1, 1 + len(refs), sharey=True, squeeze=False, width_ratios=[2.0, *(1.0 for _ in refs)]
    )
    _draw_runs(axes[0, 0], found, labels)
    for axis, (role, reference) in zip(axes[0, 1:], refs, strict=True):
        _draw_gains(axis, found, labels, reference)
        name = fonts.drawable(reference, labels.index(reference))
        title = f"gain over {name}\n({role})" if role != reference else name
        axis.set_title(title, fontsize="small", parse_math=False, fontfamily=list(fonts.families()))
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    for axis in axes[0]:
        axis.grid(axis="x", alpha=0.3)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure


def _draw_runs(axis: Any, found: Comparison, labels: list[str]) -> None:
    places = {label: place for place, label in enumerate(labels)}
    by_number: dict[int, list[tuple[float, int]]] = {}
    for each in found.outcomes:
        if found.column in each.values:
            by_number.setdefault(each.number, []).append((each.values[found.column], places[each.variant]))
    for number, points in sorted(by_number.items()):
        values, rows = zip(*sorted(points, key=lambda point: point[1]), strict=True)
        label = f"{found.setup.unit} {number}" if len(by_number) <= 5 else None
        axis.plot(values, rows, color="0.75", linewidth=0.8, zorder=1)
        axis.plot(values, rows, "o", color=f"C{number % 10}", markersize=5, alpha=0.8, label=label, zorder=3)
    for label in labels:
        if found.column in found.spreads[label]:
            mean = found.spreads[label][found.column].mean
            axis.plot([mean, mean], [places[label] - 0.3, places[label] + 0.3], color="black", zorder=2)
    texts = [fonts.drawable(label, place) for place, label in enumerate(labels)]
    axis.set_yticks(range(len(labels)), texts, parse_math=False, fontfamily=list(fonts.families()))
    axis.locator_params(axis="x", nbins=6)
    axis.set_xlabel(f"{found.setup.metric} ({found.column}); bar: mean", fontsize="small")
    if 1 < len(by_number) <= 5:
        axis.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(by_number), fontsize="small", frameon=False
        )


def _draw_gains(axis: Any, found: Comparison, labels: list[str], reference: str) -> None:
    axis.axvline(0.0, color="0.4", linewidth=1.0)
    for place, label in enumerate(labels):
        each = found.gains[label].get(reference)
        if each is None:
            continue
        axis.plot([each.mean], [place], "D", color="black", markersize=4)
        if each.low is not None:
            axis.plot([each.low, each.high], [place, place], color="black", linewidth=1.2)
    axis.locator_params(axis="x", nbins=3)
    axis.set_xlabel("positive is better", fontsize="small")
