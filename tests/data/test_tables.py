"""Tables as files: forms, delimiters, encodings, and what is said of damaged ones."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from jtl.data import Labels
from jtl.data.columns import PATH_COLUMNS
from jtl.data.contract import NO_LABELS
from jtl.data.tell import kind_of
from jtl.errors import UserError
from tests.data.conftest import pixels, png
from tests.data.test_texts import only, open_kind, raws, write

CLASSES = ("ash", "birch", "cedar")


def pictures(root: Path, count: int = 6) -> list[tuple[str, str]]:
    """Write pictures under root, and return their paths and classes."""
    found = []
    for place in range(count):
        write(root / f"img/{place}.png", png(pixels(place)))
        found.append((f"img/{place}.png", CLASSES[place % len(CLASSES)]))
    return found


def rows_of(path: Path, header: str, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    lines = [header, *(delimiter.join(row) for row in rows)]
    return write(path, "\n".join(lines) + "\n")


def notes(source: Any) -> str:
    return " | ".join(source.info.notes)


@pytest.mark.parametrize("name", [*PATH_COLUMNS, "File_Name"])
def test_paths_are_found_by_the_customary_names_of_their_column(tmp_path: Path, name: str) -> None:
    source = only(rows_of(tmp_path / "a.csv", f"{name},label", pictures(tmp_path)))
    assert len(source) == 6
    assert source.info.label_names == CLASSES
    assert source.info.notes[0] == f"image of column {name!r}, labels of 'label'"


def test_a_picture_beside_a_text_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "photo,text,label\nx.png,good,1\ny.png,bad,0\n")
    assert raws(only(path)) == ["good", "bad"]
    assert "text of column 'text'" in notes(only(path))


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    name = "n" * 5000
    path = write(tmp_path / "a.csv", f"text,label\na,{name}\nb,y\n")
    assert len(notes(only(path))) < 300
    with pytest.raises(UserError, match="label unknown: row 3 of") as caught:
        only(path, Labels(names=(name, "z" * 5000), reading="names"))
    assert len(str(caught.value)) < 800
    with pytest.raises(UserError, match="has the columns text, n") as caught:
        only(write(tmp_path / "b.csv", f"text,{name}\na,x\n"))
    assert len(str(caught.value)) < 800
    wide = write(tmp_path / "c.csv", ",".join(f"column{place}" for place in range(3000)) + "\n")
    with pytest.raises(UserError, match=r"c\.csv begins") as caught:
        only(wide)
    assert len(str(caught.value)) < 1500


def test_an_unknown_header_is_no_row_and_its_columns_are_named(tmp_path: Path) -> None:
    path = rows_of(tmp_path / "a.csv", "picture_of,kind", pictures(tmp_path))
    with pytest.raises(UserError, match=r"begins with picture_of, kind, .*set config.data.path_column=NAME"):
        only(path)
    with pytest.raises(UserError, match=r"has the columns picture_of, kind; .*config.data.label_column=NAME"):
        only(path, path_column="picture_of")
    assert len(only(path, path_column="picture_of", label_column="kind")) == 6


def test_columns_whose_names_begin_alike_are_not_joined(tmp_path: Path) -> None:
    rows = [(path, name, str(CLASSES.index(name))) for path, name in pictures(tmp_path)]
    path = rows_of(tmp_path / "a.csv", "path,label,label_id", rows)
    for kind in ("class", "multilabel"):
        source = only(path, Labels(kind))
        assert source.info.label_names == CLASSES
        assert source.info.notes[0] == "image of column 'path', labels of 'label' (not of 'label_id')"
    assert only(path, Labels("regression"), label_column="label_id").labels().shape == (6, 1)
    with pytest.raises(
        UserError, match="is 'label;label_id', and an example has one class; expected one col"
    ):
        only(path, label_column="label;label_id")


def test_columns_of_yes_and_no_are_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,Cat,dog,Bird\na,1,0,0\nb,1.0,True,0\nc,0,,false\n")
    source = only(path, Labels("multilabel"), label_column="cat;dog;bird")
    assert source.info.label_names == ("Cat", "dog", "Bird")
    assert source.labels().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    path = write(tmp_path / "b.csv", "text,one,two\na,x,y\nb,,z\n")
    assert only(path, Labels("multilabel"), label_column="one;two").labels().tolist() == [
        [1, 1, 0],
        [0, 0, 1],
    ]


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
@pytest.mark.parametrize("header", ["path,label", ""], ids=["header", "without"])
def test_delimiter_is_found_and_said(tmp_path: Path, delimiter: str, name: str, header: str) -> None:
    rows = [tuple(header.split(","))] if header else []
    lines = [delimiter.join(row) for row in [*rows, *pictures(tmp_path)]]
    source = only(write(tmp_path / "a.csv", "\n".join(lines) + "\n"))
    assert source.info.label_names == CLASSES
    assert source.info.notes[0] == f"a.csv: columns are separated by {name}"


def test_delimiter_of_texts_with_commas_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text;score\n"good, very; good";0.5\nwell, bad;1\n')
    assert raws(only(path, Labels("regression"))) == ["good, very; good", "well, bad"]
    path = write(tmp_path / "b.tsv", "text,label\ngood,1\nbad,0\n")
    assert notes(only(path)).startswith("b.tsv: columns are separated by commas | text of column")
    path = write(tmp_path / "c.csv", "text\ngood; really\nbad | worse\n")
    assert raws(only(path, Labels(NO_LABELS))) == ["good; really", "bad | worse"]


@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-8", codecs.BOM_UTF8, ""),
        ("utf-16-le", codecs.BOM_UTF16_LE, "a.csv: read as UTF-16, by its mark | "),
        ("utf-16-be", codecs.BOM_UTF16_BE, "a.csv: read as UTF-16, by its mark | "),
        ("utf-32-le", codecs.BOM_UTF32_LE, "a.csv: read as UTF-32, by its mark | "),
    ],
)
def test_encoding_is_found_by_its_mark_and_said(
    tmp_path: Path, encoding: str, mark: bytes, said: str
) -> None:
    content = mark + "text,label\nschön,café\nübel,b\n".encode(encoding)
    source = only(write(tmp_path / "a.csv", content))
    assert raws(source) == ["schön", "übel"]
    assert notes(source).startswith(f"{said}text of column")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nschön,1\n".encode("latin-1"), "byte 0xf6 in line 2 is no UTF-8; .*save it as that"),
        ("text,label\nschön,1\n".encode("utf-16-le"), "is no UTF-8|holds NUL characters"),
        ("text,label\ngood,1\n".encode("utf-16-le"), "holds NUL characters, as UTF-16 without a mark"),
        (codecs.BOM_UTF16_LE + b"abc", "is no UTF-16; expected UTF-8 text"),
    ],
)
def test_another_encoding_is_refused_with_the_cure(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        only(write(tmp_path / "a.csv", content))


def test_path_is_found_whatever_its_form_of_writing(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, f"caf\u00e9 {form}/caf\u00e9.png") for form in ("NFC", "NFD")]
    for place, name in enumerate(names):
        write(tmp_path / name, png(pixels(place)))
    written = [unicodedata.normalize(form, name) for form, name in zip(("NFD", "NFC"), names, strict=True)]
    write(tmp_path / "sub/c.png", png(pixels(3)))
    rows = [(written[0], "a"), (written[1], "b"), ("sub\\c.png", "a"), (" sub/c.png", "b")]
    source = only(rows_of(tmp_path / "a.csv", "path,label", rows))
    assert [source[row]["raw"] for row in (0, 1)] == [(tmp_path / name).read_bytes() for name in names]
    assert source.describe(2) == source.describe(3) == str(tmp_path / "sub/c.png")
    assert source.info.notes[-1].startswith("4 paths name files in another form of writing: ")
    with pytest.raises(UserError, match=r"row 2 of .*: image 'x{100,120}… \(300 characters\) is not in"):
        only(rows_of(tmp_path / "b.csv", "path,label", [("x" * 300, "a"), ("y", "b")]))


def test_classes_in_two_unicode_forms_are_one(tmp_path: Path) -> None:
    rows = [
        (path, unicodedata.normalize("NFC" if place % 2 else "NFD", f"caf\u00e9 {place // 3}"))
        for place, (path, _) in enumerate(pictures(tmp_path))
    ]
    source = only(rows_of(tmp_path / "a.csv", "path,label", rows))
    assert source.info.label_names == ("caf\u00e9 0", "caf\u00e9 1")


def test_folders_of_classes_in_two_unicode_forms_are_one(tmp_path: Path) -> None:
    places = iter(range(20))
    for split, form in (("train", "NFC"), ("train", "NFD"), ("val", "NFD")):
        for name in ("\u00e9tude", "fugue"):
            folder = tmp_path / split / unicodedata.normalize(form, name)
            write(folder / f"{next(places)}.png", png(pixels(next(places))))
    splits = open_kind(tmp_path, name="image_folder")
    assert splits["train"].info.label_names == ("fugue", "\u00e9tude")
    assert splits["train"].labels().tolist() == [0, 0, 1, 1]
    assert splits["val"].labels().tolist() == [0, 1]
    assert {len(each["raw"]) > 0 for each in map(splits["train"].__getitem__, range(4))} == {True}
    again = open_kind(tmp_path, Labels(names=("fugue", "e\u0301tude"), reading="names"), "image_folder")
    assert again["val"].labels().tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["nan", "", "<NA>"])
def test_missing_label_names_its_row(tmp_path: Path, cell: str) -> None:
    rows = [*pictures(tmp_path), ("img/0.png", cell)]
    with pytest.raises(
        UserError, match=r"label missing: row 8 of .*a.csv has ('nan'|none|'<NA>'), expected a"
    ):
        only(rows_of(tmp_path / "a.csv", "path,label", rows))


def test_large_ids_are_as_many_classes_as_there_are(tmp_path: Path) -> None:
    ids = {"ash": "1002034", "birch": "1002041", "cedar": str(2**40)}
    rows = [(path, ids[name]) for path, name in pictures(tmp_path)]
    source = only(rows_of(tmp_path / "a.csv", "path,label", rows))
    assert source.info.label_names == tuple(ids.values())
    assert "labels are numbers, taken as names of 3 classes: 1002034, 1002041, 10995" in notes(source)


def test_objects_in_cells_are_refused_where_they_are_read(tmp_path: Path) -> None:
    lines = [{"text": {"en": "good"}, "label": 1, "meta": {"a": 1}}, {"text": "bad", "label": 0}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(
        UserError, match=r"row 1 of .* has an object in column 'text': {'en': 'good'}; expected"
    ):
        only(path)
    lines[0]["text"] = "good"
    assert raws(only(write(path, "".join(json.dumps(each) + "\n" for each in lines)))) == ["good", "bad"]
    with pytest.raises(UserError, match=r"row 1 of .* has 2 labels in column 'label', expected one"):
        only(write(path, '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": "x"}\n'))


def test_metadata_beside_images_is_their_table(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = pictures(tmp_path / split)
        rows_of(tmp_path / split / "metadata.csv", "file_name,label", rows)
    assert kind_of(str(tmp_path)) == "table"
    splits = open_kind(tmp_path, val_fraction=0.0)
    assert {split: len(source) for split, source in splits.items()} == {"train": 6, "test": 6}
    assert kind_of(str(tmp_path / "train")) == "table"
    assert len(only(tmp_path / "train")) == 6


def test_metadata_without_labels_leaves_folders_of_classes_alone(tmp_path: Path) -> None:
    write(tmp_path / "ant/0.png", png(pixels(0)))
    write(tmp_path / "bee/1.png", png(pixels(1)))
    lines = '{"file_name": "ant/0.png", "caption": "x"}\n{"file_name": "bee/1.png", "caption": "y"}\n'
    write(tmp_path / "metadata.jsonl", lines)
    assert kind_of(str(tmp_path)) == "image_folder"
    assert len(only(tmp_path, name="image_folder")) == 2
    assert only(tmp_path, label_column="caption").info.label_names == ("x", "y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 0}\n{"text"\n', r"row 2 of .*a.jsonl is no JSON \(.*\): '{\"text\"'"),
        ('{"text": "a", "label": 0}\n3\n', "row 2 of .*a.jsonl is a int, expected an object"),
        ('[{"text": "a", "label": 0}, [1]]', "row 2 of .*a.jsonl is a list, expected an object"),
        ("", "a.jsonl has the columns ; expected one of path"),
        ('{"id": 1}', "a.jsonl has the columns id; expected one of path"),
    ],
)
def test_bad_json_lines_are_told_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_kind(write(tmp_path / "a.jsonl", content))


def test_json_lines_are_not_split_within_a_text(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\u0085four"]
    lines = "".join(json.dumps({"text": text, "label": 0}, ensure_ascii=False) + "\n" for text in texts)
    assert raws(only(write(tmp_path / "a.jsonl", lines))) == texts
