"""Files written whole, JSON read with its faults named, and home folders."""

import ast
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import files
from jtl.errors import UserError


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What the user's files may not be."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_mode_is_what_the_umask_says_whatever_wrote_the_file(tmp_path: Path, umask: int) -> None:
    with files.replaced(tmp_path / "weights") as part:
        save_file({"a": np.zeros(3)}, part)
    files.replace_text(tmp_path / "text", "ä")
    for name in ("weights", "text"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "text").read_bytes() == "ä".encode()


ROOT = Path(__file__).parents[1]
# Where JSON is read by other hands: what they do of damage.
READERS = {
    ("jtl/weights/head.py", ""): "the caller of READERS answers",
    ("jtl/weights/formats/safetensors_file.py", "_header"): "the library has parsed it before",
    ("jtl/data/entry.py", "_header"): "its checksum is that of what was written",
    ("jtl/verbs/bench/stand_in.py", "_tokenizer"): "the library has just made it",
    ("jtl/inputs/tokenizer.py", "_check_template"): "the library has just made it",
    ("jtl/distributed.py", "told"): "the first process has just made it",
    ("jtl/peers.py", "look"): "a process of the same run has made it",
    ("jtl/peers.py", "_lost"): "a process of the same run has made it",
    ("jtl/peers.py", "doing_of_others"): "a process of the same run has made it, and every fault is caught",
    ("jtl/training/mirror.py", "_check_same"): "its digest is that of what was written",
    ("jtl/verbs/tune/study.py", "opened"): "the database has what this function wrote",
    ("jtl/verbs/bench/stand_in.py", "texts"): "the run has read that tokenizer before",
}


def test_all_json_is_read_by_the_one_reader_or_where_every_fault_of_it_is_caught() -> None:
    found = set()
    for path in sorted((ROOT / "jtl").rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        inside = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load"):
                (name, text), *_ = [
                    (each.name, ast.unparse(each)) for each in reversed(inside) if node in ast.walk(each)
                ] or [("", "")]
                if "RecursionError" not in text and "reading(" not in text:
                    found.add((str(path.relative_to(ROOT)), name))
    assert found == READERS.keys()


def test_fault_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    files.replace_text(tmp_path / "a.json", "old")
    with pytest.raises(FileNotFoundError), files.replaced(tmp_path / "a.json") as part:
        part.rename(tmp_path / "nowhere" / "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_two_writers_of_one_file_have_two_names(tmp_path: Path) -> None:
    with files.replaced(tmp_path / "a.json") as first, files.replaced(tmp_path / "a.json") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a.json").read_text() == "1"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1', "Expecting"),
        (b"\xff\xfe", "utf-8"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"meta.json' is damaged \(.*{fault}.*\); expected JSON in UTF-8"):
        files.read_json(path)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], r"the whole of it is \[\]; expected an object"),
        (None, "the whole of it is null; expected an object"),
        ({}, "a is missing"),
        ({"a": []}, r"a is \[\]; expected an object"),
        ({"a": {}}, "a.b is missing"),
        ({"a": {"b": "3"}}, 'a.b is "3"; expected a whole number of 0 or more'),
        ({"a": {"b": True}}, "a.b is true; expected a whole number"),
        ({"a": {"b": -1}}, "a.b is -1; expected a whole number"),
        ({"a": {"b": "x" * 1000}}, r"a.b is \"x+…; expected a whole"),
    ],
)
def test_value_of_another_kind_is_named_by_its_keys(tmp_path: Path, values: object, fault: str) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"meta.json' is damaged: {fault}") as error:
        files.read_record(path).below("a").get("b", files.COUNT)
    assert len(str(error.value)) < 300 + len(str(path))


@dataclass(frozen=True)
class _Settings:
    """What a record is read as."""

    dim: int
    rate: float = 0.0
    size: tuple[int, int] = (1, 1)
    names: tuple[str, ...] = ()
    pool: str | None = None

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UserError(f"dim is {self.dim}")


def test_record_is_the_fields_of_a_dataclass() -> None:
    values = {"dim": 3, "rate": 1, "size": [2, 3], "names": ["a"], "pool": None}
    found = files.Record(Path("meta.json"), values, "model").fields_of(_Settings)
    assert _Settings(**found) == _Settings(3, 1.0, (2, 3), ("a",), None)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"dim": 3, "dimm": 1}, "model.dimm is unknown; nearest: 'dim'"),
        ({"dim": 1.5}, "model.dim is 1.5; expected int"),
        ({"dim": True}, "model.dim is true; expected int"),
        ({"dim": 0}, "model: dim is 0"),
        ({}, "model: .*missing 1 required"),
        ({"dim": 1, "size": [1]}, r"model.size is \[1\]; expected tuple\[int, int\]"),
        ({"dim": 1, "names": [1]}, "model.names is"),
        ({"dim": 1, "pool": 1}, "model.pool is 1"),
    ],
)
def test_record_that_is_no_such_dataclass_is_named_by_its_field(values: dict, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        files.Record(Path("meta.json"), values, "model").fields_of(_Settings)


def test_home_folder_is_what_the_user_means_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert files.expanded("~/runs/x") == "/somewhere/runs/x"
    assert files.expanded("~") == "/somewhere"
    assert files.expanded("runs/~x") == "runs/~x"
    assert files.expanded("~~odd") == "~~odd"


def test_home_folder_that_nothing_names_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="'~/runs' begins with the home folder, which nothing names"):
        files.expanded("~/runs")
