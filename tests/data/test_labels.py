"""How labels as people write them become arrays."""

import unicodedata

import numpy as np
import pytest

from jtl.data.contract import Labels
from jtl.data.labels import encode, encode_splits, strata
from jtl.errors import UserError


def where(row: int) -> str:
    return f"row {row}"


def test_names_are_sorted_and_indexed() -> None:
    values, names = encode(["bee", "ant", "bee"], Labels(), where=where)[:2]
    assert values.tolist() == [1, 0, 1]
    assert names == ("ant", "bee")


@pytest.mark.parametrize(
    ("cells", "names", "values"),
    [
        (["2", "0", "10", "1"], ("0", "1", "2", "10"), [2, 0, 3, 1]),
        (["2.0", "0", "10.0", "1"], ("0", "1", "2", "10"), [2, 0, 3, 1]),
        (["0.5", "-1.25", "0.50"], ("-1.25", "0.5"), [1, 0, 1]),
        (["007", "7", "12"], ("7", "12"), [0, 0, 1]),
        (["1.5e+02", "150", "3"], ("3", "150"), [1, 1, 0]),
        (["1002034", str(2**40), "1002041.0"], ("1002034", "1002041", str(2**40)), [0, 2, 1]),
    ],
)
def test_numbers_are_names_compared_and_sorted_as_numbers(
    cells: list[str], names: tuple[str, ...], values: list[int]
) -> None:
    found = encode(cells, Labels(), where=where)
    assert found.names == names
    assert found.values.tolist() == values
    assert found.reading == "numbers"


def test_large_numbers_with_gaps_take_no_memory_of_their_size() -> None:
    for kind in ("class", "multilabel"):
        found = encode(["3", str(10**30)], Labels(kind), where=where)
        assert found.names == ("3", str(10**30))
        assert found.values.nbytes <= 16


@pytest.mark.parametrize("cells", [["3", "0"], ["3.0", "0.0"], ["+3", "00"]])
def test_a_run_on_numbers_reads_every_way_to_write_them(cells: list[str]) -> None:
    trained = encode([f"{place}.0" for place in range(12)], Labels(), where=where)
    later = encode(cells, Labels(names=trained.names, reading=trained.reading), where=where)
    assert later.values.tolist() == [3, 0]
    assert encode(
        cells, Labels(names=tuple(f"{place}.0" for place in range(12))), where=where
    ).values.tolist() == [
        3,
        0,
    ]


def test_a_run_on_numbers_with_gaps_takes_none_for_a_place() -> None:
    trained = encode(["1", "2", "3"], Labels(), where=where)
    known = Labels(names=trained.names, reading=trained.reading)
    assert encode(["1", "2"], known, where=where).values.tolist() == [0, 1]
    with pytest.raises(UserError, match="label unknown: row 1 has '0'; nearest known class: '1'"):
        encode(["1", "0"], known, where=where)


def test_a_run_on_names_takes_a_number_for_a_place_only_when_told() -> None:
    known = Labels(names=("ant", "bee", "wasp"), reading="names")
    with pytest.raises(UserError, match=r"row 0 has '2'; .*config.data.labels_are=places"):
        encode(["2", "0"], known, where=where)
    found = encode(["2", "0"], known, where=where, asked="places")
    assert found.values.tolist() == [2, 0]
    assert found.notes == ("labels are places, from 0, among 3 classes: ant, bee, wasp",)


def test_numbers_are_places_among_names_of_weights() -> None:
    found = encode(["2", "0"], Labels(names=("ant", "bee", "wasp")), where=where)
    assert found.values.tolist() == [2, 0]
    assert found.names == ("ant", "bee", "wasp")
    assert found.notes == ("labels are places, from 0, among 3 classes: ant, bee, wasp",)


def test_numerals_that_are_names_are_names() -> None:
    found = encode(["7", "3"], Labels(names=("3", "7")), where=where)
    assert found.values.tolist() == [1, 0]


def test_names_that_are_one_number_are_told_apart_by_their_letters() -> None:
    known = Labels(names=("7", "007"), reading="names")
    assert encode(["007", "7"], known, where=where).values.tolist() == [1, 0]
    with pytest.raises(UserError, match="label unknown: row 0 has '07'"):
        encode(["07"], known, where=where)


def test_the_datas_own_names_are_translated_to_the_given_ones() -> None:
    found = encode(
        ["0", "1"], Labels(names=("bee", "ant")), where=where, own_names=("ant", "bee"), are_places=True
    )
    assert found.values.tolist() == [1, 0]
    assert found.names == ("bee", "ant")


def test_places_among_declared_names_are_places_though_the_names_are_numerals() -> None:
    found = encode(["0", "1"], Labels(), where=where, own_names=("1", "0"), are_places=True)
    assert found.values.tolist() == [0, 1]
    assert found.names == ("1", "0")


def test_places_asked_for_make_classes_without_examples() -> None:
    found = encode(["3", "0"], Labels(), where=where, asked="places")
    assert found.names == ("0", "1", "2", "3")
    with pytest.raises(UserError, match="row 0 has 1099511627776, expected places below 1,000,000"):
        encode([str(2**40)], Labels(), where=where, asked="places")


def test_numbers_asked_for_as_names_are_text() -> None:
    found = encode(["007", "12", "7"], Labels(), where=where, asked="names")
    assert found.names == ("007", "12", "7")


def test_names_are_compared_in_one_unicode_form() -> None:
    cells = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    assert encode(cells, Labels(), where=where).names == ("caf\u00e9",)
    for own_names in (None, (cells[1], "b"), tuple(cells)):
        found = encode(cells, Labels(names=("b", cells[1])), where=where, own_names=own_names)
        assert found.values.tolist() == [1, 1]


def test_names_that_are_no_unicode_stand_as_their_bytes() -> None:
    assert encode(["p\udce9"], Labels(), where=where).names == ("p\\xe9",)
    assert encode(["p\udce9"], Labels(names=("p\\xe9",)), where=where).values.tolist() == [0]


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["b", "a"], "labels are names of 2 classes: a, b"),
        (["1", "0"], "labels are the numbers 0 to 1"),
        (["7", "3", "10"], "labels are numbers, taken as names of 3 classes: 3, 7, 10"),
        (["x" * 100, "y"], f"labels are names of 2 classes: {'x' * 60}…, y"),
        (
            ["0.5", "0.25"],
            "labels are numbers, taken as names of 2 classes: 0.25, 0.5; they look like amounts: to predict "
            "numbers, set config.task.name=regression",
        ),
        (
            [str(7 * place) for place in range(40)],
            "labels are numbers, taken as names of 40 classes: 0, 7, 14, 21, 28 and 35 more; they look like "
            "amounts: to predict numbers, set config.task.name=regression",
        ),
    ],
)
def test_how_labels_are_read_is_said(cells: list[str], note: str) -> None:
    assert encode(cells, Labels(), where=where).notes == (note,)


def test_several_classes_become_a_multi_hot_row() -> None:
    values, names = encode(["a;c", "", "b"], Labels("multilabel"), where=where)[:2]
    assert values.dtype == np.float32
    assert values.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert names == ("a", "b", "c")


def test_numbers_become_rows_of_floats() -> None:
    values, names = encode(["0.5;-1", "2;1e3"], Labels("regression"), where=where)[:2]
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
        (
            ["0", "-1", "-1"],
            Labels(),
            "label out of range: row 1 has -1, expected 0 or more .*; where -1, 0 are classes, set con",
        ),
        (["0", "2"], Labels(names=("0", "1")), "label out of range: row 1 has 2, expected 0 to 1"),
        (["0", "1", "x"], Labels(names=("a", "b")), "label unknown: row 0 has '0'; nearest known class: "),
        (
            ["ant", "bea"],
            Labels(names=("ant", "bee")),
            "label unknown: row 1 has 'bea'; nearest known class: 'bee'",
        ),
        (["ant", "1"], Labels(names=("ant", "bee")), "label unknown: row 1 has '1'"),
        (["ant", ""], Labels(), "label missing: row 1 has none, expected a class"),
        (
            ["ant", "nan", "NaN", ""],
            Labels(),
            r"label missing: row 1 has 'nan' \(so have row 2, row 3\), expected a class; .* 3 of the exa",
        ),
        (["1.0", "nan"], Labels(), "label missing: row 1 has 'nan'"),
        (["a", "a;<NA>"], Labels("multilabel"), "label missing: row 1 has '<NA>'"),
        (["a;;b"], Labels("multilabel"), "label malformed: row 0 has 'a;;b'"),
        (["1", "x"], Labels("regression"), "label malformed: row 1 has 'x', expected finite numbers"),
        (["1", "nan"], Labels("regression"), "label malformed: row 1 has 'nan'"),
        (["1;2", "3"], Labels("regression"), "label malformed: row 1 has 1 numbers, expected 2"),
        (["1", "9" * 5000], Labels("regression"), r"label (malformed|out of range): row 1 has '9{100,130}…"),
        (
            ["1", "-3e38"],
            Labels("regression"),
            r"label out of range: row 1 has '-3e38', expected at most 1e\+18",
        ),
        (
            ["1700000000.5", "1700000001", "1700000002"],
            Labels("regression"),
            r"such as '1700000000.5' at row 0 lie around 1.7e\+09 and differ by 0.624, .*; subtract a number",
        ),
        (["1e-30", "2e-30"], Labels("regression"), "differ by 5e-31, which float32 cannot tell apart"),
        (["a"], Labels("clas"), "label kind 'clas' is unknown; nearest: 'class'"),
        (["a"], Labels(names=("a", "b", "a")), "class names repeat: a;"),
    ],
)
def test_a_bad_label_is_an_error_that_says_where(cells: list[str], labels: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode(cells, labels, where=where)


def test_a_class_named_as_a_missing_label_may_be_declared() -> None:
    assert encode(["null", "a"], Labels(), where=where, own_names=("a", "null")).values.tolist() == [1, 0]


def test_more_labels_than_memory_holds_are_refused_before_they_are_made() -> None:
    cells = [f"tag{place}" for place in range(40_000)]
    with pytest.raises(
        UserError, match=r"40,000 examples of 40,000 classes are 1,600,000,000 labels, expected"
    ):
        encode(cells, Labels("multilabel"), where=where)


def test_the_training_split_settles_how_others_are_read() -> None:
    with pytest.raises(UserError, match="label unknown: val 0 has '1'"):
        encode_splits(
            {"train": ["ant", "bee"], "val": ["1"]}, Labels(), where=lambda split, row: f"{split} {row}"
        )


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
