"""What the TFDS source accepts, and what it says of prepared sets it does not."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.data import SOURCES, Labels, Source
from jtl.data.contract import read
from jtl.data.sources import tfds
from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.preprocess import Preprocess
from tests.data.conftest import CLASS, pixels, png, prepare_tfds


def open_kind(name: str, path: Path, labels: Labels = CLASS, **settings: Any) -> dict[str, Source]:
    return SOURCES[name].open(SOURCES[name].Config(path=str(path), **settings), labels)


def test_tfds_labels_are_several_classes_or_numbers(opened: Any) -> None:
    tags = opened("tfds", Labels("multilabel"), label_key="several", val_fraction=0.0)["train"]
    assert set(map(tuple, tags.labels().tolist())) == {(1, 0, 0), (0, 1, 1)}
    numbers = opened("tfds", Labels("regression"), label_key="numbers", val_fraction=0.0)["train"]
    assert numbers.labels().shape == (20, 2)


def test_tfds_opens_a_version_folder_itself(written: Any) -> None:
    root, _ = written("tfds")
    assert len(open_kind("tfds", root / "tiny_set/1.0.0", val_fraction=0.0)["train"]) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dataset": "mnist"},
            r"'mnist' is not prepared: .* holds nothing; prepare it once .*pip install 'jtl\[tf\]'",
        ),
        (
            {"dataset": "tiny_set:2.0.0"},
            r"is not prepared: .*tiny_set holds 1.0.0; .*file_format='array_record'",
        ),
        ({"dataset": ""}, "holds no dataset_info.json"),
        ({"label_key": "lable"}, "data.label_key 'lable' is no feature of .*; nearest: 'label'"),
        ({"image_key": "numbers"}, "'numbers' of .* is a Tensor feature, expected Image"),
    ],
)
def test_a_tfds_set_that_is_not_there_is_an_error_that_says_how_to_prepare_it(
    opened: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened("tfds", **settings)


def test_a_tfds_set_in_another_format_is_an_error(written: Any, tmp_path: Path) -> None:
    root, _ = written("tfds")
    shutil.copytree(root, tmp_path / "set")
    info = tmp_path / "set/tiny_set/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        UserError, match=r"is stored as tfrecord, expected array_record; .*download_and_prepare"
    ):
        open_kind("tfds", tmp_path / "set", dataset="tiny_set")


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_truncated_tfds_shard_is_an_error(written: Any, tmp_path: Path, part: float) -> None:
    root, _ = written("tfds")
    shutil.copytree(root, tmp_path / "set")
    (shard,) = (tmp_path / "set/tiny_set/1.0.0").glob("*array_record*")
    shard.write_bytes(shard.read_bytes()[: int(part * shard.stat().st_size)])
    with pytest.raises(UserError, match=r"cannot read record 0 of train .*prepare the set again"):
        open_kind("tfds", tmp_path / "set", dataset="tiny_set")


def test_a_tfds_image_that_is_damaged_is_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(0, 64, 64)).save(file, "JPEG")
    prepare_tfds(tmp_path, {"train": [("ant", png(pixels(1))), ("bee", file.getvalue()[:500])]})
    source = open_kind("tfds", tmp_path, dataset="tiny_set", val_fraction=0.0)["train"]
    bad = int(np.flatnonzero(source.labels() == 1)[0])
    with pytest.raises(UserError, match=rf"cannot read .*:train\[{bad}\]"):
        read(source, bad, image.transform(Preprocess((8, 8), 8), None))


def test_records_are_read_for_their_labels_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    prepare_tfds(tmp_path, {"train": [("ant", png(pixels(1))), ("bee", png(pixels(2)))]})
    reads: list[str] = []
    cell = tfds._cell

    def counted(records: Any, row: int, key: str, where: str) -> str:
        reads.append(where)
        return cell(records, row, key, where)

    monkeypatch.setattr(tfds, "_cell", counted)
    labels = [
        open_kind("tfds", tmp_path, dataset="tiny_set", val_fraction=0.0)["train"].labels().tolist()
        for _ in range(3)
    ]
    assert labels[0] == labels[1] == labels[2]
    assert len(reads) == 2
    (kept,) = (tmp_path / "cache/labels").iterdir()
    for damage in ("[", "[1, 2]", '["0"]'):
        kept.write_text(damage)
        open_kind("tfds", tmp_path, dataset="tiny_set", val_fraction=0.0)
    assert len(reads) == 8
    (shard,) = (tmp_path / "tiny_set/1.0.0").glob("*array_record*")
    os.utime(shard, ns=(1, 1))
    open_kind("tfds", tmp_path, dataset="tiny_set", val_fraction=0.0)
    assert len(reads) == 10


def test_labels_are_read_where_none_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "file/cache"))
    prepare_tfds(tmp_path, {"train": [("ant", png(pixels(1))), ("bee", png(pixels(2)))]})
    assert len(open_kind("tfds", tmp_path, dataset="tiny_set", val_fraction=0.0)["train"]) == 2
