"""Parquet files as hubs store sets: images as bytes, names of classes in the schema, and shards."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from jtl.data import Labels, files, preflight
from jtl.data.contract import NO_LABELS
from jtl.data.parquet import Cache
from jtl.data.tell import kind_of
from jtl.errors import UserError
from jtl.inputs import INPUTS, Unreadable
from jtl.verbs.features import WRITERS
from tests.data.conftest import CLASSES, pixels, png
from tests.data.test_texts import only, open_kind, write

STORED = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def features(label: Any = None) -> dict[bytes, bytes]:
    """Return a hub's metadata of a schema whose labels are numbers of classes."""
    label = {"names": list(CLASSES), "_type": "ClassLabel"} if label is None else label
    found = {"image": {"_type": "Image"}, "label": label}
    return {b"huggingface": json.dumps({"info": {"features": found}}).encode()}


def shard(
    path: Path, places: list[int], *, labels: list[Any] | None = None, column: str = "image", **more: Any
) -> Path:
    images = [{"bytes": png(pixels(place)), "path": f"{place}.png"} for place in places]
    labels = [place % 3 for place in places] if labels is None else labels
    table = pyarrow.table({column: pyarrow.array(images, STORED), "label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(more.pop("metadata", features())), path, **more)
    return path


def pixels_of(source: Any, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(source[row]["raw"])))


@pytest.mark.parametrize("column", ["image", "img", "pixels_of_it"])
def test_images_are_read_from_the_bytes_in_their_column(tmp_path: Path, column: str) -> None:
    source = only(shard(tmp_path / "a.parquet", list(range(12)), column=column, row_group_size=5))
    assert source.info.label_names == CLASSES
    assert source.info.notes == (
        f"image of column '{column}', labels of 'label'",
        "labels are places, from 0, among 3 classes: ant, bee, wasp",
    )
    assert source.labels().tolist() == [place % 3 for place in range(12)]
    for row in (0, 4, 5, 11):
        np.testing.assert_array_equal(pixels_of(source, row), pixels(row))
    assert source.describe(5) == f"row 6 of {tmp_path / 'a.parquet'}"
    (tmp_path / "7.png").write_bytes(png(pixels(7)))
    assert source.fingerprint(7) == files.file_fingerprint(str(tmp_path / "7.png"))


def test_bytes_without_a_path_are_images_too(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"image": [png(pixels(place)) for place in range(4)], "label": ["a", "b", "a", "b"]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    source = only(tmp_path / "a.parquet")
    assert source.info.label_names == ("a", "b")
    np.testing.assert_array_equal(pixels_of(source, 3), pixels(3))


def test_file_whose_name_is_no_text_is_read_and_written(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", list(range(4)))
    old = tmp_path / "caf\udce9.parquet"
    (tmp_path / "a.parquet").rename(old)
    source = only(old)
    np.testing.assert_array_equal(pixels_of(source, 3), pixels(3))
    assert source.describe(0).endswith("caf\\xe9.parquet")
    columns = {
        "path": np.array(["a", "b"]),
        "label": np.array([1, 0]),
        "pre_head": np.ones((2, 3), np.float32),
    }
    WRITERS[".parquet"](tmp_path / "f\udce9.parquet", columns, ("ant", "bee"))
    with open(tmp_path / "f\udce9.parquet", "rb") as file:
        assert parquet.read_table(file)["label_name"].to_pylist() == ["bee", "ant"]


@pytest.mark.parametrize("inner", ["", "data"])
def test_folder_of_shards_is_its_splits(tmp_path: Path, inner: str) -> None:
    for number in (0, 1):
        places = [6 * number + each for each in range(6)]
        shard(tmp_path / inner / f"train-0000{number}-of-00002.parquet", places)
    shard(tmp_path / inner / "validation-00000-of-00001.parquet", [20, 21, 22])
    shard(tmp_path / inner / "test-00000-of-00001.parquet", [30, 31])
    assert kind_of(str(tmp_path)) == "table"
    splits = open_kind(tmp_path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 12, "val": 3, "test": 2}
    train = pickle.loads(pickle.dumps(splits["train"]))
    assert train.labels().tolist() == [place % 3 for place in range(12)]
    for row in (0, 5, 6, 11):
        np.testing.assert_array_equal(pixels_of(train, row), pixels(row))
        assert train[row]["id"] == row
        assert train[row]["label"] == row % 3
    assert train.describe(6) == f"row 1 of {tmp_path / inner / 'train-00001-of-00002.parquet'}"
    found = preflight.inspect(splits, open_config(tmp_path), INPUTS["image"])
    assert [line.split(":")[0] for line in found.lines[-3:]] == ["train", "val", "test"]


def open_config(path: Path) -> Any:
    from jtl.data import SOURCES

    return SOURCES["table"].Config(path=str(path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-00001-of-00003.parquet", [0, 1])
    shard(tmp_path / "train-00002-of-00003.parquet", [2, 3])
    with pytest.raises(UserError, match=r"holds 2 of 3 shards of 'train-00001-of-00003.parquet': number 0 "):
        open_kind(tmp_path)


def test_shards_may_be_of_any_form_of_table_and_name_their_rows(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.csv", "text,label\na,x\nb,y\n")
    write(tmp_path / "train-00001-of-00002.csv", "label,text\nx,c\n,d\n")
    with pytest.raises(UserError, match=r"label missing: row 3 of .*train-00001-of-00002.csv"):
        open_kind(tmp_path)
    write(tmp_path / "train-00001-of-00002.csv", "label,text\nx,c\ny,d\n")
    source = only(tmp_path)
    assert [source[row]["raw"] for row in range(4)] == ["a", "b", "c", "d"]
    assert source.labels().tolist() == [0, 1, 0, 1]
    assert source.describe(3) == f"row 3 of {tmp_path / 'train-00001-of-00002.csv'}"


def test_names_of_classes_hold_for_several_labels_and_for_a_run_of_others(tmp_path: Path) -> None:
    several = features({"feature": {"names": list(CLASSES), "_type": "ClassLabel"}, "_type": "Sequence"})
    path = shard(tmp_path / "a.parquet", [0, 1], labels=[[0, 2], [1]], metadata=several)
    assert only(path, Labels("multilabel")).labels().tolist() == [[1, 0, 1], [0, 1, 0]]
    path = shard(tmp_path / "b.parquet", [0, 1])
    assert only(path, Labels(names=("bee", "ant", "wasp"), reading="names")).labels().tolist() == [1, 0]
    with pytest.raises(UserError, match=r"label out of range: row 2 of .* has 3, expected 0 to 2"):
        only(shard(tmp_path / "c.parquet", [0, 1], labels=[0, 3]))


def test_split_whose_labels_are_kept_secret_is_left_out_and_said(tmp_path: Path) -> None:
    shard(tmp_path / "train-00000-of-00001.parquet", [0, 1, 2, 3])
    shard(tmp_path / "test-00000-of-00001.parquet", [4, 5], labels=[-1, -1])
    splits = open_kind(tmp_path, val_fraction=0.0)
    assert splits.keys() == {"train"}
    assert "test: left out, none of its 2 examples has a label" in splits["train"].info.notes
    shard(tmp_path / "test-00000-of-00001.parquet", [4, 5], labels=[-1, 1])
    with pytest.raises(UserError, match=r"label out of range: row 1 of .*test-00000-of-00001.parquet has -1"):
        open_kind(tmp_path)
    with pytest.raises(UserError, match=r"label out of range: row 1 of .* has -1"):
        only(shard(tmp_path / "alone.parquet", [4, 5], labels=[-1, -1]))


def test_table_of_a_test_split_without_labels_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text,label\na,x\nb,y\n")
    write(tmp_path / "test.csv", "id,text\n1,c\n2,d\n")
    splits = open_kind(tmp_path, val_fraction=0.0)
    assert splits.keys() == {"train"}
    assert splits["train"].info.notes[1] == "left out, as they have no column of labels: test.csv"
    assert open_kind(tmp_path, Labels(NO_LABELS), val_fraction=0.0).keys() == {"train", "test"}
    write(tmp_path / "train.csv", "id,text\n1,c\n2,d\n")
    with pytest.raises(UserError, match="has the columns id, text; expected one of label"):
        open_kind(tmp_path)


@pytest.mark.parametrize("metadata", [{}, {b"huggingface": b"{"}, {b"huggingface": b"[]"}, features([1])])
def test_metadata_of_another_shape_is_passed_over(tmp_path: Path, metadata: dict[bytes, bytes]) -> None:
    source = only(shard(tmp_path / "a.parquet", [0, 1, 2], metadata=metadata))
    assert source.info.label_names == ("0", "1", "2")


def test_an_image_without_bytes_is_named_where_it_stands(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"image": pyarrow.array([{"bytes": png(pixels(0))}, {"bytes": None}], STORED), "label": [0, 1]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    source = only(tmp_path / "a.parquet")
    with pytest.raises(Unreadable, match="column 'image' has no bytes there"):
        source[1]
    with pytest.raises(UserError, match=r"1 image is unreadable.*cannot read row 2 of .*a.parquet: column"):
        preflight.inspect({"train": source}, open_config(tmp_path / "a.parquet"), INPUTS["image"])


def test_row_groups_are_kept_up_to_a_number_of_bytes() -> None:
    made: list[int] = []

    def make(key: int) -> Any:
        made.append(key)
        return np.zeros(10, np.uint8)

    cache = Cache(max_bytes=25)
    for key in (0, 1, 0, 2, 0, 1):
        cache.get(key, lambda key=key: make(key))
    assert made == [0, 1, 2, 1]


def test_text_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    latin = pyarrow.array([b"caf\xe9", b"good"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": latin, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"cannot read .*: text in column 'text' is no UTF-8 .*; write it"):
        only(tmp_path / "a.parquet")
