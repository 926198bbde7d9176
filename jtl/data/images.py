"""Images without labels: files and folders, in order, where one that cannot be read is marked, not fatal."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import Info
from jtl.data.files import Files
from jtl.errors import UserError
from jtl.inputs.image import Unreadable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
READABLE, UNREADABLE = 0, -1
BLANK_PX = 8


def find(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the image files at the paths: a file as it is, a folder's images sorted, subfolders included.

    Raises:
        UserError: a path is not there, or a folder holds no image.
    """
    return tuple(file for path in paths for file in _files(path))


@dataclass(frozen=True, eq=False)
class Images:
    """Source of unlabelled images; the label says READABLE or UNREADABLE (then the image is blank)."""

    files: Files
    num_channels: int

    @property
    def info(self) -> Info:
        """A name for messages, and no classes."""
        return self.files.info

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.files[index]
        except Unreadable:
            blank = np.zeros((BLANK_PX, BLANK_PX, self.num_channels), np.uint8)
            return {"image": blank, "label": np.int64(UNREADABLE), "id": index}

    def labels(self) -> np.ndarray:
        """Return READABLE for every image: which are not is known when they are read."""
        return self.files.labels()

    def describe(self, index: int) -> str:
        """Return the path."""
        return self.files.describe(index)

    def fingerprint(self, index: int) -> bytes:
        """Return a digest of the stored bytes."""
        return self.files.fingerprint(index)

    def reduced(self, min_px: int) -> "Images":
        """Return the same images, decoded smaller where no side falls under `min_px`."""
        return Images(self.files.reduced(min_px), self.num_channels)

    def fault(self, index: int) -> str:
        """Return why an image cannot be read ("" where it can)."""
        try:
            self.files[index]
        except Unreadable as error:
            return str(error)
        return ""


def open_unlabelled(folder: str) -> Files:
    """Open the images of a folder, subfolders included, as a source of which every image must be readable."""
    found = find((folder,))
    return Files(Info(folder, ()), "", found, np.full(len(found), READABLE))


def open_images(paths: Iterable[str], num_channels: int) -> Images:
    """Open the images at the paths (see `find`) as a source without labels."""
    found = find(paths)
    return Images(Files(Info("images", ()), "", found, np.full(len(found), READABLE)), num_channels)


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"image {path!r} is not there; expected a file or a folder of images")
    found = sorted(_in_folder(path))
    if not found:
        raise UserError(f"folder {path!r} holds no image; expected files ending in {', '.join(SUFFIXES)}")
    return found


def _in_folder(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)
