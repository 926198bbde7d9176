"""Texts as data: tables of them in every form, folders of text files, and what is said of bad ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import SOURCES, Labels, Source, preflight
from jtl.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, TEXT_PAIRS
from jtl.data.contract import NO_LABELS
from jtl.data.texts import fingerprint
from jtl.errors import UserError
from jtl.inputs import INPUTS

CLASS, NONE = Labels(), Labels(NO_LABELS)
ROWS = [("good, really", "1"), ('a "quoted" word\nover two lines', "0"), ("很好", "1"), ("", "0")]


def open_kind(path: Path, labels: Labels = CLASS, name: str = "table", **settings: Any) -> dict[str, Source]:
    return SOURCES[name].open(SOURCES[name].Config(path=str(path), **settings), labels)


def only(path: Path, labels: Labels = CLASS, name: str = "table", **settings: Any) -> Source:
    return open_kind(path, labels, name, **{"val_fraction": 0.0, **settings})["train"]


def raws(source: Source) -> list[Any]:
    return [source[row]["raw"] for row in range(len(source))]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quoted(rows: list[tuple[str, str]], delimiter: str) -> str:
    cells = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in [("text", "label"), *rows]]
    return "".join(delimiter.join(row) + "\r\n" for row in cells)


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


def write_rows(folder: Path, name: str) -> Path:
    objects = [{"text": text, "label": int(label)} for text, label in ROWS]
    contents = {
        "rows.csv": quoted(ROWS, ","),
        "bom.csv": "\ufeff" + quoted(ROWS, ","),
        "rows.tsv": quoted(ROWS, "\t"),
        "rows.jsonl": "".join(json.dumps(each) + "\n" for each in objects),
        "rows.json": json.dumps(objects, ensure_ascii=False),
    }
    if name in contents:
        return write(folder / name, contents[name])
    return write_parquet(folder / name, {"text": [t for t, _ in ROWS], "label": [int(n) for _, n in ROWS]})


@pytest.mark.parametrize(
    "name", ["rows.csv", "bom.csv", "rows.tsv", "rows.jsonl", "rows.json", "rows.parquet"]
)
def test_texts_are_read_from_every_form_of_table(tmp_path: Path, name: str) -> None:
    source = only(write_rows(tmp_path, name))
    assert raws(source) == [text for text, _ in ROWS]
    assert source.labels().tolist() == [1, 0, 1, 0]
    assert source.info.holds == "text"
    assert source[2] == {"raw": "很好", "label": 1, "id": 2}


@pytest.mark.parametrize("content", ['text,label\na,0\n"b,1\nc,0\n', 'label,text\n0,a\n1,"b\n0,c\n'])
def test_quotation_mark_that_is_never_closed_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(UserError, match=r"row 3 of .*a\.csv opens a quotation mark that is not closed"):
        open_kind(path)


@pytest.mark.parametrize("header", ["text,Text ,label", "label,text,label"])
def test_column_that_is_read_and_stands_twice_is_refused(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "a.csv", f"{header}\na,b,0\nc,d,1\n")
    with pytest.raises(UserError, match=r"column '(text|label)' stands 2 times in the header .*: rename"):
        open_kind(path)


def test_cell_longer_than_the_librarys_limit_is_read(tmp_path: Path) -> None:
    text = "word " * 50_000
    assert raws(only(write(tmp_path / "a.csv", f"text,label\n{text},0\n"))) == [text]


def test_quotation_marks_of_a_table_of_tabs_may_be_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"good" he said\t1\n" bad\t0\nan "odd\t0\n')
    assert raws(only(path)) == ['"good" he said', '" bad', 'an "odd']


def test_quotation_marks_that_would_join_rows_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\nthe "film\t1\n"a\t0\nb"\t1\n')
    assert raws(only(path)) == ['the "film', '"a', 'b"']


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_column_of_texts_is_found_by_its_customary_name(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "a.csv", f"id,{column.capitalize()},label\n7,good,0\n8,bad,1\n")
    source = only(path)
    assert raws(source) == ["good", "bad"]
    assert source.info.notes == (
        f"text of column '{column.capitalize()}', labels of 'label'",
        "labels are the numbers 0 to 1",
    )


@pytest.mark.parametrize(("first", "second"), TEXT_PAIRS.items())
def test_pair_is_found_by_its_customary_names(tmp_path: Path, first: str, second: str) -> None:
    source = only(write(tmp_path / "a.csv", f"label,{second},{first}\n0,b,a\n1,d,c\n"))
    assert raws(source) == [("a", "b"), ("c", "d")]
    assert f"'{first}' and '{second}'" in source.info.notes[0]


@pytest.mark.parametrize("column", LABEL_COLUMNS)
def test_column_of_labels_is_found_by_its_customary_name(tmp_path: Path, column: str) -> None:
    assert only(write(tmp_path / "a.csv", f"text,{column}\ngood,x\nbad,y\n")).labels().tolist() == [0, 1]


def test_class_is_read_of_label_and_not_of_the_columns_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label,label_text\ngood,1,positive\nbad,0,negative\n")
    assert only(path).info.label_names == ("0", "1")


def test_given_columns_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,Title,other,stars,part\nx,a,b,3.5,train\ny,c,d,1,dev\n")
    splits = open_kind(
        path,
        Labels("regression"),
        text_column="title",
        text_pair_column="other",
        label_column="stars",
        split_column="part",
    )
    assert {split: raws(source) for split, source in splits.items()} == {
        "train": [("a", "b")],
        "val": [("c", "d")],
    }
    assert splits["train"].labels().tolist() == [[3.5]]


def test_several_given_columns_of_labels_are_a_row_of_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,x,y\ngood,1,2\nbad,3,4\n")
    assert only(path, Labels("regression"), label_column="y;x").labels().tolist() == [[2, 1], [4, 3]]


def test_path_column_makes_images_of_a_table_with_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"x")
    path = write(tmp_path / "a.csv", "text,picture,label\ngood,a.png,0\n")
    assert only(path, path_column="picture").info.holds == "image"


def test_columns_of_a_file_without_a_header_are_named_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\t0\ngood\t1\n")
    assert raws(only(path, columns="text,label")) == ["text", "good"]


def test_row_of_the_names_that_the_user_gives_is_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "Label\tid\tText\n0\t7\tgood\n")
    assert raws(only(path, columns="text,label")) == ["good"]


def test_folder_of_tables_is_its_splits(tmp_path: Path) -> None:
    for name in ("train.tsv", "Dev.tsv", "test.tsv"):
        write(tmp_path / name, f"{name}\t0\nx\t1\n")
    write(tmp_path / "more.csv", "not read")
    splits = open_kind(tmp_path, columns="text,label")
    assert {split: raws(source)[0] for split, source in splits.items()} == {
        "train": "train.tsv",
        "val": "Dev.tsv",
        "test": "test.tsv",
    }
    assert splits["val"].describe(1) == f"row 2 of {tmp_path / 'Dev.tsv'}"


def test_folder_of_one_table_is_that(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "text,label\ngood,1\nbad,0\n")
    assert raws(only(tmp_path)) == ["good", "bad"]


def test_table_needs_no_labels_where_the_task_reads_none(tmp_path: Path) -> None:
    source = only(write(tmp_path / "a.csv", "text\ngood\nbad\n"), NONE)
    assert source.labels() is None
    assert source[1] == {"raw": "bad", "label": None, "id": 1}
    assert source.info.label_names == ()
    assert source.info.notes == ("text of column 'text', no labels",)


def test_unlabelled_texts_are_split_by_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\n" + "".join(f"text {place % 10}\n" for place in range(40)))
    splits = open_kind(path, NONE, val_fraction=0.3)
    assert len(splits["val"]) == 12
    assert not set(raws(splits["train"])) & set(raws(splits["val"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,words,label\n1,a,0\n",
            "a.csv begins with id, words, label, which neither .*; set config.data.p",
        ),
        (
            "a,b,c,d\n1,a,0,1\n",
            "begins with a, b, c, d, which .* no header config.data.columns=text,label",
        ),
        ('"a\nb",0\nc,1\n', "begins with a b, 0, which neither"),
        ("text,path,label\na,b,0\n", "has the columns text, path, label; .* and not both; set config.data."),
        (
            "text,kind\na,b\n",
            "has the columns text, kind; expected one of label, .*; set config.data.label_c",
        ),
        ("text,label\na,0\nb\n", "row 3 of .*a.csv has 1 columns, expected 2"),
        ("text,label\n", "a.csv has no rows"),
        ("", "a.csv is empty"),
        ("text,label\na,0\nb,\n", "label missing: row 3 of .*a.csv"),
        ("text,label,split\na,0,trian\n", "row 2 of .*: split 'trian' is unknown"),
        ("text,label,split\na,0,dev\n", "has rows for val but none for train"),
        (b"text,label\na,0\n\xff\xfe,1\n", "byte 0xff in line 3 is no UTF-8; expected UTF-8 text; save it"),
    ],
)
def test_bad_table_of_texts_is_told_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_kind(write(tmp_path / "a.csv", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "words"}, "data.text_column is 'words', and .*a.csv has the columns text, label"),
        ({"label_column": "stars"}, "data.label_column is 'stars', and .*a.csv has the columns text, label"),
        ({"split_column": "part"}, "data.split_column is 'part', and .*a.csv has the columns text, label"),
        ({"text_column": "text", "text_pair_column": "b"}, "data.text_pair_column is 'b', and .*a.csv has"),
        ({"text_pair_column": "b"}, "data.text_pair_column is set without data.text_column"),
        ({"text_column": "a", "path_column": "b"}, "both set, expected one"),
        ({"columns": "words"}, "row 1 of .*a.csv has 2 columns, expected 1"),
    ],
)
def test_column_that_is_not_there_is_told(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_kind(write(tmp_path / "a.csv", "text,label\ngood,1\nbad,0\n"), **settings)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.tsv"], "holds 'train.csv' and 'train.tsv', keep one"),
        (["one.csv", "two.csv"], "holds no table for a split"),
        ([], "holds no table for a split"),
        (["dev.csv"], "has rows for val but none for train"),
    ],
)
def test_folder_without_tables_in_splits_is_told(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write(tmp_path / name, "text,label\ngood,1\nbad,0\n")
    with pytest.raises(UserError, match=message):
        open_kind(tmp_path)


def test_fingerprint_is_of_the_content() -> None:
    assert fingerprint("ab") == fingerprint("ab") != fingerprint("a")
    assert fingerprint(("a", "bc")) != fingerprint(("ab", "c"))


def test_preflight_says_what_was_read_and_which_texts_are_in_two_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label,split\ngood,1,train\nbad,0,train\ngood,1,val\n")
    config = SOURCES["table"].Config(path=str(path))
    found = preflight.inspect(SOURCES["table"].open(config, CLASS), config, INPUTS["tokens"])
    assert found.lines == [
        "text of column 'text', labels of 'label'",
        "labels are the numbers 0 to 1",
        "train: 2 texts, 2 classes, largest:smallest 1.0",
        "val: 1 text, 2 classes, largest:smallest 1.0; without texts: 0",
        f"1 text is in two splits: row 2 of {path} = row 4 of {path}",
    ]


def test_images_and_texts_are_not_taken_for_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ngood,1\nbad,0\n")
    config = SOURCES["table"].Config(path=str(path), val_fraction=0.0)
    with pytest.raises(UserError, match="holds examples of kind 'text', and the model reads 'image'"):
        preflight.inspect(SOURCES["table"].open(config, CLASS), config, INPUTS["image"])


def put(root: Path, *names: str) -> None:
    for name in names:
        write(root / name, f"the text {name}\n")


def test_folder_of_text_files_is_one_of_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/neg/0.txt", "train/pos/deep/1.TXT", "train/pos/2", "dev/neg/3.txt", "dev/pos/4.txt")
    put(tmp_path, "train/neg/notes.md", "readme.html")
    splits = open_kind(tmp_path, name="text_folder")
    assert {split: source.labels().tolist() for split, source in splits.items()} == {
        "train": [0, 1, 1],
        "val": [0, 1],
    }
    note = f"passed over 2 files in {tmp_path}, by their endings no texts: readme.html, train/neg/notes.md"
    assert splits["train"].info == (str(tmp_path / "train"), ("neg", "pos"), "text", (note,), "names")
    assert splits["train"][0]["raw"] == b"the text train/neg/0.txt\n"


def test_text_files_without_labels_may_lie_in_any_way(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "b/c.txt", "b/d/e.txt", ".hidden.txt")
    source = only(tmp_path, NONE, "text_folder")
    assert [Path(source.describe(row)).name for row in range(len(source))] == ["a.txt", "c.txt", "e.txt"]
    assert source.labels() is None


def test_text_files_without_labels_may_be_split(tmp_path: Path) -> None:
    put(tmp_path, "train/a.txt", "train/b.txt", "val/c.txt")
    splits = open_kind(tmp_path, NONE, "text_folder")
    assert {split: len(source) for split, source in splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["0.txt", "pos/1.txt"], CLASS, r"holds 1 text outside a class folder \('0.txt'"),
        (["pos/1.txt"], CLASS, "holds one class folder, 'pos'"),
        (["pos/1.txt", "neg/a.csv"], CLASS, "class folder .*neg is empty; add texts"),
        ([], CLASS, "holds no class folders; expected one folder of texts a class"),
        (["a.csv"], NONE, "holds no texts"),
        (["pos/1.txt"], Labels("regression"), "a folder of texts gives one class an example"),
    ],
)
def test_bad_folder_of_texts_is_told(tmp_path: Path, names: list[str], labels: Labels, message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        open_kind(tmp_path, labels, "text_folder")


def test_file_that_is_no_text_is_named_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path, "neg/0.txt", "pos/1.txt")
    bad = write(tmp_path / "pos/2.txt", b"caf\xe9")
    config = SOURCES["text_folder"].Config(path=str(tmp_path), val_fraction=0.0)
    with pytest.raises(UserError, match=rf"1 text is unreadable.*cannot read {bad}: it is no UTF-8 \(byte 3"):
        preflight.inspect(SOURCES["text_folder"].open(config, CLASS), config, INPUTS["tokens"])


def test_equal_texts_of_a_table_and_a_folder_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "set/neg/0.txt", "good")
    write(tmp_path / "set/pos/1.txt", "bad")
    table = only(write(tmp_path / "a.csv", "text,label\ngood,0\nbad,1\n"))
    folder = only(tmp_path / "set", name="text_folder")
    assert [folder.fingerprint(row) for row in (0, 1)] == [table.fingerprint(row) for row in (0, 1)]


def test_splits_of_texts_outlive_moving_and_another_form(tmp_path: Path) -> None:
    rows = [(f"text {place}", str(place % 3)) for place in range(30)]
    first = open_kind(write(tmp_path / "a.csv", quoted(rows, ",")))
    shutil.copy(write(tmp_path / "b.tsv", quoted(rows, "\t")), tmp_path / "c.tsv")
    second = open_kind(tmp_path / "c.tsv")
    assert raws(first["val"]) == raws(second["val"])
    assert len(first["val"]) == 6


def test_real_reviews_are_read(real_path: Any) -> None:
    english = open_kind(real_path("texts/sst2"), columns="text,label")
    assert {split: len(source) for split, source in english.items()} == {
        "train": 6920,
        "val": 872,
        "test": 1821,
    }
    assert np.bincount(english["val"].labels()).tolist() == [428, 444]
    chinese = only(real_path("texts/chnsenticorp"))
    assert len(chinese) == 7766
    assert raws(chinese)[1] == "商务大床房，房间很大，床有2M宽，整体感觉经济实惠不错!"
