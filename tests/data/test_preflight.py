"""What is said of the data before training, and which data is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.data import SOURCES, Config, Labels, Source, files, preflight
from jtl.data.preflight import inspect
from jtl.errors import UserError
from jtl.inputs import INPUTS, image
from jtl.inputs.preprocess import Preprocess
from jtl.report import summary
from tests.data.conftest import pixels, png, write_tar


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
    for split, source in found.splits.items():
        assert [source.describe(row) for row in range(len(source))] == [
            splits[split].describe(row) for row in range(len(splits[split]))
        ]
    assert not found.unreadable
    assert not found.duplicates
    assert not found.conflicts
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
        "labels are the numbers 0 to 2",
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


def test_targets_that_do_not_differ_are_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for rows, line in (
        (
            "a,3,1\nb,3,2",
            "train: 2 texts, 2 values each; values 1 are the same in all of them (3): nothing to learn",
        ),
        (
            "a,3,2\nb,3,2",
            "train: 2 texts, 2 values each; values 1, 2 are the same in all of them (3, 2): nothing to l",
        ),
    ):
        path.write_text(f"text,x,y\n{rows}\n")
        config = SOURCES["table"].Config(path=str(path), val_fraction=0.0, label_column="x;y")
        found = inspect(SOURCES["table"].open(config, Labels("regression")), config, INPUTS["tokens"])
        assert found.lines[1].startswith(line)


def test_the_same_image_in_two_splits_is_named(tmp_path: Path) -> None:
    folder(tmp_path, {"train/ant": 3, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    (tmp_path / "val/ant/copy.png").write_bytes((tmp_path / "train/ant/1.png").read_bytes())
    splits, config = open_folder(tmp_path)
    found = inspect(splits, config, image.INPUT)
    assert found.duplicates == [(str(tmp_path / "train/ant/1.png"), str(tmp_path / "val/ant/copy.png"))]
    assert "1 image is in two splits" in found.lines[-1]
    assert "copy.png" in found.lines[-1]


def test_the_same_image_under_two_classes_of_a_split_is_named(tmp_path: Path) -> None:
    folder(tmp_path, {"train/benign": 6, "train/malign": 6, "val/benign": 1, "val/malign": 1})
    for place in range(4):
        copy = (tmp_path / f"train/benign/{place}.png").read_bytes()
        (tmp_path / f"train/malign/copy{place}.png").write_bytes(copy)
    (tmp_path / "train/benign/again.png").write_bytes((tmp_path / "train/benign/5.png").read_bytes())
    splits, config = open_folder(tmp_path)
    found = inspect(splits, config, image.INPUT)
    assert len(found.conflicts) == 4
    first, other = tmp_path / "train/benign/0.png", tmp_path / "train/malign/copy0.png"
    assert found.lines[2].startswith(
        f"train: 4 images stand there again under another label: {first} (benign) = {other} (malign), "
    )
    assert found.lines[3] == (
        f"train: 1 image repeats others: {tmp_path / 'train/benign/5.png'} = "
        f"{tmp_path / 'train/benign/again.png'}"
    )


@pytest.mark.parametrize(
    ("kind", "cells", "words"),
    [
        ("class", ["a", "b"], ["a", "b"]),
        ("multilabel", ["a;b", "b"], ["a, b", "b"]),
        ("regression", ["0.5", "2"], ["0.5", "2"]),
    ],
)
def test_equal_texts_of_other_labels_are_named_with_them(
    tmp_path: Path, kind: str, cells: list[str], words: list[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\nsame,{cells[0]}\nother,{cells[1]}\nsame,{cells[1]}\nsame,{cells[0]}\n")
    config = SOURCES["table"].Config(path=str(path), val_fraction=0.0)
    found = inspect(SOURCES["table"].open(config, Labels(kind)), config, INPUTS["tokens"])
    first, other, copy = (f"row {row} of {path}" for row in (2, 4, 5))
    assert found.conflicts == [(f"{first} ({words[0]})", f"{other} ({words[1]})")]
    assert f"train: 1 text repeats others: {first} = {copy}" in found.lines


@pytest.mark.parametrize("settings", [{}, {"val_fraction": 0.0}, {"folds": 2}, {"train_per_class": 3}])
def test_a_file_that_is_gone_is_skipped_and_named_however_the_set_is_split(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder(tmp_path, {"ash": 8, "birch": 8})
    (tmp_path / "ash/empty.png").write_bytes(b"")
    (tmp_path / "birch/gone.png").symlink_to(tmp_path / "nowhere.png")
    splits, config = open_folder(tmp_path, max_unreadable=5, **settings)
    found = inspect(splits, config, image.INPUT)
    assert any("birch/gone.png" in each for each in found.unreadable)
    assert sum(map(len, found.splits.values())) + len(found.unreadable) == sum(map(len, splits.values()))
    with pytest.raises(UserError, match=r"(is|are) unreadable, expected at most 0: cannot read"):
        inspect(*open_folder(tmp_path, **settings), image.INPUT)


@pytest.mark.parametrize(("is_split", "num_reads"), [(True, 1), (False, 2)])
def test_examples_are_read_once_and_once_more_where_a_split_goes_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_split: bool, num_reads: int
) -> None:
    classes = [
        f"{split}{name}" for split in (("train/", "val/") if is_split else ("",)) for name in ("a", "b")
    ]
    folder(tmp_path, dict.fromkeys(classes, 6))
    opened: list[str] = []

    def counting(path: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr(files, "open", counting, raising=False)
    splits, config = open_folder(tmp_path)
    found = inspect(splits, config, image.INPUT)
    for source in found.splits.values():
        preflight.digest(source)
        pickle.loads(pickle.dumps(source))
    assert len(opened) == num_reads * 6 * len(classes)


def test_more_examples_a_class_than_there_are_is_said(tmp_path: Path) -> None:
    folder(tmp_path, {"ash": 8, "birch": 3})
    splits, config = open_folder(tmp_path, train_per_class=5, val_fraction=0.0)
    found = inspect(splits, config, image.INPUT)
    assert found.lines[0] == (
        "data.train_per_class is 5, more than 1 of 2 classes have for training, which keep all: birch: 3"
    )
    assert len(found.splits["train"]) == 8


def test_a_large_split_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MAX_CHECKED", 4)
    folder(tmp_path, {"train/ant": 8, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    (tmp_path / "train/ant/1.png").write_bytes(b"no image")
    splits, config = open_folder(tmp_path)
    assert "train: read 4 of 9 images to check them" in inspect(splits, config, image.INPUT).lines
    splits, config = open_folder(tmp_path, max_unreadable=1)
    assert len(inspect(splits, config, image.INPUT).unreadable) == 1


def test_of_a_large_split_a_part_tells_whether_it_changed_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MAX_CHECKED", 4)
    folder(tmp_path, {"train/ant": 8, "train/bee": 1, "val/ant": 2, "val/bee": 1})
    splits, _ = open_folder(tmp_path)
    assert preflight.sampled(splits, "images") == [
        "train: 4 of 9 images, evenly spaced, tell a run that goes on whether they are still the same: a "
        "change of the others is not noticed"
    ]
    before = preflight.digest(splits["train"])
    (tmp_path / "train/ant/1.png").write_bytes(png(pixels(99)))
    assert preflight.digest(open_folder(tmp_path)[0]["train"]) == before
    (tmp_path / "train/ant/0.png").write_bytes(png(pixels(98)))
    assert preflight.digest(open_folder(tmp_path)[0]["train"]) != before


def test_real_photos_pass(real_path: Any) -> None:
    splits, config = open_folder(real_path("images/hymenoptera"))
    found = inspect(splits, config, image.INPUT)
    assert found.lines[0] == "train: 244 images, 2 classes, largest:smallest 1.0 (ants: 123, bees: 121)"
    assert np.all([len(source) for source in found.splits.values()] == [244, 153])


def test_names_that_are_no_utf8_are_shown_as_their_bytes(tmp_path: Path) -> None:
    root = tmp_path / "caf\udce9"
    folder(root, {"p\udce9": 3, "b": 3})
    paths = [f"{name}/{place}.png" for name in ("p\udce9", "b") for place in range(3)]
    rows = [f"{path},{path[0]}" for path in paths if path.startswith("b")]
    (root / "a.csv").write_text("\n".join(["path,label", *rows]))
    (root / "text.csv").write_text("text,label\na,x\nb,y\n")
    np.savez(root / "a.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.arange(2))
    write_tar(root / "a.tar", [(f"p\udce9.{ending}", b"x") for ending in ("png", "cls")])
    opened = {
        "image_folder": root,
        "table": root / "a.csv",
        "arrays": root / "a.npz",
        "webdataset": root / "a.tar",
    }
    kinds = [*opened.items(), ("table", root / "text.csv")]
    for name, path in kinds:
        config = SOURCES[name].Config(path=str(path), val_fraction=0.0)
        source = SOURCES[name].open(config, Labels())["train"]
        for row in range(len(source)):
            source[row]
            assert r"caf\xe9" in source.describe(row).encode().decode()
        "".join(source.info.label_names).encode()


def test_json_brings_back_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    value = {"path": "caf\udce9/é", "names": ["p\\xe9"]}
    summary.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_what_reading_images_loses_is_told_split_by_split_and_handed_on(tmp_path: Path) -> None:
    folder(tmp_path, {"train/ant": 2, "train/bee": 2, "val/ant": 1, "val/bee": 1})
    clear = Image.fromarray(np.full((4, 4, 4), (9, 9, 9, 0), np.uint8))
    clear.save(tmp_path / "train/ant/clear.png")
    Image.fromarray(np.full((4, 4), 900, np.uint16)).save(tmp_path / "val/bee/deep.png")
    splits, config = open_folder(tmp_path)
    found = inspect(splits, config, image.INPUT)
    (line,) = [each for each in found.lines if "transparent" in each]
    assert line.startswith("train: 1 image is transparent in part: the colours beneath are read")
    assert str(tmp_path / "train/ant/clear.png") in line
    assert [facts.peak for facts in found.facts if facts.peak is not None] == [900]
    preprocess, lines = image.INPUT.fitted(Preprocess(), found.facts, image.INPUT.Changes(), is_trained=False)
    assert preprocess.white_level == 1023
    assert "preprocess.white_level=1023 (from what they use)" in lines[0]
