"""A sweep of the learning rate as a picture: each loss, the moving average, and the rate it speaks for."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jtl.verbs.lr_find.sweep import Suggestion, Sweep


def plot(sweep: "Sweep", found: "Suggestion", path: Path) -> None:
    """Write the picture as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jtl.verbs.lr_find.sweep import smoothed

    figure = Figure(figsize=(7.0, 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    means = smoothed(sweep.losses)
    axis.plot(sweep.rates, sweep.losses, ".", color="0.7", markersize=4, label="of a step")
    axis.plot(sweep.rates, means, color="C0", label="moving average")
    axis.axvline(found.learning_rate, color="C1", label=f"suggested: {found.learning_rate:g}")
    axis.axvline(found.least, color="0.5", linestyle=":", label=f"least: {found.least:.2g}")
    axis.set_xscale("log")
    # A loss that has left for good would hide all the others.
    top = max(means[: means.index(min(means)) + 1])
    axis.set_ylim(min(*sweep.losses, *means), top + 0.5 * (top - min(means)))
    axis.set_xlabel("learning rate", fontsize="small")
    axis.set_ylabel("training loss", fontsize="small")
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize="small", frameon=False)
    figure.savefig(path)
