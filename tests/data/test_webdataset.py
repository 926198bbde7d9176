"""Tar archives as data: which files are an example, where their bytes stand, and what is said of bad ones."""

import gzip
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from jtl.data import Labels, tar
from jtl.data.contract import NO_LABELS
from jtl.data.tell import kind_of
from jtl.errors import UserError
from jtl.inputs import Unreadable
from tests.data.conftest import pixels, png, write_tar
from tests.data.test_texts import only, open_kind

NAME = "webdataset"


def files_of(places: range, **more: Any) -> list[tuple[str, bytes]]:
    """Return the files of examples: an image each, and what `more` says by ending, (place) → text."""
    return [
        (f"{place:06}.{ending}", png(pixels(place)) if make is None else make(place).encode())
        for place in places
        for ending, make in ({"png": None} | more).items()
    ]


def cls(place: int) -> str:
    return f"{place % 3}\n"


def test_examples_are_read_where_they_stand(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(range(6), cls=cls))
    assert kind_of(str(path)) == NAME
    source = pickle.loads(pickle.dumps(only(path, name=NAME)))
    assert source.labels().tolist() == [0, 1, 2, 0, 1, 2]
    assert source.info.notes == ("image of png, labels of cls", "labels are the numbers 0 to 2")
    assert [source[row]["raw"] for row in range(6)] == [png(pixels(place)) for place in range(6)]
    assert source.describe(2) == f"000002.png in {path}"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "names", [("train-000000", "train-000001", "val-000000"), ("train/0", "train/1", "val/0")]
)
def test_archives_are_split_by_their_names_or_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        path = tmp_path / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        write_tar(path, files_of(range(4 * number, 4 * number + 4), cls=cls))
    assert kind_of(str(tmp_path)) == NAME
    splits = open_kind(tmp_path, name=NAME)
    assert {split: len(source) for split, source in splits.items()} == {"train": 8, "val": 4}
    assert [splits["train"][row]["raw"] for row in (0, 7)] == [png(pixels(0)), png(pixels(7))]


def test_archives_that_say_no_split_are_all_for_training(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"photos-{number:06}.tar", files_of(range(4 * number, 4 * number + 4), cls=cls))
    assert len(only(tmp_path, name=NAME)) == 8
    write_tar(tmp_path / "val-000000.tar", files_of(range(9, 10), cls=cls))
    with pytest.raises(UserError, match=r"holds 'photos-000000.tar', which says no split, beside arch"):
        open_kind(tmp_path, name=NAME)


@pytest.mark.parametrize(
    ("more", "settings", "note"),
    [
        ({"json": lambda place: json.dumps({"Label": cls(place).strip(), "x": {}})}, {}, "json.Label"),
        ({"json": lambda place: json.dumps({"kind": place % 3})}, {"label_column": "json.kind"}, "json.kind"),
        ({"txt": cls}, {}, "txt"),
        ({"txt": lambda place: "a caption", "cls": cls}, {}, "cls"),
        ({"tag": cls, "cls": lambda place: "x"}, {"label_column": "tag"}, "tag"),
    ],
)
def test_label_is_found(tmp_path: Path, more: dict[str, Any], settings: dict[str, str], note: str) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(range(6), **more))
    source = only(path, name=NAME, **settings)
    assert source.labels().tolist() == [0, 1, 2, 0, 1, 2]
    assert source.info.notes[0] == f"image of png, labels of {note}"


def test_several_labels_or_none(tmp_path: Path) -> None:
    tags = [["a"], ["a", "b"], []]
    path = write_tar(
        tmp_path / "a.tar", files_of(range(3), json=lambda place: json.dumps({"tags": tags[place]}))
    )
    assert only(path, Labels("multilabel"), NAME).labels().tolist() == [[1, 0], [1, 1], [0, 0]]
    path = write_tar(tmp_path / "b.tar", files_of(range(3)))
    assert only(path, Labels(NO_LABELS), NAME).labels() is None


def test_texts_are_read_where_there_are_no_images(tmp_path: Path) -> None:
    files = [
        (f"{place}.{ending}", text)
        for place in range(2)
        for ending, text in (("txt", b"good"), ("cls", b"1"))
    ]
    source = only(write_tar(tmp_path / "a.tar", files), name=NAME)
    assert source.info.holds == "text"
    assert source[0]["raw"] == b"good"


def test_masks_and_hidden_files_are_not_the_image(tmp_path: Path) -> None:
    image = png(pixels(0))
    files = [
        ("a/x.png", image),
        ("a/x.seg.png", b"mask"),
        ("a/._x.png", b"mac"),
        ("a/x.cls", b"k"),
        ("readme", b""),
    ]
    source = only(write_tar(tmp_path / "a.tar", files), name=NAME)
    assert [source[row]["raw"] for row in range(len(source))] == [image]
    assert only(tmp_path / "a.tar", name=NAME, content_column="seg.png")[0]["raw"] == b"mask"
    write_tar(tmp_path / "b.tar", [("x.png", image), ("x.jpg", image), ("x.cls", b"k")])
    with pytest.raises(UserError, match=r"x in .*b.tar has files ending in jpg, png; set config.data.con"):
        only(tmp_path / "b.tar", name=NAME)
    assert len(only(tmp_path / "b.tar", name=NAME, content_column="jpg")) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("x.png", b"x")], r"x in .*a.tar has files ending in png; expected a label: .cls, or a .json with"),
        ([("x.bin", b"x"), ("x.cls", b"x")], "the files of .*a.tar end in bin, cls; expected images"),
        (
            [("x.png", b""), ("x.cls", b"0"), ("y.cls", b"1")],
            "y in .*a.tar has files ending in cls, exp",
        ),
        ([("x.png", b""), ("x.cls", b"0"), ("y.png", b"1")], "y in .*a.tar has no .cls, only png; add it"),
        ([("x.png", b""), ("x.cls", b"\xff")], "x.cls in .*a.tar is no UTF-8"),
        ([("x.png", b""), ("x.cls", b"")], "label missing: x in .*a.tar has none"),
        ([("x.png", b""), ("x.png", b"")], "holds 'x.png' twice"),
        ([("x.png", b""), ("x.json", b"{")], "the json of x in .*a.tar is none: '{'; expected an object"),
        ([("x.png", b""), ("x.json", b"[]")], "the json of x in .*a.tar is a list, expected an object"),
        (
            [("x.png", b""), ("x.json", b'{"label": {}}')],
            "x in .* has {} for 'label', expected a text",
        ),
        ([], "the archives of the train split hold no files"),
    ],
)
def test_bad_archive_is_told_in_one_line(
    tmp_path: Path, files: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        only(write_tar(tmp_path / "a.tar", files), name=NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_places_are_those_of_another_reader(tmp_path: Path, form: int) -> None:
    long = "d" * 90 + "/" + "n" * 90
    files = [(f"{long}.png", b"x" * 700), ("é.png", b""), ("short.cls", b"0" * 512)]
    path = write_tar(tmp_path / "a.tar", files, form)
    with tarfile.open(path) as archive:
        expected = [(each.name, each.offset_data, each.size) for each in archive]
    assert [tuple(each) for each in tar.members(str(path))] == expected


def test_archive_that_is_cut_anywhere_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(range(3), cls=cls))
    whole = path.read_bytes()
    end = max(each.offset + each.size for each in tar.members(str(path)))
    for length in (*range(0, end, 333), end):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cannot read .*a.tar: .*; expected a complete tar archive"):
            tar.members(str(path))


def test_archive_in_another_packing_or_followed_by_another_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x.png", bytes(1 << 17))])
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match=r"a.tar is compressed by gzip, .*; unpack the archive to"):
        tar.members(str(path))
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match=r"it ends at byte .* and goes on"):
        tar.members(str(path))


def test_archive_that_is_cut_after_it_was_opened_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(range(2), cls=cls))
    source = only(path, name=NAME)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(Unreadable, match=r"a.tar is cut short"):
        source[1]
    path.unlink()
    with pytest.raises(Unreadable, match=r"a.tar: No such file"):
        source[0]
