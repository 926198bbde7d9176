"""The confusion matrix as a picture: true classes down, predicted across, shares as colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

MAX_COUNTED = 20
MAX_LABELS = 50
MAX_LABEL_LETTERS = 24
INCHES_A_CLASS = 0.42
MIN_INCHES, MAX_INCHES = 3.2, 12.0
BAR_INCHES = 1.6
POINTS_AN_INCH = 72
LETTER_WIDTH = 0.62


def plot(matrix: Int[np.ndarray, "classes classes"], label_names: Sequence[str], path: Path) -> None:
    """Write the picture of counts [true, predicted] as a PNG."""
    draw(matrix, label_names).savefig(path)


def draw(matrix: Int[np.ndarray, "classes classes"], label_names: Sequence[str]) -> Any:
    """Return the matplotlib figure; up to 20 classes have counts in the cells, at most 50 have names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    num_classes = len(matrix)
    assert len(label_names) == num_classes, f"{len(label_names)} names for {num_classes} classes"
    shares = row_shares(matrix)
    side = float(np.clip(INCHES_A_CLASS * num_classes, MIN_INCHES, MAX_INCHES))
    names = _Names.fitting(label_names, side)
    figsize = (side + names.inches + BAR_INCHES, side + (names.inches if names.is_narrow else 0.0) + 1.0)
    figure = Figure(figsize=figsize, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    # On a linear scale a mistake that one image in twenty makes is as good as white.
    scale = PowerNorm(0.5, vmin=0.0, vmax=1.0)
    image = axis.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=30, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_label("share of the true class")
    # Dollars in names of classes are no formulas, which a fault of would end the report.
    plain = {"fontsize": names.points, "parse_math": False}
    axis.set_xticks(names.places, names.texts, rotation=90 if names.is_narrow else 0, **plain)
    axis.set_yticks(names.places, names.texts, **plain)
    if num_classes <= MAX_COUNTED:
        _write_counts(axis, matrix, shares)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    total, correct = int(matrix.sum()), int(np.trace(matrix))
    axis.set_title(f"{correct:,} of {total:,} right ({correct / max(total, 1):.1%})", fontsize="medium")
    return figure


def row_shares(matrix: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, "classes classes"]:
    """Return counts as shares of their row; a class without examples has a row of zeros.

    >>> row_shares(np.array([[3, 1], [0, 0]])).tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    totals = matrix.sum(axis=1, keepdims=True)
    return matrix / np.maximum(totals, 1)


def label_stride(num_classes: int) -> int:
    """Return how many classes apart named ones are: the least of 1, 2, 5, 10, 20, … that names at most 50.

    >>> label_stride(50), label_stride(51), label_stride(1000)
    (1, 2, 20)
    """
    stride, factors = 1, (2.0, 2.5, 2.0)
    step = 0
    while num_classes / stride > MAX_LABELS:
        stride = round(stride * factors[step % 3])
        step += 1
    return stride


class _Names(NamedTuple):
    """The class names beside the matrix: where, which, how large and long, and whether they stand upright."""

    places: list[int]
    texts: list[str]
    points: float
    inches: float
    is_narrow: bool

    @classmethod
    def fitting(cls, label_names: Sequence[str], side: float) -> "_Names":
        """Choose the names for a matrix that is `side` inches wide."""
        places = list(range(0, len(label_names), label_stride(len(label_names))))
        texts = [_shortened(label_names[index]) for index in places]
        room = POINTS_AN_INCH * side / len(texts)
        points = float(np.clip(0.75 * room, 5.0, 9.0))
        length = max(len(text) for text in texts) * LETTER_WIDTH * points
        return cls(places, texts, points, length / POINTS_AN_INCH, is_narrow=length > 0.9 * room)


def _write_counts(axis: Any, matrix: np.ndarray, shares: np.ndarray) -> None:
    longest = len(f"{int(matrix.max()):,}")
    points = POINTS_AN_INCH * INCHES_A_CLASS * 0.9 / (LETTER_WIDTH * longest)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.4 else "black"
            axis.text(
                column,
                row,
                f"{int(count):,}",
                ha="center",
                va="center",
                fontsize=min(points, 9.0),
                color=color,
            )


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LABEL_LETTERS else f"{name[: MAX_LABEL_LETTERS - 1]}…"
