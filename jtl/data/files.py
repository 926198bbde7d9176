"""Files with one example each, read on access, with labels or without."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import Info
from jtl.errors import UserError
from jtl.inputs import Input, Unreadable

# Files longer than two of these are fingerprinted by length, head and tail: a set of any size is keyed in one
# seek a file, and two different photos never share all three in practice (a JPEG's tail is entropy-coded).
_FINGERPRINT_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Files:
    """Source of files: `paths` relative to `root`, one row of `values` each (None: no labels)."""

    info: Info
    root: str
    paths: tuple[str, ...]
    values: np.ndarray | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = None if self.values is None else self.values[index]
        return {"raw": _read(self.describe(index)), "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Return the path."""
        return os.path.join(self.root, self.paths[index])

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        return file_fingerprint(self.describe(index)) if raw is None else bytes_fingerprint(raw)


def unlabelled(paths: Iterable[str], kind: Input, name: str = "files") -> Files:
    """Open files, and those of folders with the kind's suffixes, as a source without labels.

    A file counts whatever its name; a folder's are sorted, subfolders included.

    Raises:
        UserError: a path is not there, or a folder holds no such file.
    """
    found = tuple(file for path in paths for file in _files(path, kind))
    return Files(Info(name, (), kind.holds), "", found, None)


def skipped(paths: Iterable[str], kind: Input) -> list[str]:
    """Return what `unlabelled` leaves out of the folders among the paths, but for hidden files."""
    folders = [path for path in paths if os.path.isdir(path)]
    return [
        file
        for folder in folders
        for file in sorted(_in_folder(folder, ("",)))
        if not file.lower().endswith(kind.suffixes)
    ]


def file_fingerprint(path: str) -> bytes:
    """Return a digest of the file's length and bytes (of head and tail if it is long)."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            if size <= 2 * _FINGERPRINT_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(_FINGERPRINT_BYTES))
                file.seek(-_FINGERPRINT_BYTES, os.SEEK_END)
                digest.update(file.read())
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    return digest.digest()


def bytes_fingerprint(data: bytes) -> bytes:
    """Return what `file_fingerprint` does of the file of these bytes."""
    digest = hashlib.blake2b(len(data).to_bytes(8, "little"), digest_size=16)
    is_short = len(data) <= 2 * _FINGERPRINT_BYTES
    digest.update(data if is_short else data[:_FINGERPRINT_BYTES] + data[-_FINGERPRINT_BYTES:])
    return digest.digest()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error


def _files(path: str, kind: Input) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"{path!r} is not there; expected a file, or a folder of {kind.unit}")
    found = sorted(_in_folder(path, kind.suffixes))
    if not found:
        raise UserError(
            f"folder {path!r} holds no {kind.unit}; expected files ending in {', '.join(kind.suffixes)}"
        )
    return found


def _in_folder(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield os.path.join(parent, name)
