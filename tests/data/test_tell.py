from pathlib import Path

import pytest

from jtl.data import SOURCES, tables
from jtl.data.tell import is_set, kind_of
from jtl.errors import UserError
from jtl.inputs import INPUTS


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cat/0.jpg", "dog/1.PNG"], "image_folder"),
        (["train/cat/0.jpg", "train/cat/notes.txt", "val/dog/1.png"], "image_folder"),
        (["labels.csv", "cat/0.jpg"], "image_folder"),
        (["pos/0.txt", "neg/1.txt"], "text_folder"),
        (["0.txt"], "text_folder"),
        (["train.tsv", "dev.tsv"], "table"),
        (["train.csv", "images/0.jpg"], "table"),
        (["test.parquet"], "table"),
        (["reviews.csv", "0.jpg"], "table"),
    ],
)
def test_folder_is_told_by_what_it_holds(tmp_path: Path, names: list[str], kind: str) -> None:
    put(tmp_path, *names)
    assert kind_of(str(tmp_path)) == kind
    assert kind in SOURCES


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "table"),
        ("a.TSV", "table"),
        ("a.parquet", "table"),
        ("a.jsonl", "table"),
        ("a.json", "table"),
        ("a.npz", "arrays"),
    ],
)
def test_file_is_told_by_its_ending(tmp_path: Path, name: str, kind: str) -> None:
    put(tmp_path, name)
    assert kind_of(str(tmp_path / name)) == kind
    assert kind in SOURCES


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    put(tmp_path, ".a/0.jpg", ".b.jpg", "c/1.txt")
    assert kind_of(str(tmp_path)) == "text_folder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "is not there; expected a folder or a file"),
        ("a.xls", r"ends in '.xls'; expected a folder, .csv, "),
        (
            "empty",
            r"holds no examples; expected files ending in .jpg, .*\.txt, or a table \(.csv, .*set data.name",
        ),
    ],
)
def test_what_cannot_be_told_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    put(tmp_path, "a.xls")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        kind_of(str(tmp_path / name))


def test_table_of_another_ending_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in '.xls'; expected .csv, .tsv, .parquet, .jsonl, .json"):
        tables.read(str(tmp_path / "a.xls"), tables.Names(frozenset()))


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["train-00000-of-00001.parquet", "README.txt"], True),
        (["data/test-00000-of-00001.parquet"], True),
        (["a.tar", "b.tar"], True),
        (["test.csv"], True),
        # Pictures that lie there themselves are meant.
        (["metadata.csv", "0.jpg"], False),
        (["labels.csv", "0.jpg"], False),
        (["train.csv", "pictures/0.jpg"], False),
        (["ants/0.jpg", "ants/notes.csv"], False),
        (["a.csv", "b.csv"], False),
    ],
)
def test_folder_is_a_set_where_tables_or_archives_alone_hold_its_examples(
    tmp_path: Path, names: list[str], is_one: bool
) -> None:
    put(tmp_path, *names)
    assert is_set(str(tmp_path), INPUTS["image"]) == is_one


def test_folder_that_lacks_a_shard_is_told_where_no_pictures_lie_in_it(tmp_path: Path) -> None:
    put(tmp_path, "train-00000-of-00002.parquet")
    with pytest.raises(UserError, match="number 1 is missing"):
        is_set(str(tmp_path), INPUTS["image"])
    put(tmp_path, "0.jpg")
    assert not is_set(str(tmp_path), INPUTS["image"])
