"""The confusion matrix as a picture: true classes down, predicted across, coloured by share of the true class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MAX_COUNTED = 20
MAX_LABELS = 50
MAX_LABEL_LETTERS = 24
INCHES_A_CLASS = 0.42
MIN_INCHES, MAX_INCHES = 3.2, 12.0


def plot(matrix: Int[np.ndarray, "classes classes"], label_names: Sequence[str], path: Path) -> None:
    """Write a PNG of counts [true, predicted].

    Counts stand in the cells of up to 20 classes. Of more than 50 classes only every so many-th has its name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_classes = len(matrix)
    assert len(label_names) == num_classes, f"{len(label_names)} names for {num_classes} classes"
    shares = row_shares(matrix)
    side = float(np.clip(INCHES_A_CLASS * num_classes, MIN_INCHES, MAX_INCHES))
    figure = Figure(figsize=(side + 2.2, side + 1.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=30)
    bar.set_label("share of the true class")
    _name_classes(axis, label_names, side)
    if num_classes <= MAX_COUNTED:
        _write_counts(axis, matrix, shares)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    total = int(matrix.sum())
    correct = int(np.trace(matrix))
    axis.set_title(f"{correct:,} of {total:,} right", fontsize="medium")
    figure.savefig(path)


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


def _name_classes(axis: Any, label_names: Sequence[str], side: float) -> None:
    shown = range(0, len(label_names), label_stride(len(label_names)))
    names = [_shortened(label_names[index]) for index in shown]
    # As tall as the room between two names, in points, within what reads as text.
    size = float(np.clip(0.75 * 72 * side / len(names), 5.0, 9.0))
    is_narrow = max(len(name) for name in names) * size * 0.65 > 72 * side / len(names)
    axis.set_xticks(list(shown), names, fontsize=size, rotation=90 if is_narrow else 0)
    axis.set_yticks(list(shown), names, fontsize=size)


def _write_counts(axis: Any, matrix: np.ndarray, shares: np.ndarray) -> None:
    longest = len(f"{int(matrix.max()):,}")
    size = float(np.clip(72 * INCHES_A_CLASS * 0.95 / (0.62 * longest), 4.0, 9.0))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axis.text(column, row, f"{int(count):,}", ha="center", va="center", fontsize=size, color=color)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LABEL_LETTERS else f"{name[: MAX_LABEL_LETTERS - 1]}…"
