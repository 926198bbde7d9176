"""Reading the msgpack files of `flax.serialization` (flax 0.12.8), one array at a time.

Only the markers of the format are walked, in place: an array is an extension whose bytes are again msgpack,
(shape, dtype, bytes), so its place in the file is known without reading it. The `msgpack` library would take
every array into memory to come to the next.
"""

import mmap
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats import variables

ARRAY, SCALAR = 1, 3
SIZED = ("text", "bytes", "extension")
CHUNKED = "__msgpack_chunked_array__"
MAX_DEPTH, MAX_ENTRIES, MAX_NAME_BYTES = 64, 200_000, 1000
DTYPES = {
    each.name: each
    for each in map(
        np.dtype,
        (
            *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16),
            *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
            *(np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8, np.bool_),
        ),
    )
}


class _Item(NamedTuple):
    """A marker: what it announces, its size (bytes, or entries) or value, and where its content starts."""

    kind: str
    value: int
    start: int
    code: int = 0


class _Place(NamedTuple):
    """Where the values of an array, or of a run of its values, lie in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int


class _Fault(Exception):
    """The bytes are no msgpack of Flax."""


def open_flax(path: Path) -> TensorFile:
    """Open a msgpack file of nested dicts of arrays; names are their keys joined by '/'.

    Raises:
        UserError: it is damaged, or holds arrays of Python objects.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            found = dict(_arrays(view))
    except (_Fault, ValueError, struct.error, RecursionError) as error:
        fault = str(error) if isinstance(error, _Fault) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{str(path)!r} ({path.stat().st_size} bytes) is no sound Flax msgpack file: {fault}; get it "
            f"again"
        ) from error
    container, names = variables.of_model(found, str(path))
    tensors = {name: _tensor(path, places) for name, places in found.items()}
    return variables.chosen(TensorFile(path, f"Flax msgpack{container}", tensors), names)


def is_flax(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is a msgpack map with text as its first key."""
    if start[:1] in (b"\xde", b"\xdf"):
        key = start[3:4] if start[:1] == b"\xde" else start[5:6]
    else:
        key = start[1:2] if b"\x81" <= start[:1] <= b"\x8f" else b""
    return bool(key) and (0xA0 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB)


def _tensor(path: Path, places: tuple[tuple[int, ...], tuple[_Place, ...]]) -> Tensor:
    shape, parts = places
    return Tensor(shape, parts[0].dtype, partial(_read, path, shape, parts))


def _read(path: Path, shape: tuple[int, ...], parts: tuple[_Place, ...]) -> np.ndarray:
    dtype = DTYPES[parts[0].dtype]
    values = np.empty(sum(_count(part.shape) for part in parts), dtype)
    end = 0
    with path.open("rb") as stream:
        for part in parts:
            first, end = end, end + _count(part.shape)
            stream.seek(part.start)
            if stream.readinto(values[first:end].view(np.uint8).data) != (end - first) * dtype.itemsize:
                raise UserError(f"{str(path)!r} is cut: it has changed since it was opened; repeat")
    return values.reshape(shape)


def _arrays(view: mmap.mmap) -> Iterator[tuple[str, tuple[tuple[int, ...], tuple[_Place, ...]]]]:
    """Yield the arrays of the file by name: shape, and the places of the runs of its values."""
    root = _item(view, 0)
    if root.kind != "map":
        raise _Fault(f"it holds a {root.kind}; expected a map of arrays")
    seen: set[str] = set()
    # Of every open container: name, number of entries, how many were read, and whether they have keys.
    containers = [("", root.value, 0, True)]
    at = root.start
    while containers:
        prefix, size, number, has_keys = containers.pop()
        if number == size:
            continue
        containers.append((prefix, size, number + 1, has_keys))
        key, at = _text(view, at) if has_keys else (str(number), at)
        name = f"{prefix}/{key}" if prefix else key
        if len(seen) > MAX_ENTRIES or len(containers) > MAX_DEPTH:
            raise _Fault(f"it nests over {MAX_DEPTH} deep or holds over {MAX_ENTRIES} entries")
        if name in seen:
            raise _Fault(f"it holds {name!r} twice")
        seen.add(name)
        item = _item(view, at)
        if item.kind == "map" and _is_chunked(view, item):
            shape, parts, at = _chunked(view, item, name)
            yield name, (shape, parts)
        elif item.kind in ("map", "list"):
            at = item.start
            containers.append((name, item.value, 0, item.kind == "map"))
        else:
            at = item.start + (item.value if item.kind in SIZED else 0)
            if item.kind == "extension" and item.code in (ARRAY, SCALAR):
                place = _place(view, item, name)
                yield name, (place.shape, (place,))
    if at != len(view):
        raise _Fault(f"its map ends at byte {at}")


def _is_chunked(view: mmap.mmap, item: _Item) -> bool:
    return item.value > 0 and view[item.start + 1 : item.start + 1 + len(CHUNKED)] == CHUNKED.encode()


def _chunked(view: mmap.mmap, item: _Item, name: str) -> tuple[tuple[int, ...], tuple[_Place, ...], int]:
    """Return shape and runs of an array that Flax cut into chunks, and where it ends."""
    at = item.start
    shape: tuple[int, ...] = ()
    parts: tuple[_Place, ...] = ()
    for _ in range(item.value):
        key, at = _text(view, at)
        entry = _item(view, at)
        at = entry.start
        if key == CHUNKED:
            continue
        if key not in ("shape", "chunks") or entry.kind != "map" or entry.value > MAX_ENTRIES:
            raise _Fault(f"the chunked array {name!r} has an entry {key!r}")
        for number in range(entry.value):
            index, at = _text(view, at)
            part = _item(view, at)
            if index != str(number):
                raise _Fault(f"the chunked array {name!r} counts {index!r} as {number}")
            if key == "shape":
                shape, at = (*shape, _whole(part, name)), part.start
            else:
                parts, at = (*parts, _place(view, part, name)), part.start + part.value
    if not parts or len({part.dtype for part in parts}) != 1:
        raise _Fault(f"the chunked array {name!r} has no chunks, or chunks of several dtypes")
    found = sum(_count(part.shape) for part in parts)
    if found != _count(shape):
        raise _Fault(f"the chunks of {name!r} hold {found} values; its shape {shape} needs {_count(shape)}")
    return shape, parts, at


def _place(view: mmap.mmap, item: _Item, name: str) -> _Place:
    """Return where the values of an array's extension are: msgpack of (shape, dtype, bytes)."""
    if item.kind != "extension" or item.code not in (ARRAY, SCALAR):
        raise _Fault(f"{name!r} is no array")
    entries = _item(view, item.start)
    sizes = _item(view, entries.start)
    if (entries.kind, entries.value, sizes.kind) != ("list", 3, "list") or sizes.value > MAX_DEPTH:
        raise _Fault(f"array {name!r} is not (shape, dtype, bytes)")
    at, shape = sizes.start, []
    for _ in range(sizes.value):
        size = _item(view, at)
        shape.append(_whole(size, name))
        at = size.start
    dtype, at = _text(view, at)
    content = _item(view, at)
    if dtype not in DTYPES:
        raise _Fault(f"array {name!r} has dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    expected = _count(shape) * DTYPES[dtype].itemsize
    end = content.start + content.value
    if content.kind != "bytes" or content.value != expected or end != item.start + item.value:
        raise _Fault(
            f"array {name!r} of shape {tuple(shape)} and {dtype} has {content.value} bytes; expected "
            f"{expected}"
        )
    return _Place(tuple(shape), dtype, content.start)


def _text(view: mmap.mmap, at: int) -> tuple[str, int]:
    """Return the text at a place, and where it ends."""
    item = _item(view, at)
    if item.kind != "text" or item.value > MAX_NAME_BYTES:
        raise _Fault(f"at byte {at} is a {item.kind} of size {item.value}; expected a name")
    end = item.start + item.value
    return bytes(view[item.start : end]).decode(), end


def _whole(item: _Item, name: str) -> int:
    if item.kind != "number" or not 0 <= item.value < 1 << 60:
        raise _Fault(f"the shape of {name!r} holds a {item.kind} of {item.value}")
    return item.value


def _count(shape: Any) -> int:
    return int(np.prod(shape, dtype=object)) if len(shape) else 1


def _item(view: mmap.mmap, at: int) -> _Item:
    """Return the marker at a place, whose content is checked to lie in the file."""
    if at >= len(view):
        raise _Fault("it is cut")
    byte = view[at]
    for first, last, kind in SHORT:
        if first <= byte <= last:
            item = _Item(kind, byte - first, at + 1)
            break
    else:
        if byte not in LONG:
            raise _Fault(f"byte {at} is {byte:#x}, which no msgpack of Flax has")
        kind, layout, extra = LONG[byte]
        size = struct.calcsize(layout)
        if at + 1 + size + extra > len(view):
            raise _Fault("it is cut")
        value = struct.unpack_from(layout, view, at + 1)[0] if layout else _fixed_size(byte)
        code = view[at + 1 + size] if extra else 0
        item = _Item(kind, value, at + 1 + size + extra, code)
    if item.kind in SIZED and item.start + item.value > len(view):
        raise _Fault(f"it is cut: {item.value} bytes should follow byte {item.start}")
    return item


def _fixed_size(byte: int) -> int:
    """Return the bytes of an extension of fixed size; 0 for what has no size."""
    return 1 << (byte - 0xD4) if 0xD4 <= byte <= 0xD8 else 0


SHORT = (
    *((0x00, 0x7F, "number"), (0x80, 0x8F, "map"), (0x90, 0x9F, "list"), (0xA0, 0xBF, "text")),
    (0xE0, 0xFF, "negative number"),
)
# Kind, layout of the size or value, and how many bytes of extension code follow it.
LONG: dict[int, tuple[str, str, int]] = {
    0xC0: ("nothing", "", 0),
    **dict.fromkeys((0xC2, 0xC3), ("truth", "", 0)),
    **{0xC4 + n: ("bytes", layout, 0) for n, layout in enumerate((">B", ">H", ">I"))},
    **{0xC7 + n: ("extension", layout, 1) for n, layout in enumerate((">B", ">H", ">I"))},
    **{0xCA + n: ("real number", layout, 0) for n, layout in enumerate((">f", ">d"))},
    **{0xCC + n: ("number", layout, 0) for n, layout in enumerate((">B", ">H", ">I", ">Q"))},
    **{0xD0 + n: ("number", layout, 0) for n, layout in enumerate((">b", ">h", ">i", ">q"))},
    **dict.fromkeys(range(0xD4, 0xD9), ("extension", "", 1)),
    **{0xD9 + n: ("text", layout, 0) for n, layout in enumerate((">B", ">H", ">I"))},
    **{0xDC + n: ("list", layout, 0) for n, layout in enumerate((">H", ">I"))},
    **{0xDE + n: ("map", layout, 0) for n, layout in enumerate((">H", ">I"))},
}
