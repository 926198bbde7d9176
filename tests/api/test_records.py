"""What models give in Python prints as a table, and numbers are no probabilities."""

import numpy as np
import pytest

from jtl.api import process
from jtl.api.records import MAX_SHOWN, Predictions
from jtl.errors import UserError


def made(count: int, label_names: tuple[str, ...] = ("ant", "bee")) -> Predictions:
    values = np.tile(np.float32([0.25, 0.75]), (count, 1))
    return Predictions(tuple(f"{index}.jpg" for index in range(count)), label_names, values, ("",) * count)


def test_predictions_print_as_a_table_cut_in_the_middle() -> None:
    assert repr(made(2)).splitlines() == [
        "example  prediction",
        "0.jpg    bee         0.7500",
        "1.jpg    bee         0.7500",
    ]
    lines = repr(made(100)).splitlines()
    assert len(lines) == MAX_SHOWN + 2
    assert lines[1].startswith("0.jpg")
    assert lines[1 + MAX_SHOWN // 2].startswith("…")
    assert lines[-1].startswith("99.jpg")


def test_predictions_are_a_sequence() -> None:
    found = made(3)
    assert (len(found), found[-1].name, [each.name for each in found][1]) == (3, "2.jpg", "1.jpg")
    with pytest.raises(IndexError):
        _ = found[3]
    assert repr(found[0]) == "0.jpg: bee 0.7500, ant 0.2500"


def test_predicted_numbers_have_no_classes_and_no_probabilities() -> None:
    found = made(1, label_names=())
    assert (found[0].label, found[0].value, found[0].top()) == (
        "",
        0.25,
        [("value0", 0.25), ("value1", 0.75)],
    )
    with pytest.raises(ValueError, match="the model predicts numbers, which have no probabilities"):
        _ = found.probabilities
    assert repr(found).splitlines()[1] == "0.jpg    0.25, 0.75"


def test_fault_is_told_in_place_of_a_prediction() -> None:
    values = np.full((1, 2), np.nan, np.float32)
    found = Predictions(("a.jpg",), ("ant", "bee"), values, ("cannot read a.jpg: cut short",))
    assert "cannot read a.jpg: cut short" in repr(found)
    assert repr(found[0]) == "a.jpg: cannot read a.jpg: cut short"


def test_long_texts_are_cut_in_tables_and_whole_in_records() -> None:
    text = "good " * 100
    found = Predictions((text,), ("bad", "good"), np.float32([[0, 1]]), ("",))
    assert max(map(len, repr(found).splitlines())) < 110
    assert (found[0].name, found[0].label, found[0].value) == (text, "good", 1.0)


def test_settings_are_written_as_on_the_command_line() -> None:
    given = {
        "optim": {"learning_rate": np.float32(0.5), "freeze": ("a", "b")},
        "weights": {"label_map": {"x": "y"}},
        "train.steps": 3,
        "baseline": True,
        "task": {"name": "multiclass", "threshold": None},
    }
    assert process.overrides(given) == [
        ("optim.learning_rate", "0.5"),
        ("optim.freeze", "('a', 'b')"),
        ("weights.label_map", "{'x': 'y'}"),
        ("train.steps", "3"),
        ("baseline", "True"),
        ("task.name", "multiclass"),
        ("task.threshold", "None"),
    ]
    with pytest.raises(UserError, match="a setting is a object; expected text, a number"):
        process.overrides({"train": {"steps": object()}})
