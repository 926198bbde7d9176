"""How labels as people write them become arrays."""

import numpy as np
import pytest

from jtl.data.contract import Labels
from jtl.data.labels import encode, encode_splits, strata
from jtl.errors import UserError


def where(row: int) -> str:
    return f"row {row}"


def test_names_are_sorted_and_indexed() -> None:
    values, names = encode(["bee", "ant", "bee"], Labels(), where=where)
    assert values.tolist() == [1, 0, 1]
    assert names == ("ant", "bee")


def test_integers_are_indices_and_their_numbers_are_the_names() -> None:
    values, names = encode(["2", "0", "10"], Labels(), where=where)
    assert values.tolist() == [2, 0, 10]
    assert names == tuple(map(str, range(11)))


def test_integers_index_the_given_names() -> None:
    values, names = encode(["2", "0"], Labels(names=("ant", "bee", "wasp")), where=where)
    assert values.tolist() == [2, 0]
    assert names == ("ant", "bee", "wasp")


def test_numerals_that_are_names_are_names() -> None:
    values, _ = encode(["7", "3"], Labels(names=("3", "7")), where=where)
    assert values.tolist() == [1, 0]


def test_the_datas_own_names_are_translated_to_the_given_ones() -> None:
    values, names = encode(["0", "1"], Labels(names=("bee", "ant")), where=where, own_names=("ant", "bee"))
    assert values.tolist() == [1, 0]
    assert names == ("bee", "ant")


def test_several_classes_become_a_multi_hot_row() -> None:
    values, names = encode(["a;c", "", "b"], Labels("multilabel"), where=where)
    assert values.dtype == np.float32
    assert values.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert names == ("a", "b", "c")


def test_numbers_become_rows_of_floats() -> None:
    values, names = encode(["0.5;-1", "2;1e3"], Labels("regression"), where=where)
    assert values.dtype == np.float32
    assert values.tolist() == [[0.5, -1], [2, 1000]]
    assert names == ()
    assert encode(["3"], Labels("regression"), where=where).values.shape == (1, 1)


def test_the_training_split_decides_the_classes_of_all() -> None:
    encoded = encode_splits(
        {"val": ["bee"], "train": ["ant", "bee"]}, Labels(), where=lambda split, row: f"{split} {row}"
    )
    assert list(encoded) == ["val", "train"]
    assert encoded["val"].values.tolist() == [1]
    assert encoded["val"].names == ("ant", "bee")


@pytest.mark.parametrize(
    ("cells", "labels", "message"),
    [
        (
            ["0", "3"],
            Labels(names=("a", "b", "c")),
            r"label out of range: row 1 has 3, expected 0 to 2 \(3 classes\)",
        ),
        (["0", "-1"], Labels(), "label out of range: row 1 has -1, expected 0 to 0"),
        (
            ["ant", "bea"],
            Labels(names=("ant", "bee")),
            "label unknown: row 1 has 'bea'; nearest known class: 'bee'",
        ),
        (["ant", "1"], Labels(names=("ant", "bee")), "label unknown: row 1 has '1'"),
        (["ant", ""], Labels(), "label missing: row 1 has none"),
        (["a;;b"], Labels("multilabel"), "label malformed: row 0 has 'a;;b'"),
        (["1", "x"], Labels("regression"), "label malformed: row 1 has 'x', expected finite numbers"),
        (["1", "nan"], Labels("regression"), "label malformed: row 1 has 'nan'"),
        (["1;2", "3"], Labels("regression"), "label malformed: row 1 has 1 numbers, expected 2"),
        (["a"], Labels("clas"), "label kind 'clas' is unknown; nearest: 'class'"),
        (["a"], Labels(names=("a", "b", "a")), "class names repeat: a;"),
    ],
)
def test_a_bad_label_is_an_error_that_says_where(cells: list[str], labels: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode(cells, labels, where=where)


def test_a_class_only_validation_has_is_an_error() -> None:
    with pytest.raises(UserError, match="label unknown: val 0 has 'wasp'"):
        encode_splits(
            {"train": ["ant"], "val": ["wasp"]}, Labels(), where=lambda split, row: f"{split} {row}"
        )


def test_strata_are_classes_or_the_rarest_label() -> None:
    assert strata(np.array([1, 0]), ("a", "b")).tolist() == [1, 0]
    multi_hot = np.array([[1, 1], [1, 0], [0, 0]], np.float32)
    assert strata(multi_hot, ("a", "b")).tolist() == [1, 0, -1]
    assert strata(np.array([[0.5], [2.0]], np.float32), ()).tolist() == [0, 0]
