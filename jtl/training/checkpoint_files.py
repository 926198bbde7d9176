"""The checkpoints of a run folder as files: which there are, whether they are sound, and which is the best.

Nothing here needs the program that saved them, or a device.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import UserError
from jtl.training import checkpoint_faults, digests, once, progress
from jtl.training.checkpoint_faults import Damage
from jtl.weights.formats.orbax_folder import CHECKPOINT_META

DAMAGED = "damaged"


def steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints are whole, rising."""
    names = [each.name for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def sound_meta(path: Path) -> dict[str, Any]:
    """Return the meta of the checkpoint of a path, whose own digest it matches.

    Raises:
        Damage: it is not what was saved.
        UserError: it cannot be read just now.
    """
    step = int(path.name)
    checkpoint_faults.check_readable(path)
    try:
        meta = json.loads(checkpoint_faults.read(path, CHECKPOINT_META))
    except (ValueError, RecursionError) as error:
        raise Damage(f"its meta is no JSON: {error}") from error
    if not isinstance(meta, dict) or sealed(meta)["seal"] != meta.get("seal"):
        raise Damage("its meta does not match its own digest")
    if meta.get("step", step) != step:
        raise Damage(f"it is a copy of step {meta['step']}")
    return meta


def check(path: Path) -> dict[str, Any]:
    """Read all of the checkpoint of a path, hold it against its digests, and return its meta.

    What it has not in itself is in a file of its own (see `once.fault`).

    Raises:
        Damage: it is not what was saved.
        UserError: it may be, and cannot be read just now.
    """
    import jax
    import orbax.checkpoint as ocp

    meta = sound_meta(path)
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        about: Any = reader.metadata(path / "state")
        known = about.item_metadata.tree
        arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), known)
        found = reader.restore(path / "state", args=ocp.args.PyTreeRestore(restore_args=arguments))
    except Exception as error:  # Orbax raises bare Exception, ValueError, KeyError, …
        raise checkpoint_faults.explained(error, path, meta) from error
    named = digests.on_host(found)
    check_digests(meta, named)
    missing = meta["digests"].keys() - named.keys() - once.leaves_of(meta)
    if missing:
        raise Damage(f"leaf {min(missing)!r} is not there")
    return meta


def best(metas: Mapping[int, Mapping[str, Any]]) -> int | None:
    """Return the step that is the best of those of the checkpoints; None where they do not say.

    The newest knows the evaluations of all.
    """
    newest = metas[max(metas)] if metas else {}
    if "metric" not in newest:
        return None
    metric = newest["metric"]
    known = [entry for entry in newest["history"] if entry["step"] in metas and metric in entry]
    found = progress.best(known, metric, is_maximized=newest["is_maximized"])
    return None if found is None else int(found["step"])


def move_aside(checkpoint: Path, damage: Damage) -> None:
    """Move a checkpoint out of the way, under a name that is free.

    Raises:
        UserError: it cannot be moved.
    """
    target = next(
        path for path in _numbered(checkpoint.parent.parent / DAMAGED) if path.is_dir() or not _is_there(path)
    )
    numbered = _numbered(target / f"{checkpoint.name}.0", target / checkpoint.name)
    try:
        target.mkdir(exist_ok=True)
        checkpoint.rename(next(path for path in numbered if not _is_there(path)))
    except OSError as error:
        raise UserError(
            f"checkpoint {str(checkpoint)!r} is damaged ({damage}) and cannot be moved to {str(target)!r}: "
            f"{error.strerror}; mend that, or remove it, and repeat the command"
        ) from error


def set_aside(run_folder: Path) -> list[Path]:
    """Return the damaged checkpoints that were moved out of the way in a run folder."""
    folders = [path for path in run_folder.glob(f"{DAMAGED}*") if path.is_dir()]
    return sorted(each for path in folders for each in path.glob("*.*") if each.is_dir())


def remove_unneeded(folder: Path) -> None:
    """Remove files with what never trains that no checkpoint names; where one cannot be asked, none."""
    try:
        metas = [sound_meta(folder / str(step)) for step in steps(folder)]
    except (Damage, UserError):
        return
    once.remove_unneeded(folder.parent, metas)


def num_bytes(path: Path) -> int:
    """Return what the files below a path take."""
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def check_digests(meta: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raise Damage where a leaf has not the digest that the meta has of it."""
    for name, digest in found.items():
        if meta["digests"].get(name) != digest:
            raise Damage(f"leaf {name!r} does not match its digest")


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return meta with a digest over everything else in it."""
    content = {key: value for key, value in meta.items() if key != "seal"}
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _numbered(first: Path, stem: Path | None = None) -> Iterator[Path]:
    """Yield a path, and then the same with .1, .2, … behind it, or behind `stem`."""
    yield first
    for number in itertools.count(1):
        yield (stem or first).with_name(f"{(stem or first).name}.{number}")


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)
