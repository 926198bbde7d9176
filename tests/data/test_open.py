"""What each kind of source accepts, and what it says of data it does not."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import SOURCES, Labels, Source
from jtl.errors import UserError
from tests.data.conftest import CLASS, pixels, png


def put(root: Path, *paths: str) -> None:
    """Write a different small image at each path under root."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(pixels(seed)))


def open_kind(name: str, path: Path, labels: Labels = CLASS, **settings: Any) -> dict[str, Source]:
    return SOURCES[name].open(SOURCES[name].Config(path=str(path), **settings), labels)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_split_folders_are_splits(tmp_path: Path, name: str) -> None:
    put(tmp_path, "train/ant/0.png", "train/bee/1.png", f"{name}/ant/2.png", f"{name}/bee/3.png")
    put(tmp_path, "test/ant/a.png", "test/bee/b.png")
    splits = open_kind("image_folder", tmp_path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert splits["val"].describe(0).endswith(f"{name}/ant/2.png")


def test_a_test_folder_is_kept_when_validation_is_split_off(tmp_path: Path) -> None:
    put(
        tmp_path,
        *(
            f"{split}/{kind}/{place}.png"
            for split in ("train", "test")
            for kind in "ab"
            for place in range(5)
        ),
    )
    splits = open_kind("image_folder", tmp_path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 8, "val": 2, "test": 10}


def test_hidden_files_and_notes_are_ignored_and_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    put(
        tmp_path,
        "ant/0.png",
        "ant/.1.png",
        "ant/deep/2.JPG",
        ".cache/3.png",
        "bee/4.png",
        "__MACOSX/ant/5.png",
    )
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("x")
    source = open_kind("image_folder", tmp_path, val_fraction=0.0)["train"]
    assert [Path(source.describe(index)).name for index in range(len(source))] == ["0.png", "2.JPG", "4.png"]


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    put(tmp_path, "train/0.png", "car/1.png")
    source = open_kind("image_folder", tmp_path, val_fraction=0.0)["train"]
    assert source.info.label_names == ("car", "train")


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "set/ant/0.png", "set/bee/1.png", "elsewhere/2.png")
    (tmp_path / "set/ant/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/ant/loop").symlink_to(tmp_path / "set/ant")
    assert len(open_kind("image_folder", tmp_path / "set", val_fraction=0.0)["train"]) == 3


def test_renaming_files_keeps_the_split(tmp_path: Path) -> None:
    paths = [f"{kind}/{place}.png" for kind in "ab" for place in range(10)]
    put(tmp_path / "one", *paths)
    put(tmp_path / "two", *(path.replace("/", "/other/z") for path in paths))
    before, after = open_kind("image_folder", tmp_path / "one"), open_kind("image_folder", tmp_path / "two")
    for split in ("train", "val"):
        assert {before[split].fingerprint(row) for row in range(len(before[split]))} == {
            after[split].fingerprint(row) for row in range(len(after[split]))
        }


def test_equal_images_land_on_the_same_side(tmp_path: Path) -> None:
    put(tmp_path, *(f"{kind}/{place}.png" for kind in "abc" for place in range(10)))
    for place in range(10):
        shutil.copy(tmp_path / f"a/{place}.png", tmp_path / f"a/copy{place}.png")
        shutil.copy(tmp_path / f"a/{place}.png", tmp_path / f"b/other{place}.png")
    splits = open_kind("image_folder", tmp_path)
    sides = [{source.fingerprint(row) for row in range(len(source))} for source in splits.values()]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/ant/0.png", "val/bee/1.png"], "classes unknown to .*train: 'bee'"),
        (["train/ant/0.png", "train/bee/0.png", "val/ant/1.png"], "no folder for classes: 'bee'"),
        (["val/ant/0.png"], "holds val but no train; add it"),
        (["train/ant/0.png", "val/ant/1.png", "vaild/ant/1.png"], "holds 'vaild' beside its splits"),
        (["train/ant/0.png", "val/ant/1.png", "valid/ant/1.png"], "holds 'val' and 'valid', keep one"),
        (
            ["data/ant/0.png", "data/bee/1.png"],
            "holds one class folder, 'data'; expected two or more",
        ),
        (["0.png", "ant/1.png"], r"1 image outside a class folder \('0.png'"),
        (["ant/0.png", "bee/1.png"], "no class has two different images"),
    ],
)
def test_a_folder_that_is_not_one_of_classes_is_an_error(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    put(tmp_path, *paths)
    with pytest.raises(UserError, match=message):
        open_kind("image_folder", tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    put(tmp_path, "ant/0.png")
    (tmp_path / "bee").mkdir()
    with pytest.raises(UserError, match=r"class folder .*bee is empty"):
        open_kind("image_folder", tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no class folders"):
        open_kind("image_folder", tmp_path)
    with pytest.raises(UserError, match="a folder of images gives one class an example"):
        open_kind("image_folder", tmp_path, Labels("regression"))


def test_evaluation_opens_some_of_a_runs_classes_without_a_training_split(tmp_path: Path) -> None:
    put(tmp_path, "test/bee/0.png", "test/bee/1.png")
    splits = open_kind("image_folder", tmp_path, Labels(names=("ant", "bee")))
    assert splits.keys() == {"test"}
    assert splits["test"].labels().tolist() == [1, 1]


TABLES = {
    "header.csv": "label,path\nant,a.png\nbee,sub/b.png\n",
    "filename.csv": "\ufefffilename,label\na.png, ant\nsub/b.png,bee \n",
    "bare.tsv": "a.png\tant\nsub/b.png\tbee\n",
}


@pytest.mark.parametrize("name", [*TABLES, "table.parquet"])
def test_a_table_is_read_in_any_of_its_forms(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a.png", "sub/b.png")
    if name == "table.parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(
            pyarrow.table({"path": ["a.png", "sub/b.png"], "label": ["ant", "bee"]}), tmp_path / name
        )
    else:
        (tmp_path / name).write_text(TABLES[name])
    source = open_kind("table", tmp_path / name, val_fraction=0.0)["train"]
    assert source.info.label_names == ("ant", "bee")
    assert source.labels().tolist() == [0, 1]
    assert source.describe(1) == str(tmp_path / "sub/b.png")


def test_a_split_column_makes_splits(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "t.csv").write_text("a.png,0,train\nb.png,1,train\nc.png,1,valid\n")
    splits = open_kind("table", tmp_path / "t.csv")
    assert splits["train"].labels().tolist() == [0, 1]
    assert splits["val"].labels().tolist() == [1]


def test_a_table_gives_several_labels_or_numbers(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "tags.csv").write_text("path,label\na.png,x;y\nb.png,\n")
    source = open_kind("table", tmp_path / "tags.csv", Labels("multilabel"), val_fraction=0.0)["train"]
    assert source.labels().tolist() == [[1, 1], [0, 0]]
    assert source.info.label_names == ("x", "y")
    (tmp_path / "numbers.csv").write_text("path,label_x,label_y\na.png,1,2\nb.png,3,4\n")
    with pytest.raises(UserError, match=r"expected one of label, .*label_column='label_x;label_y'"):
        open_kind("table", tmp_path / "numbers.csv", Labels("regression"))
    source = open_kind(
        "table",
        tmp_path / "numbers.csv",
        Labels("regression"),
        val_fraction=0.0,
        label_column="label_x;label_y",
    )["train"]
    assert source.labels().tolist() == [[1, 2], [3, 4]]
    assert source.labels().dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\na.png,0\nz.png,1\n",
            "row 3 of .*: image 'z.png' is not in .* \\(1 of 2 are missing\\)",
        ),
        ("path,label\na.png,0\nb.png\n", "row 3 of .* has 1 columns, expected 2"),
        ("path,label\n", "has no rows"),
        ("", "is empty"),
        ("a.png\n", "has the columns path; expected one of label"),
        ("path,kind\na.png,0\n", "has the columns path, kind; expected one of label"),
        ("path,label,split\na.png,0,trian\n", "row 2 of .*: split 'trian' is unknown"),
        ("path,label,split\na.png,0,val\n", "has rows for val but none for train"),
        ("path,label\na.png,0\nb.png,-2\n", "label out of range: row 3 of .* has -2"),
    ],
)
def test_a_bad_table_is_an_error_that_names_the_row(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_kind("table", tmp_path / "t.csv")


def test_a_label_outside_the_given_classes_names_its_row(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "t.tsv").write_text("a.png\t0\nb.png\t1000\n")
    with pytest.raises(UserError, match=r"label out of range: row 2 of .*t.tsv has 1000, expected 0 to 999"):
        open_kind("table", tmp_path / "t.tsv", Labels(names=tuple(map(str, range(1000)))))


def test_a_damaged_or_unknown_table_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"cannot read .*t.parquet: .*expected a complete Parquet file"):
        open_kind("table", tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="expected UTF-8 text"):
        open_kind("table", tmp_path / "t.csv")
    (tmp_path / "t.xls").write_bytes(b"x")
    with pytest.raises(UserError, match=r"ends in '.xls'; expected .csv, .tsv, .parquet"):
        open_kind("table", tmp_path / "t.xls")


def test_digits_take_no_path() -> None:
    with pytest.raises(UserError, match="'digits' is embedded"):
        SOURCES["digits"].Config(path="somewhere")


def test_digits_span_the_bytes(opened: Any) -> None:
    source = opened("digits", val_fraction=0.0)["train"]
    assert len(source) == 1797
    assert source[0]["raw"].shape == (8, 8, 1)
    assert max(source[row]["raw"].max() for row in range(100)) == 255


def test_what_a_folder_holds_beside_examples_is_named_and_strays_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/ant/0", "train/ant/1.jfif", "train/bee/2.png", "val/ant/3.png", "val/bee/4.png")
    for name in ("train/labels.csv", "train/ant/notes.txt", "licence", "val/.hidden"):
        (tmp_path / name).write_text("no image")
    splits = open_kind("image_folder", tmp_path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 3, "val": 2}
    for source in splits.values():
        assert source.info.notes == (
            f"passed over 3 files in {tmp_path}, by their endings no images: licence, train/labels.csv, "
            "train/ant/notes.txt",
        )
    put(tmp_path, "train/stray")
    with pytest.raises(UserError, match=r"train holds 1 image outside a class folder \('stray', …\)"):
        open_kind("image_folder", tmp_path)


def test_an_empty_class_of_a_split_is_told_to_leave_all_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/ant/0.png", "train/bee/1.png", "val/ant/2.png")
    (tmp_path / "val/bee").mkdir()
    with pytest.raises(UserError, match=r"val/bee is empty; add images or remove the class from every split"):
        open_kind("image_folder", tmp_path)


def test_a_pipe_in_a_folder_is_passed_over_and_a_broken_link_is_an_example(tmp_path: Path) -> None:
    put(tmp_path, "ant/0.png", "bee/1.png")
    os.mkfifo(tmp_path / "ant/pipe.png")
    (tmp_path / "bee/gone.png").symlink_to("/nowhere/gone.png")
    source = open_kind("image_folder", tmp_path, val_fraction=0.0)["train"]
    assert [Path(source.describe(row)).name for row in range(len(source))] == ["0.png", "1.png", "gone.png"]
    assert source.info.notes == (
        f"passed over 1 file in {tmp_path}, by their endings no images: ant/pipe.png (no file)",
    )


def test_a_failing_disk_is_no_damage_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "ant/0.png", "bee/1.png")
    source = open_kind("image_folder", tmp_path, val_fraction=0.0)["train"]

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)
    for read in (source.__getitem__, source.fingerprint):
        with pytest.raises(OSError, match="Input/output error"):
            read(0)
