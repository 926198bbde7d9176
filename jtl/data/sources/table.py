"""Source `table`: a CSV, TSV or Parquet file of `path,label[,split]` rows."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jtl.data import contract, subset
from jtl.data.contract import Info, Labels, Source, SourceKind
from jtl.data.files import Files
from jtl.data.labels import SEPARATOR, encode_splits
from jtl.data.sources.folder import SPLITS
from jtl.errors import UserError

PATH_COLUMNS = ("path", "file", "image", "filename")
LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` is the table. Image paths are relative to its folder.

    With a header, the columns are `path` (or `file`, `image`, `filename`), `label` and, if there are splits,
    `split` (train, val or test); several label columns ("label_x", "label_y") make one row of numbers; others
    are left alone. Without one they are path, label and split by position. Classes are names or indices from
    0, "a;b" for several.
    """

    name: str = "table"


class _Table(NamedTuple):
    """Columns of equal length; row i stands in line `first_line + i` of the file."""

    paths: list[str]
    cells: list[str]
    splits: list[str]
    first_line: int


def open_table(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a table.

    Raises:
        UserError: the file is missing or malformed, names an image that is not there, or holds a bad label.
    """
    path = config.path
    if not os.path.isfile(path):
        raise UserError(f"data.path {path!r} is no file; expected a table (.csv, .tsv or .parquet)")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == PARQUET:
        table = _arrange(*_read_parquet(path), path, first_line=1)
    elif suffix in DELIMITERS:
        table = _read_text(path, DELIMITERS[suffix])
    else:
        raise UserError(f"data.path {path!r} ends in {suffix!r}; expected .csv, .tsv or .parquet")
    if not table.paths:
        raise UserError(f"{path} has no rows; expected one an image")
    root = os.path.dirname(path) or "."
    _check_paths(table, path, root)
    rows = _rows_by_split(table, path)
    if "train" not in rows and labels.names is None:
        raise UserError(f"{path} has rows for {', '.join(rows)} but none for train; add some")
    cells = {split: [table.cells[row] for row in each] for split, each in rows.items()}
    encoded = encode_splits(
        cells, labels, where=lambda split, row: f"row {table.first_line + rows[split][row]} of {path}"
    )
    splits: dict[str, Source] = {
        split: Files(
            Info(f"{path}:{split}", encoded[split].names),
            root,
            tuple(table.paths[row] for row in each),
            encoded[split].values,
        )
        for split, each in rows.items()
    }
    return subset.arrange(splits, config)


KIND = SourceKind(Config, open_table)


def _read_text(path: str, delimiter: str) -> _Table:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"cannot read {path}: {error}; expected UTF-8 text with columns path, label"
        ) from error
    if not rows:
        raise UserError(f"{path} is empty; expected rows of path{delimiter}label")
    has_header = bool({cell.strip().lower() for cell in rows[0]} & set(PATH_COLUMNS))
    header = rows[0] if has_header else ["path", "label", "split"][: len(rows[0])]
    first_line = 2 if has_header else 1
    body = rows[first_line - 1 :]
    for line, row in enumerate(body, first_line):
        if len(row) != len(header):
            raise UserError(
                f"row {line} of {path} has {len(row)} columns, expected {len(header)} ({', '.join(header)})"
            )
    return _arrange(header, [list(column) for column in zip(*body, strict=True)], path, first_line=first_line)


def _read_parquet(path: str) -> tuple[list[str], list[list[str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a complete Parquet file") from error
    return table.column_names, [[_cell(value) for value in column.to_pylist()] for column in table.columns]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return SEPARATOR.join(map(str, value))
    return str(value)


def _arrange(header: Sequence[str], columns: list[list[str]], path: str, *, first_line: int) -> _Table:
    """Pick the columns by name."""
    names = [name.strip().lower() for name in header]
    columns = columns or [[] for _ in names]
    path_columns = [place for place, name in enumerate(names) if name in PATH_COLUMNS]
    label_columns = [place for place, name in enumerate(names) if name.split("_")[0] == LABEL_COLUMN]
    if len(path_columns) != 1 or not label_columns:
        raise UserError(
            f"{path} has the columns {', '.join(header)}; "
            f"expected one of {', '.join(PATH_COLUMNS)}, and {LABEL_COLUMN}"
        )
    cells = [
        SEPARATOR.join(cell.strip() for cell in row)
        for row in zip(*(columns[place] for place in label_columns), strict=True)
    ]
    splits = columns[names.index(SPLIT_COLUMN)] if SPLIT_COLUMN in names else ["train"] * len(cells)
    return _Table(columns[path_columns[0]], cells, splits, first_line)


def _check_paths(table: _Table, path: str, root: str) -> None:
    missing = [row for row, each in enumerate(table.paths) if not os.path.isfile(os.path.join(root, each))]
    if missing:
        first = missing[0]
        raise UserError(
            f"row {table.first_line + first} of {path}: image {table.paths[first]!r} is not in {root} "
            f"({len(missing)} of {len(table.paths)} are missing); paths are relative to the table's folder"
        )


def _rows_by_split(table: _Table, path: str) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table.splits):
        split = SPLITS.get(name.strip().lower())
        if split is None:
            raise UserError(
                f"row {table.first_line + row} of {path}: split {name!r} is unknown; "
                f"expected {', '.join(SPLITS)}"
            )
        rows.setdefault(split, []).append(row)
    return {split: rows[split] for split in ("train", "val", "test") if split in rows}
