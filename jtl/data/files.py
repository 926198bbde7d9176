"""Image files with labels, decoded on access: what the folder and the table source open."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import Info
from jtl.inputs import image

# Files longer than two of these are fingerprinted by length, head and tail: a set of any size is keyed in one
# seek a file, and two different photos never share all three in practice (a JPEG's tail is entropy-coded).
_FINGERPRINT_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Files:
    """Source of image files: `paths` relative to `root`, one row of `values` each."""

    info: Info
    root: str
    paths: tuple[str, ...]
    values: np.ndarray
    min_px: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        path = os.path.join(self.root, self.paths[index])
        pixels = image.decode(_read(path), path, self.min_px)
        return {"image": pixels, "label": self.values[index], "id": index}

    def labels(self) -> np.ndarray:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Return the path."""
        return os.path.join(self.root, self.paths[index])

    def fingerprint(self, index: int) -> bytes:
        """Return a digest of the stored bytes."""
        return file_fingerprint(self.describe(index))

    def reduced(self, min_px: int) -> "Files":
        """Return the same files, decoded smaller where no side falls under `min_px`."""
        return dataclasses.replace(self, min_px=min_px)


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
        raise image.Unreadable(f"cannot read {path}: {error.strerror}") from error
    return digest.digest()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise image.Unreadable(f"cannot read {path}: {error.strerror}") from error
