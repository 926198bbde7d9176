"""Reading safetensors: the library checks the header, and tensors are read from their places one by one.

Not through the library's own map of the file: the pages it touches would stay beside the tensors made of
them, and numpy has no name for 8-bit floats.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats.archive import called

LENGTH_BYTES = 8
# 100,000 tensors; the library allows 100 MB, of which JSON makes a gigabyte of objects.
MAX_HEADER_BYTES = 16_000_000
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def open_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        UserError: its header does not describe its content.
    """
    try:
        if _header_bytes(path) > MAX_HEADER_BYTES:
            raise UserError(
                f"{str(path)!r} is no sound safetensors file: its header should take {_header_bytes(path)} "
                f"bytes; expected at most {MAX_HEADER_BYTES}"
            )
        # The library refuses offsets that overlap, leave holes, or do not fit the shapes or the file.
        with safe_open(path, framework="np") as handle:
            names = handle.keys()
        header = _header(path)
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{str(path)!r} is no sound safetensors file: {_fault(path)} ({error}); get it again"
        ) from error
    start = LENGTH_BYTES + _header_bytes(path)
    tensors = {name: _tensor(path, name, header[name], start) for name in names}
    return TensorFile(path, "safetensors", tensors, called=called(header.get("__metadata__")))


def _tensor(path: Path, name: str, entry: dict[str, Any], start: int) -> Tensor:
    shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
    offset = start + entry["data_offsets"][0]
    read = partial(_read, path, name, shape, entry["dtype"], offset)
    return Tensor(shape, entry["dtype"] if dtype is None else dtype.name, read)


def _read(path: Path, name: str, shape: tuple[int, ...], dtype: str, offset: int) -> np.ndarray:
    if dtype not in DTYPES:
        raise UserError(
            f"tensor {name!r} of {str(path)!r} is {dtype}, which is not read; expected one of "
            f"{', '.join(DTYPES)}"
        )
    count = int(np.prod(shape, dtype=np.int64))
    array = np.fromfile(path, DTYPES[dtype], count, offset=offset)
    if array.size != count:
        raise UserError(f"tensor {name!r} of {str(path)!r} is cut: the file has changed; repeat")
    return array.reshape(shape)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as stream:
        return int.from_bytes(stream.read(LENGTH_BYTES), "little")


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return json.loads(stream.read(LENGTH_BYTES + _header_bytes(path))[LENGTH_BYTES:])


def _fault(path: Path) -> str:
    """Return what is wrong with a file that the library refused, from the sizes its header promises."""
    size, length = path.stat().st_size, _header_bytes(path)
    if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
        return f"it has {size} bytes and its header should take {length}"
    try:
        ends = [entry["data_offsets"][1] for name, entry in _header(path).items() if name != "__metadata__"]
        expected = LENGTH_BYTES + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return "its header is not the JSON it should be"
    if expected != size:
        return f"it has {size} bytes and its header promises {expected}"
    return "its header contradicts itself"
