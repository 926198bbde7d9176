"""Tables as files: CSV, TSV, JSON lines or Parquet → named columns of text cells."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jtl.data.labels import SEPARATOR
from jtl.errors import UserError

MAX_SHOWN_CHARS = 60
# Read as a row of its own behind the others, unless a quotation mark is still open there.
AFTER_LAST = "after the last row"


class Table(NamedTuple):
    """`columns` of equal length by `header`; row i is number `first_row + i` of the file.

    `is_named` is False where the file has no header and the names are not the user's.
    """

    path: str
    header: tuple[str, ...]
    columns: tuple[list[str], ...]
    first_row: int = 1
    is_named: bool = True

    @property
    def num_rows(self) -> int:
        """Number of rows below the header."""
        return len(self.columns[0]) if self.columns else 0

    def where(self, row: int) -> str:
        """Name a row for people."""
        return f"row {self.first_row + row} of {self.path}"


class Names(NamedTuple):
    """What tells a header: `known` are names in small letters, one of which a header has.

    `given` are the user's own names where the file has no header (one that has them all is one), `positional`
    the names of the first columns where neither is there.
    """

    known: frozenset[str]
    given: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()


def read(path: str, names: Names) -> Table:
    """Read a table.

    Raises:
        UserError: the file is not there, of another format, damaged, no UTF-8, or its rows differ in length.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in READERS:
        raise UserError(f"data.path {path!r} ends in {suffix!r}; expected {', '.join(READERS)}")
    try:
        return READERS[suffix](path, names)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_csv(path: str, names: Names) -> Table:
    return _with_header(_rows(_text(path), ",", path, quoting=csv.QUOTE_MINIMAL), path, names)


def _read_tsv(path: str, names: Names) -> Table:
    """Read a table of tabs, where a quotation mark may be a mark like any other.

    It encloses a cell if all of them can be read so; else, or if that would join lines that are rows by
    themselves, it is a part of the text.
    """
    text = _text(path)
    plain = _rows(text, "\t", path, quoting=csv.QUOTE_NONE)
    try:
        quoted = _rows(text, "\t", path, quoting=csv.QUOTE_MINIMAL, strict=True)
    except UserError:
        quoted = []
    is_quoted = _is_even(quoted) and (len(quoted) == len(plain) or not _is_even(plain))
    return _with_header(quoted if is_quoted else plain, path, names)


def _rows(text: str, delimiter: str, path: str, **how: Any) -> list[list[str]]:
    """Return the cells of every row that has some.

    Raises:
        UserError: they cannot be told apart, or a quotation mark is never closed, so that what comes after it
            is one cell.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(f"{text}\n{AFTER_LAST}", newline=""), delimiter=delimiter, **how)
        rows = [row for row in reader if row]
        if rows.pop() != [AFTER_LAST]:
            raise UserError(
                f"row {len(rows) + 1} of {path} opens a quotation mark that is not closed; expected a second "
                f"one, or both doubled where they are a part of the text"
            )
        return rows
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}; expected a table of {delimiter!r}") from error
    finally:
        csv.field_size_limit(limit)


def _is_even(rows: list[list[str]]) -> bool:
    return len({len(row) for row in rows}) == 1


def _with_header(rows: list[list[str]], path: str, names: Names) -> Table:
    if not rows:
        raise UserError(f"{path} is empty; expected rows")
    first = {_plain(cell) for cell in rows[0]}
    has_header = set(names.given) <= first if names.given else bool(first & names.known)
    header = tuple(rows[0]) if has_header else names.given or names.positional[: len(rows[0])]
    is_named = has_header or bool(names.given)
    if not is_named and len(header) < len(rows[0]):
        header = tuple(f"column {place + 1}" for place in range(len(rows[0])))
    first_row = 2 if has_header else 1
    body = rows[first_row - 1 :]
    for number, row in enumerate(body, first_row):
        if len(row) != len(header):
            raise UserError(
                f"row {number} of {path} has {len(row)} columns, expected {len(header)} ({', '.join(header)})"
            )
    columns = tuple(list(column) for column in zip(*body, strict=True)) or tuple([] for _ in header)
    return Table(path, header, columns, first_row, is_named)


def _read_json_lines(path: str, names: Names) -> Table:
    """Read one object a line, or one list of objects."""
    del names
    text = _text(path)
    if text.lstrip().startswith("["):
        rows = _json(text, path)
    else:
        # Not splitlines: a text may hold characters that Python takes for line ends.
        lines = (line for line in text.split("\n") if line.strip())
        rows = [_json(line, f"row {number} of {path}") for number, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"row {number} of {path} is a {type(row).__name__}, expected an object")
    header = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(path, header, tuple([_cell(row.get(name)) for row in rows] for name in header))


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text.strip()[:MAX_SHOWN_CHARS]
        raise UserError(f"{where} is no JSON ({error}): {shown!r}; expected an object a line") from error


def _read_parquet(path: str, names: Names) -> Table:
    import pyarrow
    from pyarrow import parquet

    del names
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(f"cannot read {path}: {line}; expected a complete Parquet file") from error
    columns = tuple([_cell(value) for value in column.to_pylist()] for column in table.columns)
    return Table(path, tuple(table.column_names), columns)


READERS: dict[str, Callable[[str, Names], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
}


def places(header: Iterable[str], wanted: Iterable[str]) -> dict[str, int]:
    """Return where the wanted names (in small letters) stand in a header, in the order they are wanted.

    Raises:
        UserError: a wanted one stands there twice.
    """
    names = [_plain(name) for name in header]
    found = {name: names.index(name) for name in wanted if name in names}
    if repeated := [name for name in found if names.count(name) > 1]:
        raise UserError(
            f"column {repeated[0]!r} stands {names.count(repeated[0])} times in the header "
            f"{', '.join(header)}; expected once: rename the others"
        )
    return found


def _plain(name: str) -> str:
    return name.strip().lower()


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read {path}: byte 0x{data[error.start]:02x} in line {line} is no UTF-8; expected UTF-8 "
            f"text; save it as that"
        ) from error


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return SEPARATOR.join(map(str, value))
    return str(value)
