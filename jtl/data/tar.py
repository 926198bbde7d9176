"""Tar archives: where each file's bytes stand, read from the headers alone (POSIX.1-2001, and GNU's names).

Python's own reader ends without a word where an archive is cut or damaged; here that is an error.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from jtl.errors import UserError
from jtl.names import as_unicode

BLOCK = 512
FILES, LONG_NAME, RECORDS = (b"0", b"\0", b"7"), b"L", b"x"
# What is no file and has no name of one: folders, links, names of links, records for all.
PASSED = (b"5", b"1", b"2", b"K", b"g")
# A name, or the records about a file, in bytes.
MAX_RECORD = 1 << 20
# What writers fill an archive up with behind its end.
MAX_PADDING = 1 << 16
CHECKSUM = slice(148, 156)
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in an archive: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def members(path: str) -> list[Member]:
    """Return the files of an archive in their order.

    Raises:
        UserError: it cannot be read, is compressed, damaged or cut short.
    """
    try:
        with open(path, "rb") as file:
            return list(_members(file, path))
    except OSError as error:
        raise UserError(f"cannot read {as_unicode(path)}: {error.strerror}") from error


def _members(file: BinaryIO, path: str) -> Iterator[Member]:
    total = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if packing := next((name for mark, name in PACKED.items() if start.startswith(mark)), ""):
        raise UserError(
            f"{as_unicode(path)} is compressed by {packing}, and its files cannot be found in it; unpack the "
            f"archive to a plain .tar"
        )
    place, name, size = 0, "", -1
    while True:
        header = _read(file, place, BLOCK, path)
        if not any(header):
            break
        _check(header, place, path)
        kind, own_size = header[156:157], _number(header[124:136], place, path)
        length = own_size if size < 0 or kind not in FILES else size
        place += BLOCK
        if place + length > total:
            raise _damaged(
                path, f"the file at byte {place} is longer than the archive, which may be cut short"
            )
        if kind == LONG_NAME:
            name = _text(_record(file, place, length, path).rstrip(b"\0"))
        elif kind == RECORDS:
            name, size = _records(_record(file, place, length, path), name, path)
        elif kind in FILES:
            yield Member(name or _own_name(header), place, length)
            name, size = "", -1
        elif kind in PASSED:
            name, size = "", -1
        else:
            raise _damaged(path, f"the entry at byte {place - BLOCK} is of a kind {kind!r} that is not read")
        place += -(-length // BLOCK) * BLOCK
    if total - place > MAX_PADDING:
        raise _damaged(
            path, f"it ends at byte {place} and goes on: archives in one file are to be taken apart"
        )


def _read(file: BinaryIO, place: int, size: int, path: str) -> bytes:
    file.seek(place)
    data = file.read(size)
    if len(data) < size:
        raise _damaged(path, "its end is missing; it may be cut short")
    return data


def _record(file: BinaryIO, place: int, size: int, path: str) -> bytes:
    if size > MAX_RECORD:
        raise _damaged(path, f"the record at byte {place} has {size:,} bytes")
    return _read(file, place, size, path)


def _check(header: bytes, place: int, path: str) -> None:
    """Raise UserError unless a header's checksum is that of its bytes."""
    stated = _number(header[CHECKSUM], place, path)
    blanks = header[: CHECKSUM.start] + b" " * 8 + header[CHECKSUM.stop :]
    if stated != sum(blanks):
        raise _damaged(path, f"the header at byte {place} has another checksum than it states")


def _number(field: bytes, place: int, path: str) -> int:
    """Return a number: octal digits, or behind a first byte of 0x80 as it stands."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in digits):
        raise _damaged(path, f"the header at byte {place} holds {digits!r} for a number")
    return int(digits or b"0", 8)


def _records(data: bytes, name: str, path: str) -> tuple[str, int]:
    """Return the name and size (-1: none) that records before a file give it, as "LENGTH KEY=VALUE" lines."""
    size = -1
    while data.strip(b"\0"):
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length[:9]) <= len(data) or len(length) > 9:
            raise _damaged(path, "the records about a file do not have the lengths they state")
        key, _, value = rest[: int(length) - len(length) - 1].rstrip(b"\n").partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise _damaged(path, "it holds sparse files, which are not read")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        data = data[int(length) :]
    return name, size


def _own_name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    is_split = header[257:263] == b"ustar\0" and prefix
    return _text(prefix + b"/" + name if is_split else name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _damaged(path: str, fault: str) -> UserError:
    return UserError(
        f"cannot read {as_unicode(path)}: {fault}; expected a complete tar archive, copy it again"
    )
