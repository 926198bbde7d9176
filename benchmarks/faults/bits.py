"""One bit of a checkpoint that two processes saved is flipped, and the checkpoint verified.

Right is: the checkpoint is named as damaged; or the bit is of a file that nothing reads, so that all values
are as they were. Orbax leaves some: what each process wrote, beside what it made of all.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.faults import mutations, processes, record, runs
from benchmarks.faults.runs import Setup


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; every byte of the last checkpoint is as likely."""
    folder = setup.folder / "bits"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(processes.undisturbed(setup).folder, folder)
    # One is enough, and is read in a third of the time.
    for step in sorted((folder / "checkpoints").iterdir(), key=lambda each: int(each.name))[:-1]:
        shutil.rmtree(step)
    os.environ.update(runs.environment(setup))
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for number in range(num):
        yield record.Trial(f"{number:04d} bit", partial(_trial, folder, number, seed))


def _trial(folder: Path, number: int, seed: int) -> dict[str, Any]:
    from jtl.verbs import checkpoint

    rng, kept = record.generator(seed, "bits", number), folder / "checkpoints"
    paths = sorted(each for each in kept.rglob("*") if each.is_file())
    (path,) = rng.choices(paths, [each.stat().st_size for each in paths])
    damaged, content = path.relative_to(kept).parts[0], path.read_bytes()
    sound = _sound(kept / damaged)
    path.write_bytes(mutations.bit(rng, content))
    try:
        found = checkpoint.verify(str(folder))
        is_read = bool(found[damaged]) or _values(kept / damaged) != sound
    finally:
        path.write_bytes(content)
    name = str(path.relative_to(kept))
    faults = [f"the flipped bit of {name} changed a value and was not found"] if is_read else []
    faults = [] if found[damaged] else faults
    return {"file": name, "said": found[damaged], "is_read": is_read, "faults": faults}


@cache
def _sound(checkpoint: Path) -> str:
    """Return a digest of the values of a checkpoint, as they are before any bit is flipped."""
    return _values(checkpoint)


def _values(checkpoint: Path) -> str:
    """Return a digest of the values of a checkpoint as Orbax itself gives them."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    about: Any = reader.metadata(checkpoint / "state")
    known = about.item_metadata.tree
    arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), known)
    found = reader.restore(checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=arguments))
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()
