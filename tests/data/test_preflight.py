"""What is said of the data before training, and which data is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import SOURCES, Config, Labels, Source, preflight
from jtl.data.preflight import inspect
from jtl.errors import UserError
from jtl.inputs import INPUTS, image
from tests.data.conftest import pixels, png


def folder(root: Path, counts: dict[str, int]) -> Path:
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            seed += 1
            (root / name / f"{place}.png").write_bytes(png(pixels(seed)))
    return root


def open_folder(root: Path, **settings: Any) -> tuple[dict[str, Source], Config]:
    config = SOURCES["image_folder"].Config(path=str(root), **settings)
    return SOURCES["image_folder"].open(config, Labels()), config


@pytest.mark.parametrize("name", SOURCES)
def test_good_data_passes_unchanged(opened: Any, name: str) -> None:
    splits = opened(name)
    kinds = {kind.holds: kind for kind in INPUTS.values()}
    found = inspect(splits, SOURCES["digits"].Config(), kinds[splits["train"].info.holds])
    assert found.splits == splits
    assert not found.unreadable
    assert not found.duplicates
    assert [line.split(":")[0] for line in found.lines[-2:]] == ["train", "val"]
    assert all("label" in line for line in found.lines[:-2])


def test_lines_count_images_classes_and_imbalance(tmp_path: Path) -> None:
    splits, config = open_folder(
        folder(tmp_path, {"train/ant": 9, "train/bee": 3, "val/ant": 1, "val/bee": 1})
    )
    assert inspect(splits, config, image.INPUT).lines == [
        "train: 12 images, 2 classes, largest:smallest 3.0 (ant: 9, bee: 3)",
        "val: 2 images, 2 classes, largest:smallest 1.0",
    ]


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    folder(tmp_path, {"set": 2})
    (tmp_path / "t.csv").write_text("set/0.png,0\nset/1.png,2\n")
    config = SOURCES["table"].Config(path=str(tmp_path / "t.csv"), val_fraction=0.0, labels_are="places")
    found = inspect(SOURCES["table"].open(config, Labels()), config, image.INPUT)
    assert found.lines == [
        "image of column 'path', labels of 'label'",
        "labels are places, from 0, among 3 classes: 0, 1, 2",
        "train: 2 images, 3 classes, largest:smallest 1.0; without images: 1",
    ]


def test_regression_and_multilabel_are_described(tmp_path: Path) -> None:
    folder(tmp_path, {"set": 3})
    (tmp_path / "t.csv").write_text("set/0.png,0;1\nset/1.png,0\nset/2.png,\n")
    config = SOURCES["table"].Config(path=str(tmp_path / "t.csv"), val_fraction=0.0)
    lines = inspect(SOURCES["table"].open(config, Labels("multilabel")), config, image.INPUT).lines
    assert lines[1:] == [
        "labels are the numbers 0 to 1",
        "train: 3 images, 2 classes, largest:smallest 2.0 (0: 2, 1: 1)",
    ]
    (tmp_path / "t.csv").write_text("set/0.png,0.5\nset/1.png,0\nset/2.png,1\n")
    lines = inspect(SOURCES["table"].open(config, Labels("regression")), config, image.INPUT).lines
    assert lines[1:] == ["train: 3 images, 1 values each"]


def test_unreadable_images_are_an_error_that_names_them_and_says_what_to_set(tmp_path: Path) -> None:
    folder(tmp_path, {"ant": 6, "bee": 6})
    (tmp_path / "ant/2.png").write_bytes(b"no image")
    (tmp_path / "bee/7.png").write_bytes(png(pixels(99, 64, 64))[:300])
    splits, config = open_folder(tmp_path)
    with pytest.raises(
        UserError, match=r"2 images are unreadable, expected at most 0: .*config.data.max_unreadable=2"
    ) as caught:
        inspect(splits, config, image.INPUT)
    assert "ant/2.png" in str(caught.value)
    assert "bee/7.png" in str(caught.value)


def test_unreadable_images_within_the_limit_are_named_counted_and_removed(tmp_path: Path) -> None:
    folder(tmp_path, {"ant": 6, "bee": 6})
    (tmp_path / "ant/2.png").write_bytes(b"no image")
    (tmp_path / "bee/3.png").write_bytes(b"")
    splits, config = open_folder(tmp_path, max_unreadable=2)
    found = inspect(splits, config, image.INPUT)
    assert len(found.unreadable) == 2
    assert sum(map(len, found.splits.values())) == 10
    assert any("skipped 2 unreadable images" in line and "ant/2.png" in line for line in found.lines)
    for source in found.splits.values():
        assert [source[row]["id"] for row in range(len(source))] == list(range(len(source)))
        assert "ant/2.png" not in "".join(source.describe(row) for row in range(len(source)))


def test_a_split_without_readable_images_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path, {"train/ant": 1, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    (tmp_path / "train/ant/0.png").write_bytes(b"no image")
    (tmp_path / "train/bee/0.png").write_bytes(b"no image")
    splits, config = open_folder(tmp_path, max_unreadable=2)
    with pytest.raises(UserError, match="the train split has no readable images"):
        inspect(splits, config, image.INPUT)


def test_the_same_image_in_two_splits_is_named(tmp_path: Path) -> None:
    folder(tmp_path, {"train/ant": 3, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    (tmp_path / "val/ant/copy.png").write_bytes((tmp_path / "train/ant/1.png").read_bytes())
    splits, config = open_folder(tmp_path)
    found = inspect(splits, config, image.INPUT)
    assert found.duplicates == [(str(tmp_path / "train/ant/1.png"), str(tmp_path / "val/ant/copy.png"))]
    assert "1 images are in two splits" in found.lines[-1]
    assert "copy.png" in found.lines[-1]


def test_a_large_split_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MAX_CHECKED", 4)
    folder(tmp_path, {"train/ant": 8, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    (tmp_path / "train/ant/1.png").write_bytes(b"no image")
    splits, config = open_folder(tmp_path)
    assert "train: read 4 of 9 images to check them" in inspect(splits, config, image.INPUT).lines
    splits, config = open_folder(tmp_path, max_unreadable=1)
    assert len(inspect(splits, config, image.INPUT).unreadable) == 1


def test_real_photos_pass(real_path: Any) -> None:
    splits, config = open_folder(real_path("images/hymenoptera"))
    found = inspect(splits, config, image.INPUT)
    assert found.lines[0] == "train: 244 images, 2 classes, largest:smallest 1.0 (ants: 123, bees: 121)"
    assert np.all([len(source) for source in found.splits.values()] == [244, 153])
