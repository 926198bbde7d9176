"""Reading safetensors through its library, which checks the header; tensors are read one by one."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I64": "int64",
    "BOOL": "bool",
}


def open_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        UserError: its header does not describe its content.
    """
    try:
        # The numpy reader keeps the file mapped; closing it would cost a new map for every tensor.
        handle = safe_open(path, framework="np")
        names = handle.keys()
        slices = {name: handle.get_slice(name) for name in names}
        tensors = {
            name: Tensor(
                tuple(part.get_shape()),
                _dtype(part.get_dtype()),
                partial(_read, path, handle, name),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{str(path)!r} is no sound safetensors file: {_fault(path)} ({error}); get it again"
        ) from error
    return TensorFile(path, "safetensors", tensors)


def _read(path: Path, handle: safe_open, name: str) -> np.ndarray:
    try:
        return handle.get_tensor(name)
    except (SafetensorError, TypeError, AttributeError) as error:
        raise UserError(f"tensor {name!r} of {str(path)!r} cannot be read: {error}") from error


def _dtype(name: str | None) -> str:
    """Return numpy's name of a dtype where it is one of those weights are kept in, else the file's."""
    return DTYPES.get(str(name), str(name))


def _fault(path: Path) -> str:
    """Return what is wrong with a file that the library refused, from the sizes its header promises."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            return f"it has {size} bytes and its header should take {length}"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = LENGTH_BYTES + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return "its header is not the JSON it should be"
    if expected != size:
        return f"it has {size} bytes and its header promises {expected}"
    return "its header contradicts itself"
