"""Files with one example each, read on access, with labels or without."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import Info
from jtl.data.walk import is_of_another, notes_of, passed_note, walk
from jtl.errors import UserError
from jtl.faults import OF_MACHINE
from jtl.inputs import Input, Unreadable
from jtl.names import as_unicode

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
        return {"raw": _read(self.path(index)), "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def path(self, index: int) -> str:
        """Return the path as the system knows it."""
        return os.path.join(self.root, self.paths[index])

    def describe(self, index: int) -> str:
        """Return the path, as any text can hold it."""
        return as_unicode(self.path(index))

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        return file_fingerprint(self.path(index)) if raw is None else bytes_fingerprint(raw)


def unlabelled(paths: Iterable[str], kind: Input, name: str = "files") -> Files:
    """Open files, and those of folders, as a source without labels; its notes say what is passed over.

    A file that is named itself counts whatever its ending; a folder's are sorted, subfolders included.

    Raises:
        UserError: a path is not there, or a folder holds no such file.
    """
    found: list[str] = []
    notes: tuple[str, ...] = ()
    for path in paths:
        files, passed = _files(path, kind)
        found += files
        notes += passed_note(path, passed, kind)
    return Files(Info(as_unicode(name), (), kind.holds, notes), "", tuple(found), None)


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
        if error.errno in OF_MACHINE:
            raise
        raise Unreadable(f"cannot read {as_unicode(path)}: {error.strerror}") from error
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
        # A disk that fails is no damage of a file: it is not skipped.
        if error.errno in OF_MACHINE:
            raise
        raise Unreadable(str(error.strerror)) from error


def _files(path: str, kind: Input) -> tuple[list[str], list[str]]:
    """Return the files that a path names, and what of a folder is passed over."""
    if os.path.isdir(path):
        found = walk(path, kind)
        if all(is_of_another(each, kind) for each in found.files):
            held = f"; it holds {as_unicode(found.files[0])!r}" if found.files else ""
            raise UserError(
                f"folder {as_unicode(path)!r} holds no {kind.unit}{held}; expected files ending in "
                f"{', '.join(kind.suffixes)}, or in anything but {', '.join(notes_of(kind))}"
            )
        return sorted(os.path.join(path, each) for each in found.files), found.passed
    if os.path.isfile(path):
        return [path], []
    if os.path.lexists(path) and not os.path.islink(path):
        raise UserError(f"{as_unicode(path)!r} is neither a file nor a folder; expected one of {kind.unit}")
    raise UserError(f"{as_unicode(path)!r} is not there; expected a file, or a folder of {kind.unit}")
