"""Another domain's images: what they are taken for, by what lies in the folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.training import build, config
from tests.data.conftest import write_tar

NAMES = ("ant", "bee")


def _settings(path: Path, **fields: bool) -> config.Config:
    base = config.read("configs/smoke.py")
    return replace(base, data=replace(base.data, target=str(path), **fields))


def _write(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_no_target_is_none() -> None:
    assert build.open_target(config.read("configs/smoke.py"), NAMES) is None


def test_folder_of_classes_is_labelled_in_the_order_of_the_task(tmp_path: Path) -> None:
    for name in reversed(NAMES):
        _write(tmp_path / name)
    found = build.open_target(_settings(tmp_path), NAMES)
    assert found is not None
    assert (found.is_labelled, found.evaluation) == (True, found.stream)
    assert found.stream.labels().tolist() == [0, 0, 0, 1, 1, 1]


def test_test_split_measures_and_the_rest_is_adapted_to(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for name in NAMES:
            _write(tmp_path / split / name, count)
    found = build.open_target(_settings(tmp_path), NAMES)
    assert found is not None
    assert (len(found.stream), len(found.evaluation)) == (6, 4)


def test_folder_of_images_has_no_labels_whatever_is_hidden_in_it(tmp_path: Path) -> None:
    _write(tmp_path / "flat")
    _write(tmp_path / "flat" / ".thumbnails")
    found = build.open_target(_settings(tmp_path / "flat"), NAMES)
    assert found is not None
    assert (found.is_labelled, len(found.stream)) == (False, 3)


def test_folder_of_archives_is_read_as_such_with_labels_or_without(tmp_path: Path) -> None:
    _write(tmp_path / "images", 4)
    files = [
        (f"{place}.{ending}", data)
        for place in range(4)
        for ending, data in (
            ("png", (tmp_path / f"images/{place}.png").read_bytes()),
            ("cls", NAMES[place % 2].encode()),
        )
    ]
    (tmp_path / "packed").mkdir()
    write_tar(tmp_path / "packed" / "a-000000.tar", files)
    found = build.open_target(_settings(tmp_path / "packed"), NAMES)
    assert found is not None
    assert found.stream.labels().tolist() == [0, 1, 0, 1]
    found = build.open_target(_settings(tmp_path / "packed", has_target_labels=False), NAMES)
    assert found is not None
    assert (found.is_labelled, len(found.stream)) == (False, 4)


def test_labels_of_no_use_are_passed_over_in_folders_and_tables(tmp_path: Path) -> None:
    for name in ("camera1", "camera2"):
        _write(tmp_path / "images" / name)
    with pytest.raises(UserError, match=r"config.data.target: .*has_target_labels=false"):
        build.open_target(_settings(tmp_path / "images"), NAMES)
    rows = [f"images/camera{camera}/{index}.png,x{camera}\n" for camera in (1, 2) for index in range(3)]
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(rows))
    for path in (tmp_path / "images", tmp_path / "all.csv"):
        found = build.open_target(_settings(path, has_target_labels=False), NAMES)
        assert found is not None
        assert (found.is_labelled, len(found.stream)) == (False, 6)


@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "empty"])
def test_error_names_the_setting(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "nowhere"
    if is_there:
        path.mkdir()
    with pytest.raises(UserError, match=r"config.data.target: .*nowhere"):
        build.open_target(_settings(path), NAMES)
