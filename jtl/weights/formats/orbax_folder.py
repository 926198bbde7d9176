"""Reading Orbax checkpoints (orbax-checkpoint 0.12.8) by path, one leaf at a time and without its own tree.

Orbax restores into a tree that is known before. Here the names come from the checkpoint's `_METADATA` and the
arrays from where Orbax keeps them, which are zarr arrays (in OCDBT or as folders), opened by `tensorstore`.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.errors import UserError
from jtl.names import as_unicode, is_unicode
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats import variables
from jtl.weights.formats.archive import one_line
from jtl.weights.formats.safetensors_file import open_safetensors
from jtl.weights.report import shorten

METADATA, OCDBT = "_METADATA", "manifest.ocdbt"
# Where the meta of a checkpoint of a jtl run, beside its item, names the file with what never trains.
CHECKPOINT_META, ONCE = "meta/metadata", "once"
COMPLETE = "store_array_data_equal_to_fill_value"
# What an item is called: alone, in a CheckpointManager's Composite, and in jtl's own.
ITEMS = ("", "default", "params", "state", "model", "train_state")
ARRAYS = ("jax.Array", "np.ndarray", "scalar")
MAX_METADATA_BYTES = 64_000_000
# As for .npz: weights compress by a third at most; a constant by a thousand, but is small.
MAX_EXPANSION, FREE_BYTES = 16, 1 << 28


def find_item(path: Path) -> Path | None:
    """Return the folder of the item that holds the arrays; None where the folder is no Orbax checkpoint.

    Of a folder of steps it is the last step's.
    """
    for name in ITEMS:
        if (path / name / METADATA).is_file():
            return path / name
    steps = [each for each in path.iterdir() if each.name.isdecimal() and each.is_dir()]
    return find_item(max(steps, key=lambda each: int(each.name))) if steps else None


def files(item: Path) -> tuple[Path, ...]:
    """Return the files of an item, sorted by their path in it, and behind them what it shares with others."""
    beside = _kept_once(item)
    own = sorted(each for each in item.rglob("*") if each.is_file())
    return (*own, *(() if beside is None else (beside,)))


def open_orbax(item: Path) -> TensorFile:
    """Open the item of a checkpoint; names are the paths of its leaves.

    Raises:
        UserError: its metadata are damaged, an array is missing or of a kind that is no number, or its path
            is one that the library cannot open.
    """
    if not is_unicode(str(item.absolute())):
        raise UserError(
            f"Orbax checkpoint {as_unicode(str(item))!r} has bytes in its path that are no UTF-8; "
            f"rename that folder"
        )
    layout, paths = _metadata(item)
    tensors = {"/".join(path): _tensor(item, path, layout) for path in paths}
    if len(tensors) != len(paths):
        raise UserError(f"Orbax checkpoint {str(item)!r} has leaves that differ only by a '/' in their names")
    beside = _kept_once(item)
    if beside is not None:
        tensors |= open_safetensors(beside).tensors
    total = sum(
        int(np.prod(each.shape, dtype=object)) * np.dtype(each.dtype).itemsize for each in tensors.values()
    )
    found = sum(each.stat().st_size for each in files(item))
    if total > MAX_EXPANSION * found + FREE_BYTES:
        raise UserError(
            f"Orbax checkpoint {str(item)!r} would expand to {total} bytes from {found}: no weights do"
        )
    container, names = variables.of_model(tensors, str(item))
    return variables.chosen(TensorFile(item, f"Orbax{container}", tensors), names)


def _kept_once(item: Path) -> Path | None:
    """Return the file that a checkpoint of a jtl run has with all others of it: what never trains.

    Raises:
        UserError: it is not there.
    """
    try:
        name = json.loads((item.parent / CHECKPOINT_META).read_bytes())[ONCE]["file"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise UserError(
            f"checkpoint {str(item.parent)!r} names the file {name!r}; expected one beside its folder"
        )
    path = item.parent.parent.parent / name
    if not path.is_file():
        raise UserError(
            f"{str(path)!r} is not there, where checkpoint {str(item.parent)!r} has what never trains; put "
            f"it back, or give the run folder"
        )
    return path


class _Layout(NamedTuple):
    """How arrays are kept: as zarr 3 or 2, and whether even what equals the fill value is written."""

    has_zarr3: bool
    is_complete: bool


def _metadata(item: Path) -> tuple[_Layout, list[tuple[str, ...]]]:
    """Return how the arrays are kept, and the path of every leaf that is an array."""
    path = item / METADATA
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes; expected at most {MAX_METADATA_BYTES}")
        content = json.loads(path.read_bytes())
        has_zarr3, is_complete = content.get("use_zarr3", False), content.get(COMPLETE, False)
        return _Layout(bool(has_zarr3), bool(is_complete)), list(_paths(content["tree_metadata"]))
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(
            f"{METADATA} of Orbax checkpoint {str(item)!r} is damaged ({type(error).__name__}: "
            f"{one_line(error)}); get the checkpoint again"
        ) from error


def _paths(leaves: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for leaf in leaves.values():
        path = tuple(str(each["key"]) for each in leaf["key_metadata"])
        if any(each in ("", ".", "..") or "\0" in each for each in path):
            raise ValueError(f"a leaf at {path}")
        if leaf["value_metadata"]["value_type"] in ARRAYS:
            yield path


def _tensor(item: Path, path: tuple[str, ...], layout: _Layout) -> Tensor:
    array = _open(item, path, layout)
    dtype = np.dtype(array.dtype.numpy_dtype)
    return Tensor(tuple(array.shape), dtype.name, partial(_read, item, path, layout))


def _read(item: Path, path: tuple[str, ...], layout: _Layout) -> np.ndarray:
    try:
        return np.asarray(_open(item, path, layout).read().result())
    except ValueError as error:
        raise _unreadable(item, path, error) from error


def _open(item: Path, path: tuple[str, ...], layout: _Layout) -> Any:
    """Open a leaf's array: its metadata are read, its values are not."""
    import tensorstore

    name = ".".join(path) + "/"
    folder = f"{item.resolve()}/"
    store = (
        {"driver": "ocdbt", "base": {"driver": "file", "path": folder}, "path": name}
        if (item / OCDBT).is_file()
        else {"driver": "file", "path": folder + _inside(name)}
    )
    spec = {
        "driver": "zarr3" if layout.has_zarr3 else "zarr",
        "kvstore": store,
        # Else a part that was lost reads as zeros.
        "fill_missing_data_reads": not layout.is_complete,
    }
    try:
        array = tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise _unreadable(item, path, error) from error
    if np.dtype(array.dtype.numpy_dtype).kind == "O":
        raise _unreadable(item, path, TypeError(f"it holds {array.dtype.name}, which is no number"))
    return array


def _inside(name: str) -> str:
    """Return a leaf's folder, whose name must not lead elsewhere."""
    if "/" in name.removesuffix("/"):
        raise UserError(f"an Orbax checkpoint names the folder {name!r}; expected one inside it")
    return name


def _unreadable(item: Path, path: tuple[str, ...], error: Exception) -> UserError:
    return UserError(
        f"leaf {shorten(['/'.join(path)], 1)!r} of Orbax checkpoint {str(item)!r} cannot be read: "
        f"{one_line(error)[:300]}; get the checkpoint again"
    )
