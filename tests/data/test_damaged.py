"""Damaged tables and archives: read, or told in one line; never anything else."""

import json
import random
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from jtl.data import Labels
from jtl.data.contract import NO_LABELS
from jtl.data.tell import kind_of
from jtl.errors import UserError
from tests.data.conftest import write_tar
from tests.data.test_parquet import shard
from tests.data.test_texts import only, write
from tests.data.test_webdataset import cls, files_of

NUM_MUTATIONS = 150
MAX_LINE = 1500


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with a few changed, cut out, or repeated."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place, length, kind = chance.randrange(len(found)), chance.randint(1, 20), chance.randrange(4)
        if kind == 0:
            found[place] = chance.randrange(256)
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = found[place : place + length]
        else:
            found[place] ^= 1 << chance.randrange(8)
        found = found or bytearray(b"x")
    return bytes(found)


def fault_of(path: Path, labels: Labels, name: str) -> str:
    """Return what is said of a set or of its first example that cannot be read, "" where all can."""
    try:
        source = only(path, labels, name)
        for row in range(len(source)):
            source[row]
    except UserError as error:
        return str(error)
    return ""


def write_whole(path: Path) -> None:
    texts = [f"the text {place}, of some length" for place in range(8)]
    rows = [{"text": each, "label": "ab"[place % 2]} for place, each in enumerate(texts)]
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    if path.suffix == ".tar":
        write_tar(path, files_of(range(6), cls=cls))
    elif path.name == "images.parquet":
        shard(path, list(range(8)), row_group_size=3)
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif delimiter is None:
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [f'"{row["text"]}"{delimiter}{row["label"]}' for row in rows]
        write(path, "\n".join([f"text{delimiter}label", *lines]) + "\n")


@pytest.mark.parametrize("name", ["images.parquet", "text.parquet", "a.csv", "a.tsv", "a.jsonl", "a.tar"])
def test_damaged_sets_are_read_or_told_in_one_line(tmp_path: Path, name: str) -> None:
    chance = random.Random(0)
    path = tmp_path / name
    write_whole(path)
    whole = path.read_bytes()
    faults: list[str] = []
    for _ in range(NUM_MUTATIONS):
        path.write_bytes(mutated(whole, chance))
        labels = Labels(chance.choice(["class", "multilabel", NO_LABELS]))
        faults.append(fault_of(path, labels, kind_of(str(path))))
    assert [fault for fault in faults if "\n" in fault or len(fault) > MAX_LINE] == []
    assert 0 < sum(map(bool, faults)) < NUM_MUTATIONS
