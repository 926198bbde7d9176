"""Choosing examples by content."""

from pathlib import Path

import numpy as np
import pytest

from jtl.data.contract import Config, Info, Labels
from jtl.data.files import file_fingerprint
from jtl.data.labels import encode
from jtl.data.sources.arrays import Arrays
from jtl.data.subset import Subset, arrange, choose_folds, choose_val, fingerprints
from jtl.errors import UserError
from tests.data.conftest import pixels

KEYS = [bytes([value]) for value in np.random.default_rng(0).integers(0, 60, 100).tolist()]
GROUPS = np.random.default_rng(1).integers(0, 4, 100)


def chosen(order: np.ndarray, fraction: float = 0.3) -> set[int]:
    is_val = choose_val([KEYS[row] for row in order], GROUPS[order], fraction)
    return set(order[is_val].tolist())


def source(
    labels: np.ndarray, names: tuple[str, ...] = ("a", "b"), order: np.ndarray | None = None
) -> Arrays:
    images = np.stack([pixels(seed) for seed in range(len(labels))])
    order = np.arange(len(labels)) if order is None else order
    return Arrays(Info("set", names), images[order], labels[order])


def test_the_validation_split_does_not_depend_on_the_order_of_the_examples() -> None:
    expected = chosen(np.arange(100))
    for seed in range(5):
        assert chosen(np.random.default_rng(seed).permutation(100)) == expected


def test_equal_examples_of_different_classes_stay_together() -> None:
    is_val = choose_val(KEYS, GROUPS, 0.3)
    sides = [{KEYS[row] for row in np.flatnonzero(is_val == side)} for side in (True, False)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_class_with_two_images_is_on_both_sides(fraction: float, count: int) -> None:
    is_val = choose_val([bytes([row]) for row in range(count)], np.zeros(count, np.int64), fraction)
    assert 1 <= is_val.sum() <= count - 1
    assert is_val.sum() == min(max(1, round(fraction * count)), count - 1)


def test_a_single_image_is_for_training() -> None:
    assert not choose_val([b"x", b"x"], np.zeros(2, np.int64), 0.5).any()


def test_a_training_subset_does_not_depend_on_the_order_of_the_examples() -> None:
    labels = np.arange(30) % 2
    config = Config(train_fraction=0.4, val_fraction=0.0)
    subsets = [
        set(fingerprints(arrange({"train": source(labels, order=order)}, config)["train"]))
        for order in (np.arange(30), np.random.default_rng(0).permutation(30))
    ]
    assert subsets[0] == subsets[1]
    assert len(subsets[0]) == 12


def test_multilabel_examples_are_split_by_their_rarest_label() -> None:
    cells = ["a"] * 30 + ["a;b"] * 10
    encoded = encode(cells, Labels("multilabel"), where=str)
    splits = arrange({"train": source(encoded.values, encoded.names)}, Config(val_fraction=0.2))
    assert splits["val"].labels().sum(axis=0).tolist() == [8, 2]


def test_regression_is_split_and_thinned_but_has_no_classes_to_count() -> None:
    values = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    splits = arrange({"train": source(values, ())}, Config(val_fraction=0.25, train_fraction=0.5))
    assert {name: len(each) for name, each in splits.items()} == {"train": 8, "val": 5}
    with pytest.raises(UserError, match="train_per_class needs classes; for regression"):
        arrange({"train": source(values, ())}, Config(train_per_class=2))


def test_a_split_without_examples_is_an_error() -> None:
    with pytest.raises(UserError, match="set: the test split has no examples"):
        arrange({"test": Subset(source(GROUPS[:2]), GROUPS[:0])}, Config())


def test_settings_leave_a_validation_split_of_the_data_alone() -> None:
    train, val = source(np.arange(20) % 2), source(np.arange(6) % 2)
    splits = arrange({"train": train, "val": val}, Config(train_per_class=3))
    assert splits["val"] is val
    assert len(splits["train"]) == 6


def test_a_subset_of_a_subset_numbers_its_own_examples() -> None:
    inner = Subset(source(np.arange(9)), np.array([8, 5, 2]))
    outer = Subset(inner, np.array([2, 0]))
    assert outer.labels().tolist() == [2, 8]
    assert [outer[row]["label"] for row in range(2)] == [2, 8]
    assert [outer[row]["id"] for row in range(2)] == [0, 1]
    assert outer.describe(1) == "set[8]"
    assert outer.fingerprint(1) == inner.source.fingerprint(8)


def test_long_files_are_told_apart_by_length_head_and_tail(tmp_path: Path) -> None:
    whole = bytes(1 << 18)
    variants = [whole, b"x" + whole[1:], whole[:-1] + b"x", whole + b"\0"]
    found = []
    for place, data in enumerate(variants):
        (tmp_path / str(place)).write_bytes(data)
        found.append(file_fingerprint(str(tmp_path / str(place))))
    assert len(set(found)) == len(variants)


FOLDS = (2, 3, 5, 7)


@pytest.mark.parametrize("folds", FOLDS)
def test_every_example_is_for_validation_in_exactly_one_fold(folds: int) -> None:
    train = source(np.arange(31) % 3, ("a", "b", "c"))
    keys = fingerprints(train)
    seen: list[bytes] = []
    for fold in range(folds):
        splits = arrange({"train": train}, Config(folds=folds, fold=fold, val_fraction=0.5))
        sides = [fingerprints(splits[name]) for name in ("val", "train")]
        assert sorted(sides[0] + sides[1]) == sorted(keys)
        assert sides[0]
        seen += sides[0]
    assert sorted(seen) == sorted(keys)


@pytest.mark.parametrize("folds", FOLDS)
def test_folds_are_even_in_every_class_and_over_all(folds: int) -> None:
    labels = np.random.default_rng(0).choice(4, 120, p=[0.6, 0.25, 0.1, 0.05])
    found = choose_folds([bytes([row]) for row in range(120)], labels, folds)
    for rows in (np.arange(120), *(np.flatnonzero(labels == label) for label in range(4))):
        counts = np.bincount(found[rows], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_folds_do_not_depend_on_the_order_of_the_examples() -> None:
    expected = choose_folds(KEYS, GROUPS, 5)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(100)
        found = choose_folds([KEYS[row] for row in order], GROUPS[order], 5)
        assert found.tolist() == expected[order].tolist()


def test_equal_examples_of_different_classes_are_of_one_fold() -> None:
    found = choose_folds(KEYS, GROUPS, 5)
    fold_of: dict[bytes, set[int]] = {}
    for key, fold in zip(KEYS, found.tolist(), strict=True):
        fold_of.setdefault(key, set()).add(fold)
    assert len(fold_of) < len(KEYS)
    assert all(len(each) == 1 for each in fold_of.values())


def test_fewer_training_examples_leave_the_fold_alone() -> None:
    train = source(np.arange(30) % 2)
    whole = arrange({"train": train}, Config(folds=3, fold=1))
    few = arrange({"train": train}, Config(folds=3, fold=1, train_per_class=4))
    assert fingerprints(few["val"]) == fingerprints(whole["val"])
    assert np.bincount(few["train"].labels()).tolist() == [4, 4]


def test_folds_of_data_with_a_validation_split_or_of_too_few_images_are_refused() -> None:
    train = source(np.arange(4) % 2)
    with pytest.raises(
        UserError, match=r"has a validation split of its own, expected none with data.folds 2"
    ):
        arrange({"train": train, "val": train}, Config(folds=2))
    with pytest.raises(UserError, match=r"set: 4 different images cannot be cut into data.folds 5"):
        arrange({"train": train}, Config(folds=5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 1}, "data.folds is 1, expected 0"),
        ({"folds": -2}, "data.folds is -2"),
        ({"folds": 3, "fold": 3}, "data.fold is 3, expected 0 to 2 where data.folds is 3"),
        ({"fold": 1}, "data.fold is 1, expected 0 to 0 where data.folds is 0"),
    ],
)
def test_impossible_folds_are_an_error(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**values)
