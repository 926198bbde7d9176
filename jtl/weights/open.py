"""Opening what a spec resolved to: a file, a run folder, a hub's folder, or an Orbax checkpoint."""

import hashlib
from pathlib import Path

from jtl.errors import UserError
from jtl.weights.contract import Config, TensorFile
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


def open_path(path: Path, settings: Config | None = None) -> TensorFile:
    """Open a file or folder of weights; of a folder also what lies beside them (`beside`).

    What of a file is the model's, `settings` and the names say (`unwrap`).

    Raises:
        UserError: there are no weights, or they or what lies beside them are damaged.
    """
    settings = settings or Config()
    if not path.is_dir():
        return unwrapped(open_file(path), settings)
    if (path / META_NAME).is_file() and (path / WEIGHTS_NAME).is_file():
        return open_run(path)
    found = _weights_in(path)
    file = orbax_folder.open_orbax(found) if found.is_dir() else open_file(found)
    return beside.describe(unwrapped(file, settings), path)


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
