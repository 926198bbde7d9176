"""Source `table`: rows of `path,label[,split]` or `text[,text_pair],label[,split]`, in one file or a few."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jtl.data import contract, subset, tables
from jtl.data.contract import IMAGE, NO_LABELS, TEXT, Info, Labels, Source, SourceKind
from jtl.data.files import Files
from jtl.data.labels import SEPARATOR, Encoded, encode_splits
from jtl.data.sources.folder import ORDER, SPLITS
from jtl.data.tables import Table
from jtl.data.texts import Texts
from jtl.errors import UserError

PATH_COLUMNS = ("path", "file", "image", "filename")
TEXT_PAIRS = {
    "text": "text_pair",
    "text_a": "text_b",
    "text1": "text2",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
}
TEXT_COLUMNS = (*TEXT_PAIRS, "sentence", "review", "content", "comment", "body", "document", "tweet")
LABEL_COLUMNS = ("label", "class", "category", "sentiment", "target", "score")
SPLIT_COLUMN = "split"
POSITIONAL = ("path", "label", "split")
SHOWN_CHARS = 40
EXPECTED = f"one of {', '.join(PATH_COLUMNS)} for images, or of {', '.join(TEXT_COLUMNS)} for texts"


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` is the table (.csv, .tsv, .parquet, .jsonl), or a folder of one, or of one a split: train.tsv, …

    Of its columns one names image files, relative to the table's folder, or holds texts (`text_column`, with
    `text_pair_column` for the second of a pair); one holds labels, and one, if there are splits in one file,
    says train, val or test. "" finds a column by its customary name: path, file, image or filename; text,
    sentence, review, content and others; label, class, category and others; split. Several columns
    "label_x", "label_y" make one row of numbers, as does `label_column` "x;y". Other columns are left alone.
    `columns` ("text,label") names those of a file without a header; without it such a file's are path, label
    and split. Classes are names or indices from 0, "a;b" for several.
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
    """The rows of one split: contents are paths or texts; `places` are their rows in the table."""

    table: Table
    places: np.ndarray
    contents: tuple[str | tuple[str, str], ...]
    cells: list[str]


class _Chosen(NamedTuple):
    """What is read of a table: places of the columns, in the order of their use; `split` None: none."""

    holds: str
    contents: tuple[int, ...]
    labels: tuple[int, ...]
    split: int | None


def open_table(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a table.

    Raises:
        UserError: a file is missing or malformed, lacks a column, names an image that is not there, or holds
            a bad label.
    """
    found = {split: tables.read(path, _names(config)) for split, path in _files(config.path).items()}
    for table in found.values():
        _check_header(table)
    chosen = {split: _choose(table, config, labels) for split, table in found.items()}
    holds = sorted({each.holds for each in chosen.values()})
    if len(holds) > 1:
        raise UserError(
            f"the tables of {config.path} differ: some name images, others hold texts; expected one kind"
        )
    rows: dict[str, _Rows] = {}
    for split, table in found.items():
        if not table.num_rows:
            raise UserError(f"{table.path} has no rows; expected one an example")
        rows |= _rows_by_split(table, chosen[split], split)
    if "train" not in rows and labels.names is None and labels.kind != NO_LABELS:
        raise UserError(f"{config.path} has rows for {', '.join(rows)} but none for train; add some")
    encoded = encode_splits(
        {split: each.cells for split, each in rows.items()},
        labels,
        where=lambda split, row: rows[split].table.where(int(rows[split].places[row])),
        asked=config.labels_are,
    )
    notes = tuple(dict.fromkeys(_note(found[split], chosen[split]) for split in found))
    make = SOURCES[holds[0]]
    splits = {split: make(split, rows[split], encoded[split], notes) for split in ORDER if split in rows}
    return subset.arrange(splits, config)


KIND = SourceKind(Config, open_table)


def tables_in(folder: str) -> dict[str, str]:
    """Return the tables that a folder holds by split; one alone, whatever its name, is "" (not split).

    Raises:
        UserError: there are two of a split.
    """
    paths = {
        name: os.path.splitext(name)[0].lower()
        for name in sorted(os.listdir(folder))
        if os.path.splitext(name)[1].lower() in tables.READERS and not name.startswith(".")
    }
    named: dict[str, str] = {}
    for name, stem in paths.items():
        if stem in SPLITS:
            if SPLITS[stem] in named:
                other = os.path.basename(named[SPLITS[stem]])
                raise UserError(f"{folder} holds {other!r} and {name!r}, keep one")
            named[SPLITS[stem]] = os.path.join(folder, name)
    if not named and len(paths) == 1:
        return {"": os.path.join(folder, *paths)}
    return named


def _files(path: str) -> dict[str, str]:
    """Return the table files by split; "": the file's own column says it."""
    if os.path.isfile(path):
        return {"": path}
    suffixes = ", ".join(tables.READERS)
    if not os.path.isdir(path):
        raise UserError(f"data.path {path!r} is no file; expected a table ({suffixes}) or a folder of them")
    found = tables_in(path)
    if not found:
        raise UserError(
            f"data.path {path!r} holds no table for a split; expected one ({suffixes}), or one named train, "
            f"and those named val (or dev) and test"
        )
    return found


def _names(config: Config) -> tables.Names:
    given = tuple(each.strip().lower() for each in config.columns.split(",")) if config.columns else ()
    own = (config.path_column, config.text_column, config.text_pair_column, config.label_column)
    known = {*PATH_COLUMNS, *TEXT_COLUMNS, *(each.strip().lower() for each in own if each)}
    return tables.Names(frozenset(known), given, POSITIONAL)


def _check_header(table: Table) -> None:
    """Raise UserError where the names of a file without a header cannot be those of images."""
    root = os.path.dirname(table.path) or "."
    if not table.is_named and not any(os.path.isfile(os.path.join(root, each)) for each in table.columns[0]):
        first = [column[0] for column in table.columns]
        raise UserError(
            f"{table.path} begins with {_shown(first)}, which neither names known columns nor an image in "
            f"{root}; expected {EXPECTED}; set config.data.text_column=NAME, or where there is no header "
            f"config.data.columns=text,label"
        )


def _choose(table: Table, config: Config, labels: Labels) -> _Chosen:
    """Return which columns are read."""
    paths = _column(table, "path_column", config.path_column, PATH_COLUMNS)
    texts = _column(table, "text_column", config.text_column, TEXT_COLUMNS)
    if config.path_column or config.text_column:
        paths, texts = (paths, None) if config.path_column else (None, texts)
    if (paths is None) == (texts is None):
        raise _no_contents(table, both=paths is not None)
    contents = tuple(place for place in (paths, texts) if place is not None)
    if texts is not None:
        customary = TEXT_PAIRS.get(table.header[texts].strip().lower(), "")
        pair = _column(
            table, "text_pair_column", config.text_pair_column, (customary,) if not config.text_column else ()
        )
        contents += () if pair is None else (pair,)
    split = _column(table, "split_column", config.split_column, (SPLIT_COLUMN,))
    chosen = _Chosen(IMAGE if paths is not None else TEXT, contents, (), split)
    return chosen if labels.kind == NO_LABELS else chosen._replace(labels=_labels(table, config, labels))


def _column(table: Table, setting: str, given: str, customary: Sequence[str]) -> int | None:
    """Return the place of a column: the given one, or the first customary one that there is.

    Raises:
        UserError: the given one is not there.
    """
    found = tables.places(table.header, (given.strip().lower(),) if given else customary)
    if given and not found:
        raise UserError(
            f"data.{setting} is {given!r}, and {table.path} has the columns {_shown(table.header)}"
        )
    return next(iter(found.values()), None)


def _labels(table: Table, config: Config, labels: Labels) -> tuple[int, ...]:
    """Return the places of the labels' columns.

    Of "label" and its like, one class is in the first; numbers, or several classes, in all "label_…".
    """
    if config.label_column:
        wanted = [each.strip().lower() for each in config.label_column.split(SEPARATOR)]
        found = tables.places(table.header, wanted)
        if len(found) < len(wanted):
            raise UserError(
                f"data.label_column is {config.label_column!r}, and {table.path} has the columns "
                f"{_shown(table.header)}"
            )
        return tuple(found.values())
    customary = tables.places(table.header, LABEL_COLUMNS)
    if LABEL_COLUMNS[0] in customary and labels.kind == "class":
        return (customary[LABEL_COLUMNS[0]],)
    several = [
        place for place, name in enumerate(table.header) if name.strip().lower().split("_")[0] == "label"
    ]
    if not several and not customary:
        raise UserError(
            f"{table.path} has the columns {_shown(table.header)}; expected one of "
            f"{', '.join(LABEL_COLUMNS)}; set config.data.label_column=NAME"
        )
    return tuple(several) or (next(iter(customary.values())),)


def _no_contents(table: Table, *, both: bool) -> UserError:
    """Return the error of a table that has neither images nor texts, or both."""
    if both:
        return UserError(
            f"{table.path} has the columns {_shown(table.header)}; expected {EXPECTED}, and not both; set "
            f"config.data.path_column or config.data.text_column"
        )
    return UserError(
        f"{table.path} has the columns {_shown(table.header)}; expected {EXPECTED}; set "
        f"config.data.text_column=NAME"
    )


def _shown(names: Sequence[str]) -> str:
    lines = (" ".join(name.split()) for name in names)
    return ", ".join(name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}…" for name in lines)


def _rows_by_split(table: Table, chosen: _Chosen, split: str) -> dict[str, _Rows]:
    """Return the rows of every split that the table has; all are of `split` unless it is ""."""
    columns = [table.columns[place] for place in chosen.contents]
    contents = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    cells = [
        SEPARATOR.join(cell.strip() for cell in row)
        for row in zip(*(table.columns[place] for place in chosen.labels), strict=True)
    ]
    names = [split or "train"] * table.num_rows
    if not split and chosen.split is not None:
        names = table.columns[chosen.split]
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found = SPLITS.get(name.strip().lower())
        if found is None:
            raise UserError(f"{table.where(row)}: split {name!r} is unknown; expected {', '.join(SPLITS)}")
        places.setdefault(found, []).append(row)
    return {
        name: _Rows(
            table,
            np.asarray(rows),
            tuple(contents[row] for row in rows),
            [cells[row] for row in rows] if cells else [""] * len(rows),
        )
        for name, rows in places.items()
    }


def _note(table: Table, chosen: _Chosen) -> str:
    """Say for people which columns are read as texts and labels."""
    contents, labels = (
        " and ".join(repr(table.header[place]) for place in places)
        for places in (chosen.contents, chosen.labels)
    )
    return f"{chosen.holds} of column {contents}, " + (f"labels of {labels}" if labels else "no labels")


def _images(split: str, rows: _Rows, encoded: Encoded, notes: tuple[str, ...]) -> Source:
    """Make the source of image files.

    Raises:
        UserError: one is not there.
    """
    table = rows.table
    root = os.path.dirname(table.path) or "."
    paths = tuple(str(each) for each in rows.contents)
    missing = [row for row, each in enumerate(paths) if not os.path.isfile(os.path.join(root, each))]
    if missing:
        raise UserError(
            f"{table.where(int(rows.places[missing[0]]))}: image {paths[missing[0]]!r} is not in {root} "
            f"({len(missing)} of {len(paths)} are missing); paths are relative to the table's folder"
        )
    info = Info(
        f"{table.path}:{split}", encoded.names, IMAGE, (*notes, *encoded.notes), reading=encoded.reading
    )
    return Files(info, root, paths, encoded.values)


def _texts(split: str, rows: _Rows, encoded: Encoded, notes: tuple[str, ...]) -> Source:
    table = rows.table
    info = Info(
        f"{table.path}:{split}", encoded.names, TEXT, (*notes, *encoded.notes), reading=encoded.reading
    )
    return Texts(info, rows.contents, encoded.values, table.path, rows.places + table.first_row)


SOURCES: dict[str, Callable[[str, _Rows, Encoded, tuple[str, ...]], Source]] = {IMAGE: _images, TEXT: _texts}
