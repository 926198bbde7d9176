"""One entry of a store of arrays: a folder of `entry.json` and a file of plain bytes for each array.

`entry.json` is JSON behind its own CRC-32, and has that of every block of the files: what the disk changed is
found when the entry is opened.
"""

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from jtl import files, signals

FORMAT = 1
HEADER = "entry.json"
BLOCK_BYTES = 4 << 20
# Threads that read an entry to verify it: CRC-32 takes 0.5 s a gigabyte in each.
READ_THREADS = 4


class Damaged(Exception):
    """An entry is not what was written; the message says where."""


class TooLarge(Exception):
    """An entry turned out to be over the bound of its store."""


class Entry:
    """An open entry: `arrays` by name, read-only and mapped into memory, kept from removal until `close`.

    `held` is the descriptor of a file that is locked as long as it is open. Pickled, an entry is opened again
    where it is unpickled (in a worker process, while its parent holds it).
    """

    def __init__(self, folder: Path, arrays: Mapping[str, np.ndarray], held: int | None) -> None:
        self.folder, self.arrays, self._held = folder, arrays, held

    def __reduce__(self) -> tuple[Any, ...]:
        return mapped, (self.folder,)

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(each.nbytes for each in self.arrays.values())

    def close(self) -> None:
        """Let the entry be removed when room is needed; what still maps its arrays keeps them."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __del__(self) -> None:
        self.close()


class Writer:
    """Takes the rows of the arrays of an entry, in order, each array at its own pace."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._left = folder, max_bytes
        self._arrays: dict[str, _ArrayFile] = {}

    def append(self, name: str, rows: np.ndarray) -> None:
        """Write rows [n, …] behind those of the array so far; the first call fixes what a row is."""
        rows = np.ascontiguousarray(rows)
        self._left -= rows.nbytes
        if self._left < 0:
            raise TooLarge
        if name not in self._arrays:
            self._arrays[name] = _ArrayFile(self._folder / _file_name(name), rows.dtype, rows.shape[1:])
        self._arrays[name].append(rows)

    def finish(self) -> dict[str, Any]:
        """Close the files and return what the header says of each."""
        return {name: each.finish() for name, each in self._arrays.items()}

    def close(self) -> None:
        """Give back the files of an entry that was not finished."""
        for each in self._arrays.values():
            with suppress(OSError):
                each.file.close()


def write_header(folder: Path, header: dict[str, Any]) -> None:
    """Write what an entry says of itself, once its arrays are whole."""
    text = json.dumps(header, sort_keys=True)
    files.replace_text(folder / HEADER, f"{zlib.crc32(text.encode()):08x}{text}")


def mapped(folder: Path) -> Entry:
    """Return the arrays of an entry as they lie on the disk, not verified."""
    arrays = {}
    for name, about in _header(folder)["arrays"].items():
        path, dtype, shape = folder / _file_name(name), np.dtype(about["dtype"]), tuple(about["shape"])
        expected = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        try:
            found = path.stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{path.name} is missing") from error
        if found != expected:
            raise Damaged(f"{path.name} has {found} bytes, expected {expected}")
        arrays[name] = np.memmap(path, dtype, "r", shape=shape) if expected else np.empty(shape, dtype)
    return Entry(folder, arrays, None)


def verify(folder: Path) -> None:
    """Read the entry's files and check every block.

    Raises:
        Damaged: one is not what was written.
    """
    blocks = [
        (folder / _file_name(name), place, expected)
        for name, about in _header(folder)["arrays"].items()
        for place, expected in enumerate(about["crc32"])
    ]

    def check(block: tuple[Path, int, int]) -> None:
        path, place, expected = block
        with path.open("rb", buffering=0) as file:
            file.seek(place * BLOCK_BYTES)
            if zlib.crc32(file.read(BLOCK_BYTES)) != expected:
                raise Damaged(f"{path.name} differs from byte {place * BLOCK_BYTES} on")

    with signals.pool(READ_THREADS) as pool:
        for _ in pool.map(check, blocks):
            pass


class _ArrayFile:
    """The file of one array while it is written."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.file = path.open("xb")
        self._dtype, self._shape, self._rows = dtype, shape, 0
        self._filled, self._sum, self._sums = 0, 0, []

    def append(self, rows: np.ndarray) -> None:
        """Write rows and take their checksums."""
        assert (rows.dtype, rows.shape[1:]) == (self._dtype, self._shape), "rows of an array are alike"
        self._rows += len(rows)
        data = rows.reshape(-1).view(np.uint8).data
        self.file.write(data)
        while len(data):
            room = BLOCK_BYTES - self._filled
            taken, data = data[:room], data[room:]
            self._sum = zlib.crc32(taken, self._sum)
            self._filled += len(taken)
            if self._filled == BLOCK_BYTES:
                self._end_block()

    def finish(self) -> dict[str, Any]:
        """Bring the bytes to the disk and return the array's part of the header."""
        if self._filled:
            self._end_block()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"dtype": self._dtype.name, "shape": [self._rows, *self._shape], "crc32": self._sums}

    def _end_block(self) -> None:
        self._sums.append(self._sum)
        self._filled, self._sum = 0, 0


def _header(folder: Path) -> dict[str, Any]:
    """Return what an entry says of itself.

    Raises:
        Damaged: it cannot be believed.
    """
    data = (folder / HEADER).read_bytes()
    if data[:8] != f"{zlib.crc32(data[8:]):08x}".encode():
        raise Damaged(f"{HEADER} is not what was written")
    header = json.loads(data[8:])
    if header["format"] != FORMAT:
        raise Damaged(f"of format {header['format']}, expected {FORMAT}")
    if header["key"] != folder.name:
        raise Damaged(f"of {header['key']}")
    return header


def _file_name(name: str) -> str:
    assert name.isidentifier(), f"{name!r} is no name of an array"
    return f"{name}.bin"
