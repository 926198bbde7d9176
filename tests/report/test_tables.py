"""Tables: what trains adds up, worst classes come first, and no line is wider than the terminal."""

import numpy as np
import pytest

from jtl.metrics import Summary
from jtl.report import tables
from jtl.report.tables import FreezeRow

NAN = float("nan")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def found(num_classes: int) -> Summary:
    rng = np.random.default_rng(0)
    recall = rng.permutation(num_classes) / num_classes
    count = rng.integers(1, 5000, num_classes)
    return Summary({"accuracy": 0.93412, "loss": 0.2}, {"recall": recall, "count": count}, None)


def test_freeze_table_says_of_each_group_how_it_trains() -> None:
    rows = [
        FreezeRow("stem", 9_408, 37_632, 0, batch_stats="frozen"),
        FreezeRow("block0", 1_000_000, 4_000_000, 500_000, (0.1, 1.0), 0.05, 100, "adapting"),
        FreezeRow("head", 2_050, 8_200, 2_050, (10.0, 10.0), 0.0),
    ]
    lines = tables.freeze_table(rows).splitlines()
    assert cells(lines[0]) == [
        "group",
        "parameters",
        "MB",
        "state",
        "rate x",
        "decay",
        "from step",
        "BatchNorm",
    ]
    assert cells(lines[1]) == ["stem", "9,408", "0.0", "frozen", "frozen"]
    assert cells(lines[2]) == [
        "block0",
        "1,000,000",
        "4.0",
        "50 % trainable",
        "0.1 to 1",
        "0.05",
        "100",
        "adapting",
    ]
    assert cells(lines[3]) == ["head", "2,050", "0.0", "trainable", "10", "0", "0"]
    assert cells(lines[4]) == ["total", "1,011,458", "4.0", "49.6 % trainable"]


def test_freeze_table_of_a_plain_model_has_no_start_and_no_batch_norm() -> None:
    text = tables.freeze_table([FreezeRow("head", 2, 8, 2, (1.0, 1.0))])
    assert "from step" not in text
    assert "BatchNorm" not in text
    assert cells(text.splitlines()[-1]) == ["total", "2", "0.0", "trainable"]


def test_final_table_lists_every_class_of_few_in_their_order() -> None:
    numbers = Summary(
        {"accuracy": 0.93412, "macro_f1": 0.5},
        {"recall": np.array([0.5, NAN]), "count": np.array([12_000, 0])},
        None,
    )
    lines = tables.final_table(numbers, ["ants", "bees"]).splitlines()
    assert [cells(line) for line in lines] == [
        ["accuracy", "0.9341"],
        ["macro_f1", "0.5000"],
        [],
        ["class", "recall", "count"],
        ["ants", "0.5000", "12,000"],
        ["bees", "-", "0"],
    ]


def test_final_table_of_many_classes_shows_the_ten_worst_and_counts_the_empty() -> None:
    numbers = found(100)
    numbers.per_class["recall"][numbers.per_class["recall"] == 0.03] = NAN
    lines = tables.final_table(numbers, [f"class {index}" for index in range(100)]).splitlines()
    assert lines[-1] == "the 10 worst of 100 classes by recall; 1 without examples"
    shown = [float(cells(line)[1]) for line in lines[4:-1]]
    assert shown == [0.0, 0.01, 0.02, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1]
    worst = int(np.nanargmin(numbers.per_class["recall"]))
    assert cells(lines[4])[0] == f"class {worst}"


def test_worst_targets_of_a_regression_have_the_largest_error() -> None:
    numbers = Summary({"loss": 1.0}, {"r2": -np.arange(30.0), "mean_absolute_error": np.arange(30.0)}, None)
    lines = tables.final_table(numbers, ()).splitlines()
    assert cells(lines[3]) == ["target 29", "-29.0000", "29.0000"]
    assert lines[-1] == "the 10 worst of 30 classes by r2"


def test_task_without_numbers_per_class_has_scalars_only() -> None:
    assert tables.final_table(Summary({"loss": 0.25}, {}, None), ()) == "loss  0.2500"


def test_comparison_puts_runs_side_by_side_and_marks_what_one_lacks() -> None:
    pretrained = {
        "best": {"val/accuracy": 0.9, "val/loss": 0.3},
        "steps": 1200,
        "examples_per_second": 2345.6,
    }
    scratch = {"best": {"val/accuracy": 0.5, "val/loss": None}, "steps": 1200, "examples_per_second": 2300.0}
    lines = tables.comparison({"pretrained": pretrained, "from scratch": scratch}).splitlines()
    assert [cells(line) for line in lines] == [
        ["pretrained", "from scratch"],
        ["val/accuracy", "0.9000", "0.5000"],
        ["val/loss", "0.3000", "-"],
        ["steps", "1,200", "1,200"],
        ["examples/s", "2,346", "2,300"],
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_long_names_give_way_to_the_terminal(width: int) -> None:
    names = [f"a rather long name of a class, with its number {index} at the end" for index in range(12)]
    text = tables.final_table(found(12), names, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert all(f"{index} at the end"[-7:] in text for index in range(12))


def test_width_follows_the_terminal_behind_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "terminal_width", lambda: 24)
    row = tables.aligned([["a name that is longer than that", "1"]], left=(0,))
    assert row == "a name tha… than that  1"
