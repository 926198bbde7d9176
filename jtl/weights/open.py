"""Opening what a spec resolved to: a file, a run folder, a hub's folder, or an Orbax checkpoint."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from jtl.errors import UserError, reading
from jtl.weights.contract import Config, Tensor, TensorFile
from jtl.weights.formats import orbax_folder, sharded
from jtl.weights.formats.files import open_file
from jtl.weights.hub import beside
from jtl.weights.hub.download import sha256_of
from jtl.weights.run_folder import META_NAME, WEIGHTS_NAME, open_run
from jtl.weights.unwrap import unwrapped

# What folders and hubs call their weights; the safer format first.
NAMES = (
    *(WEIGHTS_NAME, f"{WEIGHTS_NAME}{sharded.INDEX_SUFFIX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{sharded.INDEX_SUFFIX}"),
    *("flax_model.msgpack", "model.weights.h5"),
)


def open_path(path: Path, settings: Config | None = None, cure: str = "") -> TensorFile:
    """Open a file or folder of weights; of a folder also what lies beside them (`beside`).

    What of a file is the model's, `settings` and the names say (`unwrap`). `cure` is what to do about a
    damaged file, told where one is found. Whatever a reader raises, then or when a tensor is read, becomes
    one line here.

    Raises:
        UserError: there are no weights, or they or what lies beside them are damaged.
    """
    with _one_line(path, cure):
        is_run = path.is_dir() and (path / META_NAME).is_file() and (path / WEIGHTS_NAME).is_file()
        file = open_run(path) if is_run else _open(path)
    file = file._replace(
        tensors=_guarded(file.tensors, file.path, cure), others=_guarded(file.others, file.path, cure)
    )
    if is_run:
        return file
    file = unwrapped(file, settings or Config())
    with _one_line(path, cure):
        return beside.describe(file, path) if path.is_dir() else file


def _open(path: Path) -> TensorFile:
    found = _weights_in(path) if path.is_dir() else path
    return orbax_folder.open_orbax(found) if found.is_dir() else open_file(found)


def _guarded(tensors: Mapping[str, Tensor], path: Path, cure: str) -> dict[str, Tensor]:
    """Return the tensors with readers that raise one line."""

    def read(name: str, inner: Callable[[], np.ndarray]) -> np.ndarray:
        with _one_line(path, cure, f"tensor {name!r} of "):
            return inner()

    return {name: each._replace(read=partial(read, name, each.read)) for name, each in tensors.items()}


@contextmanager
def _one_line(path: Path, cure: str, what: str = "") -> Iterator[None]:
    """Turn whatever a reader raises into one UserError that names the file, and says the cure."""
    try:
        with reading(f"{what}{str(path)!r}", cure or "get it again"):
            yield
    except UserError as error:
        if not cure or cure in str(error):
            raise
        raise UserError(f"{error}; {cure}") from error


def digest(path: Path) -> str:
    """Return the sha256 of weights: of their file, or of a folder's.

    That of several files (shards, an Orbax checkpoint) is the sha256 of the files' own, as hexadecimal
    digits one behind the other, in the order of the files' names.

    Raises:
        UserError: there are no weights.
    """
    found = _weights_in(path) if path.is_dir() else path
    if found.is_dir():
        files = orbax_folder.files(found)
    elif found.name.endswith(sharded.INDEX_SUFFIX):
        files = sharded.shards(found)
    else:
        return sha256_of(found)
    return joined_digest(tuple(map(sha256_of, files)))


def joined_digest(digests: tuple[str, ...]) -> str:
    """Return the one sha256 of several files: that of theirs, as text, one behind the other."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _weights_in(folder: Path) -> Path:
    """Return a folder's file of weights or its index; for an Orbax checkpoint the folder of its arrays.

    Raises:
        UserError: the folder has none.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    if (folder / META_NAME).is_file():
        raise UserError(
            f"folder {str(folder)!r} has no {WEIGHTS_NAME}: it has not finished; repeat its command first"
        )
    item = orbax_folder.find_item(folder)
    if item is None:
        raise UserError(
            f"folder {str(folder)!r} has no {WEIGHTS_NAME}: it is no run folder; expected one of "
            f"{', '.join(NAMES)}, or an Orbax checkpoint; or give a file of weights"
        )
    return item
