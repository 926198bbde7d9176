"""Zip archives that may be damaged or hostile: what their readers raise, as one kind of error."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.errors import UserError

# How training scripts call the setting that names a model.
MODEL_NAMES = ("architecture", "arch", "model_name", "model", "backbone")
# What zipfile, zlib and numpy's reader of headers raise for damaged content.
FAULTS = (
    *(ValueError, EOFError, OSError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)


def entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's entries by name.

    Raises:
        UserError: the archive is damaged, or has two entries of one name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except FAULTS as error:
        raise UserError(
            f"{str(path)!r} is a damaged zip archive of {path.stat().st_size} bytes ({one_line(error)}): "
            f"truncated? Get it again"
        ) from error
    names = {entry.filename: entry for entry in found}
    if len(names) != len(found):
        raise UserError(f"{str(path)!r} holds several entries of the same name")
    return names


def member(path: Path, name: str) -> bytes:
    """Return an entry's bytes, its checksum verified.

    Raises:
        UserError: the entry is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content, expected = archive.read(name), archive.getinfo(name).file_size
    except FAULTS as error:
        raise UserError(
            f"entry {name!r} of {str(path)!r} is damaged: {one_line(error)}; get it again"
        ) from error
    # A directory that says an entry is compressed to nothing gives nothing, and no checksum is looked at.
    if len(content) != expected:
        raise UserError(
            f"entry {name!r} of {str(path)!r} has {len(content)} bytes; its directory says {expected}: "
            f"get it again"
        )
    return content


def called(about: Any) -> tuple[str, ...]:
    """Return the names of a model that a file's own description gives, such as {"arch": "resnet50"}."""
    values = [about.get(key) for key in MODEL_NAMES] if isinstance(about, Mapping) else []
    return tuple(value for value in values if isinstance(value, str) and value)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return str(error).partition("\n")[0]
