"""Tables as files: CSV, TSV, JSON lines or Parquet → named columns of text cells.

Delimiter and encoding of a text file are found, and said where they are not what its ending stands for.
"""

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jtl.data.classes import few
from jtl.data.labels import SEPARATOR
from jtl.errors import UserError, shown

# Read as a row of its own behind the others, unless a quotation mark is still open there.
AFTER_LAST = "after the last row"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Marks at the beginning of a text file; of two with the same beginning the longer is first.
MARKS = {
    codecs.BOM_UTF8: ("utf-8", ""),
    codecs.BOM_UTF32_LE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "UTF-16"),
}


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length by `header`; row i is number `first_row + i` of the file.

    `values` gives the column at a place. `is_named` is False where the file has no header and the names are
    not the user's. `stored` are the places of columns that hold the bytes of files, `class_names` what the
    file says the numbers in a column mean, `notes` how it was read.
    """

    path: str
    header: tuple[str, ...]
    num_rows: int
    values: Callable[[int], list[Any]]
    first_row: int = 1
    is_named: bool = True
    stored: frozenset[int] = frozenset()
    class_names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        """Name a row for people."""
        return f"row {self.first_row + row} of {self.path}"

    def cells(self, place: int) -> list[str]:
        """Return a column as texts, several values with a separator between them.

        Raises:
            UserError: it holds something else than texts and numbers, or is damaged.
        """
        return [self._cell(row, place, value) for row, value in enumerate(self.values(place))]

    def _cell(self, row: int, place: int, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return SEPARATOR.join(self._cell(row, place, each) for each in value)
        if isinstance(value, Mapping | bytes):
            what = "bytes" if isinstance(value, bytes) else "an object"
            name = shown(self.header[place])
            raise UserError(
                f"{self.where(row)} has {what} in column {name}: {shown(value)}; expected a text, a number, "
                f"or a list of them; give its parts columns of their own"
            )
        return "" if value is None else str(value)


class Names(NamedTuple):
    """What tells a header: `known` are names in small letters, one of which a header has.

    `given` are the user's own names where the file has no header (one that has them all is one), `positional`
    the names of the first columns where neither is there.
    """

    known: frozenset[str]
    given: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()

    def tell(self, row: Sequence[str]) -> bool:
        """Return whether a row is a header."""
        cells = {plain(cell) for cell in row}
        return set(self.given) <= cells if self.given else bool(cells & self.known)


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
    text, notes = _text(path)
    return _delimited(text, ",", path, names, notes)


def _read_tsv(path: str, names: Names) -> Table:
    text, notes = _text(path)
    return _delimited(text, "\t", path, names, notes)


def _delimited(text: str, own: str, path: str, names: Names, notes: tuple[str, ...]) -> Table:
    """Read a table by the delimiter that its ending stands for, or by the one that makes a table of it."""
    rows, fault = _tried(text, own, path)
    if fault is not None or not rows or not (len(rows[0]) > 1 and names.tell(rows[0])):
        line = text.lstrip("\r\n").partition("\n")[0]
        others = {each: _tried(text, each, path)[0] for each in DELIMITERS if each != own and each in line}
        tables = {each: found for each, found in others.items() if found[:1] and len(found[0]) > 1}
        told = [each for each, found in tables.items() if names.tell(found[0])]
        is_table = fault is None and _is_even(rows) and len(rows[0]) > 1
        even = [] if is_table else [each for each, found in tables.items() if _is_even(found)]
        if chosen := next(iter((*told, *even)), ""):
            notes = (*notes, f"{os.path.basename(path)}: columns are separated by {DELIMITERS[chosen]}")
            return _with_header(tables[chosen], path, names, notes)
    if fault is not None:
        raise fault
    return _with_header(rows, path, names, notes)


def _tried(text: str, delimiter: str, path: str) -> tuple[list[list[str]], UserError | None]:
    try:
        if delimiter == "\t":
            return _tabbed(text, path), None
        return _rows(text, delimiter, path, quoting=csv.QUOTE_MINIMAL), None
    except UserError as error:
        return [], error


def _tabbed(text: str, path: str) -> list[list[str]]:
    """Return the rows of a table of tabs, where a quotation mark may be a mark like any other.

    It encloses a cell if all of them can be read so; else, or if that would join lines that are rows by
    themselves, it is a part of the text.
    """
    plain = _rows(text, "\t", path, quoting=csv.QUOTE_NONE)
    try:
        quoted = _rows(text, "\t", path, quoting=csv.QUOTE_MINIMAL, strict=True)
    except UserError:
        quoted = []
    is_quoted = _is_even(quoted) and (len(quoted) == len(plain) or not _is_even(plain))
    return quoted if is_quoted else plain


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


def _with_header(rows: list[list[str]], path: str, names: Names, notes: tuple[str, ...]) -> Table:
    if not rows:
        raise UserError(f"{path} is empty; expected rows")
    has_header = names.tell(rows[0])
    header = tuple(rows[0]) if has_header else names.given or names.positional[: len(rows[0])]
    is_named = has_header or bool(names.given)
    if not is_named and len(header) < len(rows[0]):
        header = tuple(f"column {place + 1}" for place in range(len(rows[0])))
    first_row = 2 if has_header else 1
    body = rows[first_row - 1 :]
    for number, row in enumerate(body, first_row):
        if len(row) != len(header):
            raise UserError(
                f"row {number} of {path} has {len(row)} columns, expected {len(header)} ({few(header, 20)})"
            )
    columns = tuple(list(column) for column in zip(*body, strict=True)) or tuple([] for _ in header)
    return Table(path, header, len(body), columns.__getitem__, first_row, is_named, notes=notes)


def _read_json_lines(path: str, names: Names) -> Table:
    """Read one object a line, or one list of objects."""
    del names
    text, notes = _text(path)
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
    return Table(path, header, len(rows), lambda place: [row.get(header[place]) for row in rows], notes=notes)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where} is no JSON ({error}): {shown(text.strip())}; expected an object a line"
        ) from error


def _read_parquet(path: str, names: Names) -> Table:
    from jtl.data.parquet import read_parquet

    del names
    found = read_parquet(path)
    return Table(
        path,
        found.header,
        found.num_rows,
        found.values,
        stored=found.stored,
        class_names=found.class_names,
    )


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
    names = [plain(name) for name in header]
    found = {name: names.index(name) for name in wanted if name in names}
    if repeated := [name for name in found if names.count(name) > 1]:
        raise UserError(
            f"column {shown(repeated[0])} stands {names.count(repeated[0])} times in the header "
            f"{few(header, 20)}; expected once: rename the others"
        )
    return found


def plain(name: str) -> str:
    """Return a column's name as names are compared."""
    return name.strip().lower()


def _text(path: str) -> tuple[str, tuple[str, ...]]:
    """Return a file's text, and how it was decoded where that is not UTF-8.

    Raises:
        UserError: it is neither UTF-8 nor marked as something else.
    """
    with open(path, "rb") as file:
        data = file.read()
    encoding, name = next((found for mark, found in MARKS.items() if data.startswith(mark)), ("utf-8", ""))
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read {path}: byte 0x{data[error.start]:02x} in line {line} is no "
            f"{name or 'UTF-8'}; expected UTF-8 text; save it as that (Latin-1 and Windows-1252 are not)"
        ) from error
    if "\0" in text:
        raise UserError(
            f"cannot read {path}: it holds NUL characters, as UTF-16 without a mark does; expected UTF-8 "
            f"text; save it as that"
        )
    return text, (f"{os.path.basename(path)}: read as {name}, by its mark",) if name else ()
