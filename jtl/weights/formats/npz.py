"""Reading .npz archives of named arrays, one array at a time and without unpickling."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats import archive

# What checkpoints of training state put in front of the parameters, most specific first.
PREFIXES = ("opt/target/", "params/")
RUN_FOLDER_PREFIX = "model_state/"
# Weights compress by a third at most; a constant (a zero head) by a thousand, but is small.
MAX_EXPANSION, FREE_BYTES = 16, 1 << 28
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npz(path: Path) -> TensorFile:
    """Open an .npz archive; a `params/` or `opt/target/` prefix of flat Flax names is taken off.

    Raises:
        UserError: an entry is no plain array, or the archive is damaged or expands without measure.
    """
    entries = archive.entries(path)
    total = sum(entry.file_size for entry in entries.values())
    if total > MAX_EXPANSION * path.stat().st_size + FREE_BYTES:
        raise UserError(
            f"{str(path)!r} would expand to {total} bytes from {path.stat().st_size}: no weights do"
        )
    tensors = {name.removesuffix(".npy"): _tensor(path, entry) for name, entry in entries.items()}
    prefix = next((each for each in PREFIXES if any(name.startswith(each) for name in tensors)), "")
    if any(name.startswith(RUN_FOLDER_PREFIX) for name in tensors):
        prefix = ""
    names = {name.removeprefix(prefix): name for name in tensors}
    if len(names) != len(entries):
        raise UserError(f"{str(path)!r} holds entries that differ only by the prefix {prefix!r}")
    raw_names = {name: raw for name, raw in names.items() if name != raw}
    return TensorFile(path, "npz", {name: tensors[raw] for name, raw in names.items()}, raw_names=raw_names)


def _tensor(path: Path, entry: zipfile.ZipInfo) -> Tensor:
    try:
        with zipfile.ZipFile(path) as opened, opened.open(entry) as stream:
            shape, _, dtype = _header(stream)
            start = stream.tell()
    except archive.FAULTS as error:
        raise UserError(
            f"entry {entry.filename!r} of {str(path)!r} is no plain array: {archive.one_line(error)}"
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


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in HEADER_READERS:
        raise ValueError(f".npy version {version}; expected 1.0 or 2.0")
    return HEADER_READERS[version](stream)


def _read(path: Path, filename: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as opened, opened.open(filename) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except archive.FAULTS as error:
        raise UserError(
            f"entry {filename!r} of {str(path)!r} is damaged: {archive.one_line(error)}; get it again"
        ) from error
    return array.view(ml_dtypes.bfloat16) if _is_bfloat16(array.dtype) else array


def _is_bfloat16(dtype: np.dtype) -> bool:
    """Return whether numpy wrote it for bfloat16, whose name .npy cannot hold: two bytes without a kind."""
    return dtype.kind == "V" and dtype.itemsize == 2
