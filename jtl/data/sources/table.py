"""Source `table`: rows of `path,label[,split]` or `text[,text_pair],label[,split]`, in one file or a few.

In a Parquet file the column of images may hold the files' bytes themselves.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jtl.data import columns, contract, paths, subset, tables
from jtl.data.classes import few
from jtl.data.columns import EXPECTED, Chosen
from jtl.data.contract import IMAGE, NO_LABELS, TEXT, Info, Labels, Source, SourceKind
from jtl.data.files import Files
from jtl.data.joined import joined
from jtl.data.labels import Encoded, encode_splits, unlabelled
from jtl.data.parquet import MAX_CACHED_BYTES, Cache, Column, group_ends, stored_bytes
from jtl.data.shards import tables_in
from jtl.data.sources.folder import SPLITS
from jtl.data.stored import Stored
from jtl.data.tables import Table
from jtl.data.texts import Texts
from jtl.errors import UserError, shown

STORED = "stored"


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` is the table (.csv, .tsv, .parquet, .jsonl), or a folder of one, or of one a split: train.tsv, …

    A split may be in shards (train-00000-of-00002.parquet), and metadata.csv lie beside the images. Of the
    columns one names image files, relative to the table's folder (`path_column`), or holds their bytes
    (Parquet), or texts (`text_column`, with `text_pair_column` for the second of a pair); one holds labels
    (`label_column`), and one, if there are splits in one file, says train, val or test. "" finds a column by
    its customary name: path, file_name, image and others; text, sentence, review and others; label, class,
    category and others; split. `label_column` "x;y" makes one row of numbers of several columns, or several
    classes. Other columns are left alone. `columns` ("text,label") names those of a file without a header;
    without it such a file's are path, label and split. Several classes are written "a;b".
    """

    name: str = "table"
    path_column: str = ""
    text_column: str = ""
    text_pair_column: str = ""
    label_column: str = ""
    split_column: str = ""
    columns: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path_column and self.text_column:
            raise UserError("data.path_column and data.text_column are both set, expected one of them")
        if self.text_pair_column and not self.text_column:
            raise UserError("data.text_pair_column is set without data.text_column, expected both")


class _Rows(NamedTuple):
    """The rows of one split in one table: `places` are theirs in the table; contents are paths or texts."""

    table: Table
    chosen: Chosen
    places: np.ndarray
    contents: tuple[str | tuple[str, str], ...]
    cells: list[str]


def open_table(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a table.

    Raises:
        UserError: a file is missing or malformed, lacks a column, names an image that is not there, or holds
            a bad label.
    """
    names = columns.known_names(config)
    found = [(split, tables.read(path, names)) for split, files in _files(config).items() for path in files]
    for _, table in found:
        _check_header(table)
    found, left_out = _with_labels(found, config, labels)
    chosen = [columns.choose(table, config, labels) for _, table in found]
    if len({each.holds for each in chosen}) > 1:
        raise UserError(
            f"the tables of {config.path} differ: some name images, others hold texts; expected one kind"
        )
    rows: dict[str, list[_Rows]] = {}
    own_names: tuple[str, ...] | None = None
    for (split, table), choice in zip(found, chosen, strict=True):
        if not table.num_rows:
            raise UserError(f"{table.path} has no rows; expected one an example")
        cells, named = columns.label_cells(table, choice, labels)
        own_names = own_names or named
        for name, each in _rows_by_split(table, choice, cells, split).items():
            rows.setdefault(name, []).append(each)
    if "train" not in rows and labels.names is None and labels.kind != NO_LABELS:
        raise UserError(f"{config.path} has rows for {', '.join(rows)} but none for train; add some")
    secret = unlabelled(
        {split: [cell for each in parts for cell in each.cells] for split, parts in rows.items()}, labels
    )
    rows = {split: parts for split, parts in rows.items() if split not in secret}
    encoded = _encoded(rows, config, labels, own_names)
    notes = dict.fromkeys(
        columns.note(table, choice) for (_, table), choice in zip(found, chosen, strict=True)
    )
    told = (note for _, table in found for note in table.notes)
    said = tuple(dict.fromkeys((*told, *notes, *left_out, *secret.values())))
    order = [split for split in contract.SPLIT_ORDER if split in rows]
    splits = {split: _source(split, rows[split], encoded[split], said) for split in order}
    return subset.arrange(splits, config)


KIND = SourceKind(Config, open_table)


def _files(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the table files by split; "": the file's own column says it."""
    path = config.path
    if os.path.isfile(path):
        return {"": (path,)}
    suffixes = ", ".join(tables.READERS)
    if not os.path.isdir(path):
        raise UserError(f"data.path {path!r} is no file; expected a table ({suffixes}) or a folder of them")
    found = tables_in(path, needs_labels=not config.label_column)
    if not found:
        raise UserError(
            f"data.path {path!r} holds no table for a split; expected one ({suffixes}), or one named train, "
            f"and those named val (or dev) and test"
        )
    return found


def _with_labels(
    found: list[tuple[str, Table]], config: Config, labels: Labels
) -> tuple[list[tuple[str, Table]], list[str]]:
    """Return the tables without those of a split that has no column of labels, as a test split may have none.

    What is left out is told in a line each; training, and the only split there is, never is.
    """
    if labels.kind == NO_LABELS:
        return found, []
    without = {split for split, table in found if not columns.has_labels(table, config)}
    if not without or without >= {split for split, _ in found} or without & {"train", ""}:
        return found, []
    kept = [(split, table) for split, table in found if split not in without]
    paths = [os.path.basename(table.path) for split, table in found if split in without]
    return kept, [f"left out, as they have no column of labels: {few(paths)}"]


def _check_header(table: Table) -> None:
    """Raise UserError where the first row of a file without a known header names no image either."""
    root = os.path.dirname(table.path) or "."
    if table.is_named or not table.num_rows:
        return
    first = [table.values(place)[0] for place in range(len(table.header))]
    if not paths.is_there(root, first[0]):
        raise UserError(
            f"{table.path} begins with {few(first, columns.SHOWN_COLUMNS)}, which neither names known "
            f"columns nor an image in {root}; expected {EXPECTED}; set config.data.path_column=NAME or "
            f"config.data.text_column=NAME, or where there is no header config.data.columns=text,label"
        )


def _rows_by_split(table: Table, chosen: Chosen, cells: list[str], split: str) -> dict[str, _Rows]:
    """Return the rows of every split that the table has; all are of `split` unless it is ""."""
    contents = _contents(table, chosen)
    names = [split or "train"] * table.num_rows
    if not split and chosen.split is not None:
        names = table.cells(chosen.split)
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found = SPLITS.get(name.strip().lower())
        if found is None:
            raise UserError(
                f"{table.where(row)}: split {shown(name)} is unknown; expected {', '.join(SPLITS)}"
            )
        places.setdefault(found, []).append(row)
    return {
        name: _Rows(
            table,
            chosen,
            np.asarray(rows),
            tuple(contents[row] for row in rows),
            [cells[row] for row in rows] if cells else [""] * len(rows),
        )
        for name, rows in places.items()
    }


def _contents(table: Table, chosen: Chosen) -> list[str | tuple[str, str]]:
    if chosen.is_stored:
        return [""] * table.num_rows
    texts = [table.cells(place) for place in chosen.contents]
    return list(texts[0] if len(texts) == 1 else zip(*texts, strict=True))


def _encoded(
    rows: dict[str, list[_Rows]], config: Config, labels: Labels, own_names: tuple[str, ...] | None
) -> dict[str, Encoded]:
    """Return the labels of every split, of all its tables one behind the other."""
    ends = {split: np.cumsum([len(each.cells) for each in parts]) for split, parts in rows.items()}

    def where(split: str, row: int) -> str:
        number = int(np.searchsorted(ends[split], row, side="right"))
        part = rows[split][number]
        return part.table.where(int(part.places[row - (int(ends[split][number - 1]) if number else 0)]))

    first = next(iter(rows.values()))[0]
    declared = first.table.class_names.get(first.chosen.labels[0]) if len(first.chosen.labels) == 1 else None
    are_numbers = declared is not None and labels.kind in ("class", "multilabel")
    return encode_splits(
        {split: [cell for each in parts for cell in each.cells] for split, parts in rows.items()},
        labels,
        where=where,
        own_names=declared if are_numbers else own_names,
        are_places=are_numbers,
        asked=config.labels_are,
    )


def _source(split: str, parts: list[_Rows], encoded: Encoded, notes: tuple[str, ...]) -> Source:
    """Make the source of a split, whose tables' labels are one behind the other in `encoded`."""
    sources: list[Source] = []
    said: list[str] = []
    cache, end = Cache(), 0
    for part in parts:
        start, end = end, end + len(part.cells)
        values = None if encoded.values is None else encoded.values[start:end]
        info = Info(f"{part.table.path}:{split}", encoded.names, part.chosen.holds, reading=encoded.reading)
        make = SOURCES[STORED if part.chosen.is_stored else part.chosen.holds]
        source, found = make(info, part, values, cache)
        sources.append(source)
        said += found
    return joined(
        sources, sources[0].info._replace(notes=tuple(dict.fromkeys((*notes, *encoded.notes, *said))))
    )


def _images(info: Info, rows: _Rows, values: np.ndarray | None, cache: Cache) -> tuple[Source, list[str]]:
    """Make the source of image files.

    Raises:
        UserError: one is not there.
    """
    del cache
    table = rows.table
    root = os.path.dirname(table.path) or "."
    found = paths.find(root, [str(each) for each in rows.contents])
    if found.missing:
        row = found.missing[0]
        raise UserError(
            f"{table.where(int(rows.places[row]))}: image {shown(rows.contents[row])} is not in {root} "
            f"({len(found.missing)} of {len(rows.contents)} are missing); paths are relative to the table's "
            f"folder"
        )
    return Files(info, root, found.paths, values), found.notes


def _stored(info: Info, rows: _Rows, values: np.ndarray | None, cache: Cache) -> tuple[Source, list[str]]:
    """Make the source of images whose bytes are a column of the table."""
    path, column = rows.table.path, rows.table.header[rows.chosen.contents[0]]
    size = stored_bytes(path, column)
    notes = (
        []
        if size <= MAX_CACHED_BYTES
        else [
            f"{path}: images of {size / 1e9:.1f} GB are read again and again, {MAX_CACHED_BYTES / 1e9:.1f} "
            f"GB of them kept in memory; files in a folder are read faster"
        ]
    )
    places = Column(path, column, rows.places, group_ends(path), cache)
    return Stored(info, places, values), notes


def _texts(info: Info, rows: _Rows, values: np.ndarray | None, cache: Cache) -> tuple[Source, list[str]]:
    del cache
    table = rows.table
    return Texts(info, rows.contents, values, table.path, rows.places + table.first_row), []


Made = Callable[[Info, _Rows, np.ndarray | None, Cache], tuple[Source, list[str]]]
SOURCES: dict[str, Made] = {IMAGE: _images, TEXT: _texts, STORED: _stored}
