"""Classes multiplied by turning their pictures."""

from typing import Any

import numpy as np
import pytest

from jtl.data.contract import TEXT, Config, Info, read
from jtl.data.rotated import Rotated, check, rotated
from jtl.data.sources.arrays import Arrays
from jtl.data.subset import arrange, fingerprints
from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.preprocess import Preprocess
from tests.data.conftest import pixels

LABELS = np.array([0, 1, 1, 0, 1])


def _source(labels: Any = LABELS, **info: Any) -> Arrays:
    images = np.stack([pixels(seed) for seed in range(len(LABELS))])
    return Arrays(Info("set", ("a", "b"))._replace(**info), images, labels)


def test_a_turned_picture_is_the_picture_turned_and_of_a_class_of_its_own() -> None:
    source, plain = rotated(_source()), _source()
    transform = image.transform(Preprocess((8, 8), resize_px=8), None)
    assert (len(source), len(source.info.label_names)) == (20, 8)
    for index in range(20):
        quarters, row = divmod(index, 5)
        found, expected = read(source, index, transform), read(plain, row, transform)
        np.testing.assert_array_equal(found.inputs, np.rot90(expected.inputs, quarters))
        assert found.label == source.labels()[index] == LABELS[row] + 2 * quarters
        assert found.id == index
    assert source.info.label_names[source.labels()[19]] == "b@270"
    assert source.describe(6) == f"{plain.describe(1)}, turned by 90 degrees"


def test_no_two_ways_to_turn_a_picture_are_the_same_example() -> None:
    assert len(set(fingerprints(rotated(_source())))) == 20
    assert fingerprints(rotated(_source()))[:5] == fingerprints(_source())


def test_all_that_is_made_of_a_picture_is_in_its_split() -> None:
    splits = arrange({"train": _source()}, Config(rotated_classes=True, val_fraction=0.4))
    assert {name: type(each) for name, each in splits.items()} == {"train": Rotated, "val": Rotated}
    keys = {name: set(fingerprints(each.source)) for name, each in splits.items()}
    assert not keys["train"] & keys["val"]
    assert sum(len(each) for each in splits.values()) == 20
    assert splits["train"].info.label_names == splits["val"].info.label_names


def test_classes_of_a_run_are_not_multiplied_again() -> None:
    names = rotated(_source()).info.label_names
    again = rotated(_source(label_names=names))
    assert again.info.label_names == names
    assert again.labels().max() == 7


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (_source(holds=TEXT), "turns pictures, and set holds texts; set it to false"),
        (_source(np.eye(5, 2, dtype=np.float32)), "the examples of set have not one class each"),
        (_source(None), "the examples of set have not one class each"),
    ],
)
def test_what_cannot_be_turned_is_one_line(source: Arrays, message: str) -> None:
    with pytest.raises(UserError, match=f"data.rotated_classes .*{message}"):
        rotated(source)


def test_a_model_that_reads_no_squares_is_refused() -> None:
    spec = image.spec(Preprocess((8, 12), resize_px=8))
    with pytest.raises(UserError, match="the model reads 12 x 8 pixels; expected a square"):
        check(Config(rotated_classes=True), spec)
    check(Config(), spec)
