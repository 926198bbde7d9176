"""`.npz` archives of data: arrays by name, whose size is checked before any memory is taken for them."""

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from jtl import memory
from jtl.errors import UserError, shortened
from jtl.faults import OF_MACHINE

ENDING = ".npy"
SINGLE = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_FAULTS = (
    *(OSError, ValueError, EOFError, RuntimeError, LookupError, TypeError, OverflowError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)


def names(path: str) -> list[str]:
    """Return the names of the arrays in an archive.

    Raises:
        UserError: it is no archive of arrays, or damaged.
    """
    with _opened(path) as archive:
        return [name.removesuffix(ENDING) for name in archive.namelist() if name.endswith(ENDING)]


def read(path: str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Return arrays of an archive by name.

    Raises:
        UserError: one is no plain array, is not as long as it states, or all do not fit in memory.
    """
    with _opened(path) as archive:
        keys = list(wanted)
        total = sum(_num_bytes(archive, key, path) for key in keys)
        memory.check(total, f"reading {path}", "keep the images as files in folders, or split the archive")
        return {key: _array(archive, key, path) for key in keys}


def _opened(path: str) -> zipfile.ZipFile:
    with open(path, "rb") as file:
        is_single = file.read(len(SINGLE)) == SINGLE
    if is_single:
        raise UserError(f"{path} is a single array, expected an .npz file with images and labels")
    try:
        return zipfile.ZipFile(path)
    except _FAULTS as error:
        raise _damaged(path, error) from error


def _num_bytes(archive: zipfile.ZipFile, key: str, path: str) -> int:
    """Return the bytes that an array takes, as its header states."""
    entry = archive.getinfo(key + ENDING)
    try:
        with archive.open(entry) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise ValueError(f".npy version {version}, expected 1.0 or 2.0")
            shape, _, dtype = _HEADERS[version](stream)
            start = stream.tell()
    except _FAULTS as error:
        raise _damaged(path, error, key) from error
    if dtype.hasobject:
        raise UserError(
            f"{path}: {key!r} holds pickled Python objects, which are not read; expected a complete .npz "
            f"file of plain arrays: save it as numbers or text"
        )
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start + num_bytes != entry.file_size:
        raise UserError(
            f"cannot read {path}: {key!r} has {entry.file_size - start} bytes, and its shape {shape} of "
            f"{dtype} needs {num_bytes}; expected a complete .npz file of plain arrays; write it again"
        )
    return num_bytes


def _array(archive: zipfile.ZipFile, key: str, path: str) -> Any:
    try:
        with archive.open(key + ENDING) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _FAULTS as error:
        raise _damaged(path, error, key) from error


def _damaged(path: str, error: BaseException, key: str = "") -> UserError:
    """Return the error of an archive that cannot be read; what the machine failed in is raised as that.

    Raises:
        OSError: the disk failed, and not the file.
    """
    if isinstance(error, OSError) and error.errno in OF_MACHINE:
        raise error
    what = f"{key!r}: " if key else ""
    return UserError(
        f"cannot read {path} ({os.path.getsize(path):,} bytes): {what}{shortened(str(error))}; expected a "
        f"complete .npz file of plain arrays; copy or write it again"
    )
