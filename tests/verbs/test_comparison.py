"""What a comparison says: verdicts, warnings, rows, and a picture without overlaps."""

import csv
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from jtl.tasks import TASKS
from jtl.training import adaptation
from jtl.verbs.compare import plot as comparison_plot
from jtl.verbs.compare import tables as comparison
from jtl.verbs.compare.tables import Outcome, Setup

ROLES = {"scratch": "from scratch", "probe": "frozen", "full": "fine-tuned", "lora": ""}
MEANS = {"scratch": 0.5, "probe": 0.9, "full": 0.8, "lora": 0.8}
NOISE = np.random.default_rng(0).normal(0, 0.01, (4, 3))


def _setup(**changes: Any) -> Setup:
    return Setup(ROLES, "accuracy", True, "seed", 0.0, "")._replace(**changes)


def _outcomes(means: dict[str, float] = MEANS, num_seeds: int = 3) -> list[Outcome]:
    return [
        Outcome(
            label,
            seed,
            {"val best": mean + NOISE[row, seed], "val last": mean},
            30,
            2.5,
            970,
            f"{label}/{seed}",
        )
        for seed in range(num_seeds)
        for row, (label, mean) in enumerate(means.items())
    ]


def _said(found: comparison.Comparison, start: str) -> list[str]:
    return [line for line in comparison.sentences(found) if line.startswith(start)]


def test_help_and_harm_are_told_apart_and_harm_is_a_warning() -> None:
    found = comparison.compare(_setup(), _outcomes())
    assert _said(found, "probe is better than scratch")[0].endswith("the pretrained weights help.")
    (warning,) = _said(found, "WARNING: full is worse than probe by")
    assert "fine-tuning hurts here" in warning
    assert _said(found, "lora and full cannot be told apart")
    assert _said(found, "Best mean of val best accuracy: probe")
    assert not _said(found, "scratch")


def test_variants_of_one_role_are_compared_with_its_first_without_a_warning() -> None:
    roles = {"plain": "frozen", "worse": "frozen", "better": "frozen"}
    outcomes = _outcomes({"plain": 0.8, "worse": 0.5, "better": 0.95})
    found = comparison.compare(_setup(roles=roles), outcomes)
    assert _said(found, "worse is worse than plain by 0.")[0].endswith(").")
    assert _said(found, "better is better than plain by 0.")[0].endswith(").")
    assert not _said(found, "WARNING")


def test_pretrained_worse_than_scratch_is_a_warning() -> None:
    found = comparison.compare(_setup(), _outcomes({**MEANS, "scratch": 0.95}))
    warnings = _said(found, "WARNING: ")
    assert sum("transfer hurts here" in each for each in warnings) == 3


def test_spread_larger_than_the_difference_leaves_it_open() -> None:
    outcomes = [
        Outcome(label, seed, {"val best": value}, 1, 1.0, 1, "")
        for label, values in {"scratch": (0.5, 0.7), "full": (0.7, 0.6)}.items()
        for seed, value in enumerate(values)
    ]
    found = comparison.compare(_setup(), outcomes)
    (line,) = _said(found, "full")
    assert "cannot be told apart: the gain of +0.0500" in line
    assert "within its spread over 2 seeds" in line


def test_one_seed_says_that_there_is_no_spread() -> None:
    found = comparison.compare(_setup(), _outcomes(num_seeds=1))
    (line,) = _said(found, "full is worse than probe by")
    assert "in one seed: there is no spread to judge it by; give more than one" in line
    assert not _said(found, "WARNING")
    assert "±" not in comparison.table(found)


def test_less_is_better_where_the_metric_is_minimised() -> None:
    found = comparison.compare(_setup(metric="loss", is_maximized=False), _outcomes())
    assert _said(found, "WARNING: probe is worse than scratch by")
    assert _said(found, "Best mean of val best loss: scratch")


def test_table_has_means_spreads_gains_and_costs() -> None:
    found = comparison.compare(_setup(), _outcomes())
    runs, gains = comparison.table(found).split("\n\n")
    values = MEANS["full"] + NOISE[2]
    (row,) = [line for line in runs.splitlines() if line.startswith("full")]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in row
    assert row.split()[-3:] == ["30", "2", "970"]
    (row,) = [line for line in gains.splitlines() if line.startswith("full")]
    difference = values - MEANS["probe"] - NOISE[1]
    assert f"{difference.mean():+.4f} (" in row


def test_column_that_decides_is_the_target_domains_where_there_is_one_or_the_users() -> None:
    outcomes = [each._replace(values={**each.values, "target last": 0.1}) for each in _outcomes()]
    assert comparison.compare(_setup(), outcomes).column == "target last"
    assert comparison.compare(_setup(column="val last"), outcomes).column == "val last"
    with pytest.raises(
        ValueError, match="column 'tset' is in no run; expected one of val best, val last, target"
    ):
        comparison.compare(_setup(column="tset"), outcomes)


def test_columns_are_those_that_the_run_has() -> None:
    summary = {
        "best": {"step": 3, "val/accuracy": 0.9, "val/loss": 1.0, "test/accuracy": 0.7},
        "final": {"val/accuracy": 0.8},
        "target": adaptation.outcome(
            [
                {"step": 1, "accuracy": 0.9, "target_im": 1.0, "target_accuracy": 0.65},
                {"step": 2, "accuracy": 0.7, "target_im": 2.0, "target_accuracy": 0.6},
                {"step": 3, "accuracy": 0.8, "target_im": 0.5, "target_accuracy": 0.5},
            ],
            "target_im",
            TASKS["multiclass"],
        ),
    }
    assert comparison.columns_of(summary, "accuracy") == {
        "val best": 0.9,
        "val last": 0.8,
        "test": 0.7,
        "target last": 0.5,
        "target selected": 0.6,
        "target oracle": 0.65,
    }
    assert comparison.columns_of({"best": {}, "final": {}}, "accuracy") == {}


def test_rows_for_other_programs_are_one_a_run() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison.csv_text(comparison.compare(_setup(), _outcomes())))))
    assert len(rows) == 12
    assert rows[0]["variant"] == "scratch"
    assert float(rows[2]["val best"]) == MEANS["full"] + NOISE[2, 0]
    assert rows[0].keys() >= {"seed", "val last", "steps", "seconds", "trainable_parameters", "folder"}


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_picture_has_every_run_and_labels_that_do_not_overlap(num_seeds: int) -> None:
    found = comparison.compare(_setup(), _outcomes(num_seeds=num_seeds))
    figure = comparison_plot.draw(found)
    figure.canvas.draw()
    first = figure.axes[0]
    points = sum(len(line.get_xdata()) for line in first.lines if line.get_marker() == "o")
    assert points == 4 * num_seeds
    boxes = [label.get_window_extent() for label in first.get_yticklabels()]
    assert [label.get_text() for label in first.get_yticklabels()] == list(ROLES)
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)
    titles = [axis.title.get_window_extent() for axis in figure.axes]
    assert not any(one.overlaps(other) for one, other in pairwise(titles[1:]))


def test_ticks_of_close_runs_do_not_overlap() -> None:
    """Gains of about 0.001 have long numbers."""
    outcomes = [
        each._replace(values={name: 0.8 + 0.004 * (value - 0.8) for name, value in each.values.items()})
        for each in _outcomes()
    ]
    figure = comparison_plot.draw(comparison.compare(_setup(), outcomes))
    figure.canvas.draw()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        shown = [label for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) >= 2
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
