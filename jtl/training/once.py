"""What no step moves, kept once a run: a file beside the checkpoints in place of a copy in each of them.

Its name is made of the digests of its leaves, so that a checkpoint that names it means these bits and no
others, and whatever is written later takes another name. It is safetensors, with the names that the leaves
have in the state, and is whole on the disk before the first checkpoint that names it.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import distributed, tree
from jtl.errors import UserError
from jtl.files import replaced
from jtl.training import checkpoint_faults, digests, sharding
from jtl.training.checkpoint_faults import Damage
from jtl.weights.contract import Tensor
from jtl.weights.formats.orbax_folder import ONCE
from jtl.weights.formats.safetensors_file import DTYPES, open_safetensors

PREFIX, SUFFIX = "frozen-", ".safetensors"
NAME_DIGITS = 12
# The fields of a state that have such leaves; both are nested dicts.
FIELDS = ("frozen", "model_state")
ALIGNMENT = 8


def split(fields: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a state without the leaves of these names, and those leaves by name."""
    moving, still = dict(fields), {}
    for field in FIELDS:
        if field in fields and any(name.startswith(f"{field}/") for name in names):
            own, moving[field] = tree.split(
                fields[field], lambda name, field=field: f"{field}/{name}" in names
            )
            still |= tree.flatten({field: own})
    return moving, still


def joined(like: Any, moving: Any, still: Mapping[str, Any]) -> Any:
    """Return a tree of the structure of `like` out of what `split` took apart."""
    leaves = dict(zip(digests.names(moving), jax.tree.leaves(moving), strict=True)) | dict(still)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in digests.names(like)])


def described(names: Iterable[str], found: Mapping[str, str]) -> dict[str, Any]:
    """Return what a checkpoint's meta says of the leaves that are not in it; `found` are digests by name."""
    own = {name: found[name] for name in sorted(names)}
    text = hashlib.sha256(json.dumps(own).encode()).hexdigest()
    return {"file": f"{PREFIX}{text[:NAME_DIGITS]}{SUFFIX}", "leaves": list(own)} if own else {}


def leaves_of(meta: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the leaves that a checkpoint has not in itself; those saved before have all."""
    return frozenset(meta.get(ONCE, {}).get("leaves", ()))


def write(run_folder: Path, file: str, leaves: Mapping[str, jax.Array]) -> None:
    """Write leaves as the file of that name, whole or not at all; one leaf at a time is on the host.

    Of several processes all have to ask, and one writes.
    """
    # Each leaf at a multiple of its values' size, as the format's own writer has them.
    ordered = dict(sorted(leaves.items(), key=lambda each: (-each[1].dtype.itemsize, each[0])))
    if not distributed.is_writer():
        for leaf in ordered.values():
            sharding.fetched(leaf)
        return
    with replaced(run_folder / file) as part, part.open("r+b") as stream:
        stream.write(_header(ordered))
        for leaf in ordered.values():
            array = np.ascontiguousarray(sharding.fetched(leaf))
            stream.write(array.reshape(-1).view(np.uint8).data)


def read(run_folder: Path, meta: Mapping[str, Any], names: Collection[str]) -> dict[str, np.ndarray]:
    """Return some of the leaves that a checkpoint's meta names, on the host.

    Raises:
        Damage: the file is gone, or they are not what was written.
        UserError: it cannot be read just now.
    """
    tensors = _opened(run_folder / meta[ONCE]["file"]) if names else {}
    found = {}
    for name in names:
        kind = _kind(tensors[name]) if name in tensors else "nothing"
        if kind != meta["kinds"][name]:
            raise Damage(f"leaf {name!r} is {kind}; expected {meta['kinds'][name]}")
        found[name] = _bytes_of(run_folder / meta[ONCE]["file"], name, tensors[name])
        if digests.on_host({name: found[name]})[name] != meta["digests"][name]:
            raise Damage(f"leaf {name!r} does not match its digest")
    return found


def fault(run_folder: Path, meta: Mapping[str, Any]) -> str:
    """Read all that a checkpoint's meta names; return what is wrong with it, "" where it is sound.

    Raises:
        UserError: it cannot be read just now.
    """
    try:
        for name in sorted(leaves_of(meta)):
            read(run_folder, meta, (name,))
    except Damage as damage:
        return str(damage)
    return ""


def restored(
    run_folder: Path, meta: Mapping[str, Any], like: Mapping[str, Any], own: Mapping[str, str]
) -> dict[str, Any]:
    """Return the leaves of `like` with the digests that the meta says: as they are, or else from the file.

    `own` are the digests of those of `like` that are arrays; what is read lies as `like` says.

    Raises:
        UserError: the file is needed, and gone, damaged or not to be read just now.
    """
    missing = [name for name in like if own.get(name) != meta["digests"][name]]
    try:
        values = read(run_folder, meta, missing)
    except Damage as damage:
        raise UserError(
            f"{str(run_folder / meta[ONCE]['file'])!r}, what never trains of every checkpoint, is damaged "
            f"({damage}), and the weights as they are now give other values; nothing was moved: put the file "
            f"or the weights back, or give another --workdir"
        ) from damage
    placed = {name: sharding.put(value, like[name].sharding) for name, value in values.items()}
    return {name: placed.get(name, leaf) for name, leaf in like.items()}


def files(run_folder: Path) -> list[Path]:
    """Return the files of this kind in a run folder."""
    return sorted(run_folder.glob(f"{PREFIX}*{SUFFIX}"))


def remove_unneeded(run_folder: Path, metas: Iterable[Mapping[str, Any]]) -> None:
    """Remove the files that none of the checkpoints' metas names."""
    needed = {meta[ONCE]["file"] for meta in metas if meta.get(ONCE)}
    for path in files(run_folder):
        if path.name not in needed:
            path.unlink()


def _opened(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        Damage: it is gone, or no safetensors.
        UserError: it cannot be read just now.
    """
    try:
        with path.open("rb"):
            pass
        return open_safetensors(path).tensors
    except OSError as error:
        checkpoint_faults.check_of_machine(path, error)
        raise Damage(f"{path.name}: {error.strerror}") from error
    except UserError as error:
        raise Damage(str(error)) from error


def _bytes_of(path: Path, name: str, tensor: Tensor) -> np.ndarray:
    try:
        return tensor.read()
    except OSError as error:
        checkpoint_faults.check_of_machine(path, error)
        raise Damage(f"{path.name}: {error.strerror}") from error
    except UserError as error:
        raise Damage(f"leaf {name!r}: {error}") from error


def _kind(tensor: Tensor) -> str:
    return digests.kind(tensor.dtype, tensor.shape)


def _header(leaves: Mapping[str, jax.Array]) -> bytes:
    """Return the head of a safetensors file: its length, and JSON with each leaf's dtype, shape and place."""
    words = {dtype: word for word, dtype in DTYPES.items()}
    entries, end = {}, 0
    for name, leaf in leaves.items():
        begin, end = end, end + leaf.nbytes
        entries[name] = {
            "dtype": words[np.dtype(leaf.dtype)],
            "shape": list(leaf.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps({"__metadata__": {"format": "jtl"}, **entries}).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
