"""Parquet files: columns as Python values, and images whose files' bytes stand in a column.

A hub's sets keep an image as `{"bytes", "path"}`, and the names of classes in the schema's metadata.
"""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jtl.errors import UserError
from jtl.inputs import Unreadable
from jtl.names import as_unicode

BYTES = "bytes"
HUB_METADATA = b"huggingface"
# Image bytes that are kept in memory, in each process that reads.
MAX_CACHED_BYTES = 2 << 30


class Found(NamedTuple):
    """What a file holds: see `tables.Table`."""

    header: tuple[str, ...]
    num_rows: int
    values: Callable[[int], list[Any]]
    stored: frozenset[int]
    class_names: Mapping[int, tuple[str, ...]]


def read_parquet(path: str) -> Found:
    """Open a file; a column is read when it is asked for.

    Raises:
        UserError: it is damaged.
    """
    with _told(path):
        file = _open(path)
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        header = tuple(str(name) for name in schema.names)
        stored = frozenset(place for place in range(len(header)) if _holds_bytes(schema.field(place).type))
        names = _class_names(schema.metadata or {})
    return Found(
        header,
        num_rows,
        lambda place: _values(path, header[place], num_rows),
        stored,
        {place: names[name] for place, name in enumerate(header) if name in names},
    )


class Cache:
    """Row groups that were read last, up to a number of bytes; a copy in another process starts empty."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._max_bytes,)

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key, made anew where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._num_bytes += made.nbytes
            while self._num_bytes > self._max_bytes and len(self._kept) > 1:
                self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


@dataclass(frozen=True, eq=False)
class Column:
    """Places in a column of a Parquet file that has the bytes of image files (`stored.Places`).

    Example i is row `rows[i]` of the file, whose row groups end at the rows `ends`.
    """

    path: str
    column: str
    rows: np.ndarray
    ends: np.ndarray
    cache: Cache = field(default_factory=Cache)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self, index: int) -> str:
        """Name the row of the file."""
        return as_unicode(f"row {self.rows[index] + 1} of {self.path}")

    def read(self, index: int) -> bytes:
        """Return the image file's bytes."""
        row = int(self.rows[index])
        group = int(np.searchsorted(self.ends, row, side="right"))
        start = int(self.ends[group - 1]) if group else 0
        try:
            with _told(self.path):
                column = self.cache.get((self.path, self.column, group), lambda: self._group(group))
                cell = column[row - start]
                # Of an image its bytes alone: what it was called may be no text.
                value = (cell[BYTES] if hasattr(cell, "keys") and cell.is_valid else cell).as_py()
        except UserError as error:
            raise Unreadable(str(error)) from error
        if not isinstance(value, bytes):
            raise Unreadable(f"column {self.column!r} has no bytes there")
        return value

    def _group(self, group: int) -> Any:
        return _open(self.path).read_row_group(group, columns=[self.column]).column(0)


def group_ends(path: str) -> np.ndarray:
    """Return behind which row each row group of a file ends.

    Raises:
        UserError: it is damaged.
    """
    with _told(path):
        about = _open(path).metadata
        return np.cumsum([about.row_group(place).num_rows for place in range(about.num_row_groups)])


def stored_bytes(path: str, column: str) -> int:
    """Return how many bytes a column takes in memory, as the file states."""
    with _told(path):
        about = _open(path).metadata
        groups = [about.row_group(place) for place in range(about.num_row_groups)]
        chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
        return sum(
            chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column
        )


def _open(path: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    # By its bytes: a name need not be UTF-8.
    return parquet.ParquetFile(pyarrow.OSFile(os.fsencode(path)))


def _values(path: str, name: str, num_rows: int) -> list[Any]:
    with _told(path, f" in column {name!r}"):
        found = _open(path).read(columns=[name]).column(0).to_pylist()
    if len(found) != num_rows:
        raise UserError(f"cannot read {path}: column {name!r} has {len(found)} rows, expected {num_rows}")
    return found


@contextmanager
def _told(path: str, where: str = "") -> Iterator[None]:
    """Turn what the library raises of a damaged file into one line."""
    import pyarrow

    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: text{where} is no UTF-8 ({error.reason}); write it as UTF-8"
        ) from error
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError) as error:
        line = str(error).partition("\n")[0][:200]
        raise UserError(f"cannot read {path}: {line}; expected a complete Parquet file") from error


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(place).name == BYTES for place in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Return the names of classes by column, as a hub writes them; {} where there are none to be read."""
    try:
        features = json.loads(metadata[HUB_METADATA])["info"]["features"]
        found = {str(name): _names_of(feature) for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_of(feature: Any) -> tuple[str, ...]:
    """Return the names of a feature of classes, or of a list of them."""
    feature = feature[0] if isinstance(feature, list) and feature else feature
    inner = feature.get("feature", feature)
    names = inner.get("names") if isinstance(inner, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()
