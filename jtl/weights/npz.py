"""Reading .npz archives of named arrays, one array at a time and without unpickling."""

import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile

# What checkpoints of training state put in front of the parameters, most specific first.
PREFIXES = ("opt/target/", "params/")
RUN_FOLDER_PREFIX = "model_state/"
# Weights compress by a third at most; a constant (a zero head) by a thousand, but is small.
MAX_EXPANSION, FREE_BYTES = 16, 1 << 28
# What zipfile, zlib and numpy raise for damaged content.
FAULTS = (
    *(ValueError, EOFError, OSError, RuntimeError, MemoryError, TypeError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npz(path: Path) -> TensorFile:
    """Open an .npz archive; a `params/` or `opt/target/` prefix of flat Flax names is taken off.

    Raises:
        UserError: an entry is no plain array, or the archive is damaged or expands without measure.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise UserError(f"{str(path)!r} holds several entries of the same name")
        total = sum(entry.file_size for entry in entries)
        if total > MAX_EXPANSION * path.stat().st_size + FREE_BYTES:
            raise UserError(
                f"{str(path)!r} would expand to {total} bytes from {path.stat().st_size}: no weights do"
            )
        tensors = {entry.filename.removesuffix(".npy"): _tensor(path, archive, entry) for entry in entries}
    prefix = next((each for each in PREFIXES if any(name.startswith(each) for name in tensors)), "")
    if any(name.startswith(RUN_FOLDER_PREFIX) for name in tensors):
        prefix = ""
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(bare) != len(entries):
        raise UserError(f"{str(path)!r} holds entries that differ only by the prefix {prefix!r}")
    return TensorFile(path, "npz", bare)


def _tensor(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    try:
        with archive.open(entry) as stream:
            shape, _, dtype = _header(stream)
            start = stream.tell()
    except FAULTS as error:
        raise UserError(
            f"entry {entry.filename!r} of {str(path)!r} is no plain array: {_line(error)}"
        ) from error
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject:
        raise UserError(
            f"entry {entry.filename!r} of {str(path)!r} holds pickled Python objects, which are not read"
        )
    if start + num_bytes != entry.file_size:
        raise UserError(
            f"entry {entry.filename!r} of {str(path)!r} has {entry.file_size - start} bytes; its shape "
            f"{shape} and dtype {dtype} need {num_bytes}: truncated? Get it again"
        )
    name = "bfloat16" if _is_bfloat16(dtype) else dtype.name
    return Tensor(shape, name, partial(_read, path, entry.filename))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in HEADER_READERS:
        raise ValueError(f".npy version {version}; expected 1.0 or 2.0")
    return HEADER_READERS[version](stream)


def _read(path: Path, filename: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(filename) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except FAULTS as error:
        raise UserError(
            f"entry {filename!r} of {str(path)!r} is damaged: {_line(error)}; get it again"
        ) from error
    return array.view(ml_dtypes.bfloat16) if _is_bfloat16(array.dtype) else array


def _is_bfloat16(dtype: np.dtype) -> bool:
    """Return whether numpy wrote it for bfloat16, whose name .npy cannot hold: two bytes without a kind."""
    return dtype.kind == "V" and dtype.itemsize == 2


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
