"""Which columns of a table are read: by the user's settings, or by the names that are in use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jtl.data import tables
from jtl.data.classes import few
from jtl.data.contract import IMAGE, NO_LABELS, TEXT, Labels
from jtl.data.labels import SEPARATOR
from jtl.data.tables import Table
from jtl.errors import UserError, shown

# Those of a file that is the example; the others may also be of a picture beside a text.
OWN_PATH_COLUMNS = ("path", "file", "image", "filename", "file_name")
PATH_COLUMNS = (
    *OWN_PATH_COLUMNS,
    "filepath",
    "file_path",
    "image_path",
    "image_file",
    "image_name",
    "img",
    "img_path",
    "img_name",
    "picture",
    "photo",
)
TEXT_PAIRS = {
    "text": "text_pair",
    "text_a": "text_b",
    "text1": "text2",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
}
TEXT_COLUMNS = (*TEXT_PAIRS, "sentence", "review", "content", "comment", "body", "document", "tweet")
LABEL_COLUMNS = (
    "label",
    "class",
    "category",
    "sentiment",
    "target",
    "score",
    "labels",
    "y",
    "tag",
    "tags",
    "label_name",
    "class_name",
    "category_name",
    "label_text",
    "label_id",
    "class_id",
    "category_id",
)
SPLIT_COLUMN = "split"
POSITIONAL = ("path", "label", "split")
EXPECTED = f"one of {few(PATH_COLUMNS, 8)} for images, or of {few(TEXT_COLUMNS, 8)} for texts"
SHOWN_COLUMNS = 40
# Cells of a column a class: whether the example has it.
HAS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


class Chosen(NamedTuple):
    """What is read of a table: places of the columns, in the order of their use; `split` None: none.

    With `is_stored` the column of contents holds the bytes of files.
    """

    holds: str
    contents: tuple[int, ...]
    labels: tuple[int, ...]
    split: int | None
    is_stored: bool = False


def known_names(config: Any) -> tables.Names:
    """Return what tells a header of a table read with these settings."""
    given = tuple(tables.plain(each) for each in config.columns.split(",")) if config.columns else ()
    own = (config.path_column, config.text_column, config.text_pair_column, config.label_column)
    known = {*PATH_COLUMNS, *TEXT_COLUMNS, *(tables.plain(each) for each in own if each)}
    return tables.Names(frozenset(known), given, POSITIONAL)


def choose(table: Table, config: Any, labels: Labels) -> Chosen:
    """Return which columns are read.

    Raises:
        UserError: a wanted one is not there, or it cannot be told which ones are meant.
    """
    paths = _column(table, "path_column", config.path_column, PATH_COLUMNS)
    texts = _column(table, "text_column", config.text_column, TEXT_COLUMNS)
    if texts is not None and paths is not None and tables.plain(table.header[paths]) not in OWN_PATH_COLUMNS:
        paths = paths if config.path_column else None
    if config.path_column or config.text_column:
        paths, texts = (paths, None) if config.path_column else (None, texts)
    elif paths is None and texts is None and len(table.stored) == 1:
        paths = next(iter(table.stored))
    if (paths is None) == (texts is None):
        raise _no_contents(table, both=paths is not None)
    contents = tuple(place for place in (paths, texts) if place is not None)
    if texts is not None:
        customary = TEXT_PAIRS.get(tables.plain(table.header[texts]), "")
        wanted = (customary,) if not config.text_column else ()
        pair = _column(table, "text_pair_column", config.text_pair_column, wanted)
        contents += () if pair is None else (pair,)
    split = _column(table, "split_column", config.split_column, (SPLIT_COLUMN,))
    holds = IMAGE if paths is not None else TEXT
    chosen = Chosen(holds, contents, (), split, paths is not None and paths in table.stored)
    return chosen if labels.kind == NO_LABELS else chosen._replace(labels=_labels(table, config, labels))


def has_labels(table: Table, config: Any) -> bool:
    """Return whether a table has the columns of labels that the user names, or one of a customary name."""
    wanted = [tables.plain(each) for each in config.label_column.split(SEPARATOR) if each]
    names = {tables.plain(name) for name in table.header}
    return set(wanted) <= names if wanted else bool(names & set(LABEL_COLUMNS))


def label_cells(table: Table, chosen: Chosen, labels: Labels) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the label cell of every row, and the classes that the columns are (None: they are none).

    Of several columns a cell has all: numbers in their order; for several classes either those a row names,
    or, where the columns say yes and no (1 and 0), the names of the columns that say yes.
    """
    columns = [[cell.strip() for cell in table.cells(place)] for place in chosen.labels]
    if labels.kind == "class" and columns:
        _check_one_each(table, chosen.labels[0])
    if len(columns) == 1:
        return columns[0], None
    rows = list(zip(*columns, strict=True)) if columns else [()] * table.num_rows
    if labels.kind != "multilabel" or not columns:
        return [SEPARATOR.join(row) for row in rows], None
    names = tuple(table.header[place].strip() for place in chosen.labels)
    if all(cell.lower() in HAS for row in rows for cell in row):
        found = [[name for name, cell in zip(names, row, strict=True) if HAS[cell.lower()]] for row in rows]
        return [SEPARATOR.join(each) for each in found], names
    return [SEPARATOR.join(cell for cell in row if cell) for row in rows], None


def _check_one_each(table: Table, place: int) -> None:
    """Raise UserError where a label is a list of several classes."""
    for row, value in enumerate(table.values(place)):
        if isinstance(value, list) and len(value) != 1:
            raise UserError(
                f"{table.where(row)} has {len(value)} labels in column {shown(table.header[place])}, "
                f"expected one; for several set config.task.name=multilabel"
            )


def note(table: Table, chosen: Chosen) -> str:
    """Say for people which columns are read."""
    contents, labels = (
        " and ".join(shown(table.header[place]) for place in places)
        for places in (chosen.contents, chosen.labels)
    )
    line = f"{chosen.holds} of column {contents}, " + (f"labels of {labels}" if labels else "no labels")
    others = [
        shown(name)
        for place, name in enumerate(table.header)
        if chosen.labels and place not in chosen.labels and tables.plain(name) in LABEL_COLUMNS
    ]
    return line + (f" (not of {', '.join(others)})" if others else "")


def _column(table: Table, setting: str, given: str, customary: Sequence[str]) -> int | None:
    """Return the place of a column: the given one, or the first customary one that there is.

    Raises:
        UserError: the given one is not there.
    """
    found = tables.places(table.header, (tables.plain(given),) if given else customary)
    if given and not found:
        names = few(table.header, SHOWN_COLUMNS)
        raise UserError(f"data.{setting} is {given!r}, and {table.path} has the columns {names}")
    return next(iter(found.values()), None)


def _labels(table: Table, config: Any, labels: Labels) -> tuple[int, ...]:
    """Return the places of the labels' columns: those that the user names, or one with a customary name."""
    names = few(table.header, SHOWN_COLUMNS)
    if config.label_column:
        wanted = [tables.plain(each) for each in config.label_column.split(SEPARATOR)]
        found = tables.places(table.header, wanted)
        if len(found) < len(wanted):
            raise UserError(
                f"data.label_column is {config.label_column!r}, and {table.path} has the columns {names}"
            )
        if len(found) > 1 and labels.kind == "class":
            raise UserError(
                f"data.label_column is {config.label_column!r}, and an example has one class; expected one "
                f"column; for several set config.task.name=multilabel, for numbers regression"
            )
        return tuple(found.values())
    customary = tables.places(table.header, LABEL_COLUMNS)
    if customary:
        return (next(iter(customary.values())),)
    alike = [name.strip() for name in table.header if tables.plain(name).startswith(LABEL_COLUMNS[0])]
    value = repr(SEPARATOR.join(alike)) if labels.kind != "class" and alike else "NAME"
    raise UserError(
        f"{table.path} has the columns {names}; expected one of {few(LABEL_COLUMNS, 8)}; set "
        f"config.data.label_column={value}"
    )


def _no_contents(table: Table, *, both: bool) -> UserError:
    """Return the error of a table that has neither images nor texts, or both."""
    names = few(table.header, SHOWN_COLUMNS)
    if both:
        return UserError(
            f"{table.path} has the columns {names}; expected {EXPECTED}, and not both; set "
            f"config.data.path_column or config.data.text_column"
        )
    return UserError(
        f"{table.path} has the columns {names}; expected {EXPECTED}; set config.data.path_column=NAME or "
        f"config.data.text_column=NAME"
    )
