"""Pictures: no label on another, every count in its cell, and the curves of what was measured."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jtl.report import confusion, curves
from jtl.training import adaptation

SIZES = (2, 3, 10, 20, 37, 100, 1000)
SHORT, LONG = "class {}", "a name too long for any axis of any picture {}"
# A thousand classes take seconds to draw; long names are the harder ones.
NAMED = [(SHORT, size) for size in SIZES[:-1]] + [(LONG, size) for size in SIZES]


def matrix(num_classes: int, num_images: int = 100_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = np.zeros((num_classes, num_classes), np.int64)
    actual = rng.integers(0, num_classes, num_images)
    predicted = np.where(rng.random(num_images) < 0.7, actual, rng.integers(0, num_classes, num_images))
    np.add.at(counts, (actual, predicted), 1)
    return counts


def drawn(figure: Any) -> Any:
    figure.canvas.draw()
    return figure.axes[0]


def overlaps(boxes: Sequence[Any]) -> bool:
    return any(first.overlaps(second) for first, second in pairwise(boxes))


@pytest.mark.parametrize(("name", "num_classes"), NAMED)
def test_labels_do_not_overlap_and_stay_in_the_picture(name: str, num_classes: int) -> None:
    figure = confusion.draw(matrix(num_classes), [name.format(index) for index in range(num_classes)])
    axis = drawn(figure)
    assert 2 <= len(axis.get_xticklabels()) <= 50
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not overlaps(boxes)
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)


@pytest.mark.parametrize("num_classes", [2, 10, 20])
def test_counts_fit_their_cells(num_classes: int) -> None:
    figure = confusion.draw(matrix(num_classes, 1_000_000), [str(index) for index in range(num_classes)])
    axis = drawn(figure)
    cell_px = axis.get_window_extent().width / num_classes
    assert len(axis.texts) == num_classes**2
    assert max(text.get_window_extent().width for text in axis.texts) < cell_px


def test_counts_stand_where_they_belong_and_many_classes_have_none() -> None:
    counts = np.array([[5, 0], [2, 1_234]])
    axis = drawn(confusion.draw(counts, ["ants", "bees"]))
    assert {(text.get_position(), text.get_text()) for text in axis.texts} == {
        ((0, 0), "5"),
        ((0, 1), "2"),
        ((1, 1), "1,234"),
    }
    assert axis.get_title() == "1,239 of 1,241 right (99.8%)"
    assert axis.get_ylabel() == "true"
    assert not drawn(confusion.draw(matrix(21), [str(index) for index in range(21)])).texts


@pytest.mark.parametrize("name", ["a$_{$", r"$\frac$ of $10", "$", r"\$5"])
def test_dollars_in_names_of_classes_are_no_formulas(tmp_path: Path, name: str) -> None:
    figure = confusion.draw(np.eye(2, dtype=np.int64), (name, "other"))
    figure.savefig(tmp_path / "confusion.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [name, "other"]


def test_matrix_and_names_of_different_length_are_refused() -> None:
    with pytest.raises(AssertionError, match="1 names for 2 classes"):
        confusion.draw(np.eye(2, dtype=np.int64), ["ants"])


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_confusion_matrix_is_written_as_png(tmp_path: Path, num_classes: int) -> None:
    path = tmp_path / "confusion.png"
    confusion.plot(matrix(num_classes), [str(index) for index in range(num_classes)], path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 300 < min(image.size) <= max(image.size) < 2000


def reports(path: Path, num_steps: int) -> Path:
    lines: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        lines.append({"step": step, "time": 0, "train/loss": 2.0 / step, "train/learning_rate": 1e-3})
        if step % 10 == 0:
            scores = {"val/loss": 3.0 / step, "val/accuracy": 0.5, "val/macro_f1": None, "val/r2": -2.0}
            lines.append({"step": step, "time": 0, **scores})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("num_steps", [0, 1, 30, 1000])
def test_curves_of_any_length_are_drawn(tmp_path: Path, num_steps: int) -> None:
    curves.plot(reports(tmp_path / "metrics.jsonl", num_steps), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] == 960


def test_curves_read_what_was_written_without_the_missing(tmp_path: Path) -> None:
    series = curves.read(reports(tmp_path / "metrics.jsonl", 20))
    assert series["train/loss"][1] == (2, 1.0)
    assert series["val/loss"] == [(10, 0.3), (20, 0.15)]
    assert "val/macro_f1" not in series
    assert "time" not in series
    assert [list(panel) for panel in curves.panels(series)] == [
        ["train/loss", "val/loss"],
        ["val/accuracy"],
        ["val/r2"],
    ]


def test_measures_without_labels_are_in_nats_and_beside_no_share() -> None:
    """Also where all of their values lie in 0..1."""
    entry = {"step": 1, "accuracy": 0.5, "loss": 0.4, "target_accuracy": 0.3, "target_loss": 0.9}
    entry |= adaptation.criteria(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    values = adaptation.scalars(entry)
    assert all(0 <= value <= 1 for value in values.values())
    series = {name: [(1.0, value)] for name, value in values.items()}
    assert [set(panel) for panel in curves.panels(series)] == [
        {"val/loss", "target/loss"},
        {"target/entropy", "target/im", "target/snd"},
        {"val/accuracy", "target/accuracy"},
    ]


def test_legend_of_many_lines_covers_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), save(self, path))[0])
    names = [f"{split}/measure_{index}" for split in ("val", "target") for index in range(5)]
    curves.draw({name: [(1, 0.1), (9, 0.9)] for name in names}, tmp_path / "curves.png", "step")
    (figure,) = figures
    legend = figure.axes[0].get_legend().get_window_extent()
    assert not legend.overlaps(figure.axes[0].get_window_extent())
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0


def test_smoothing_keeps_a_constant_and_the_length() -> None:
    assert curves.smoothed([3.0] * 7, 4).tolist() == [3.0] * 7
