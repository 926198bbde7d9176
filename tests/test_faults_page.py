"""docs/faults.md and docs/scale.md say what happens when something goes wrong; rows name tests that run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "docs" / "faults.md", ROOT / "docs" / "scale.md")
SECTIONS = (
    "Lost runs",
    "Signals",
    "Silent wrong results",
    "Bounds",
    "Messages",
    "Weights",
    "Data",
    "The machine",
    # Of several processes, in docs/scale.md.
    "What goes wrong",
)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NOT_RUN = {"skip", "xfail"}


class Row(NamedTuple):
    """One row of a table: the section it stands in, the fault, what happens, and how it is tested."""

    section: str
    fault: str
    outcome: str
    tests: tuple[tuple[str, str], ...]


def rows(text: str) -> list[Row]:
    """Return the rows of all tables of a document, without their heads."""
    found, section = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        is_of_faults = section in SECTIONS and line.startswith("| ")
        if is_of_faults and cells[0] != "what goes wrong":
            assert len(cells) == 3, f"not three cells: {line}"
            found.append(Row(section, cells[0], cells[1], tuple(TEST.findall(cells[2]))))
    return found


def never_run(module: ast.Module, name: str) -> str:
    """Return why a test of a file never runs: "" if it does."""
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not functions or not name.startswith("test_"):
        return "is not there"
    if NOT_RUN & set(marks(functions[-1].decorator_list)):
        return "is skipped or expected to fail"
    for node in module.body:
        is_marks = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        if is_marks and NOT_RUN & set(marks([node.value])):
            return "is in a file that is skipped"
    return ""


def marks(nodes: list[ast.expr]) -> Iterator[str]:
    """Return the marks that are named in expressions: `pytest.mark.slow` is "slow"."""
    for node in nodes:
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "pytest.mark":
                yield each.attr


@pytest.fixture(scope="module")
def documented() -> list[Row]:
    return [row for each in DOCUMENTS for row in rows(each.read_text(encoding="utf-8"))]


def test_document_has_every_section_and_a_row_in_each(documented: list[Row]) -> None:
    assert list(dict.fromkeys(row.section for row in documented)) == list(SECTIONS)


def test_every_row_names_a_test_that_is_there_and_runs(documented: list[Row]) -> None:
    modules = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in _files(documented)}
    found = [f"{row.fault}: no test" for row in documented if not row.tests]
    for row in documented:
        for path, name in row.tests:
            reason = never_run(modules[path], name) if path in modules else "is in no file"
            found += [f"{path}::{name} {reason}"] if reason else []
    assert found == []


def test_no_fault_stands_twice(documented: list[Row]) -> None:
    faults = [row.fault for row in documented]
    assert [fault for fault in faults if faults.count(fault) > 1] == []


def _files(documented: list[Row]) -> set[str]:
    return {path for row in documented for path, _ in row.tests if (ROOT / path).is_file()}


TABLE = """## Lost runs

| what goes wrong | what happens | tested by |
|---|---|---|
| killed | goes on | `tests/a.py::test_a`, `tests/b.py::test_b` |
| lost | nothing | |
"""


def test_rows_are_read() -> None:
    killed, lost = rows(TABLE)
    assert killed == ("Lost runs", "killed", "goes on", (("tests/a.py", "test_a"), ("tests/b.py", "test_b")))
    assert lost.tests == ()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def test_a(): ...", ""),
        ("@pytest.mark.slow\ndef test_a(): ...", ""),
        ("def test_b(): ...", "is not there"),
        ("@pytest.mark.skip(reason='no')\ndef test_a(): ...", "is skipped or expected to fail"),
        ("@pytest.mark.xfail\ndef test_a(): ...", "is skipped or expected to fail"),
        ("pytestmark = pytest.mark.skip\ndef test_a(): ...", "is in a file that is skipped"),
    ],
)
def test_what_never_runs_is_found(source: str, reason: str) -> None:
    assert never_run(ast.parse(source), "test_a") == reason
