"""One bit of a checkpoint that two processes saved is flipped, and the checkpoints of the run verified.

Right is: that checkpoint is named as damaged, and no other one.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import mutations, processes, record, runs
from benchmarks.faults.runs import Setup


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; every file of the checkpoints is as likely, and every bit of it."""
    folder = processes.undisturbed(setup).folder
    os.environ.update(runs.environment(setup))
    for number in range(num):
        yield record.Trial(f"{number:04d} bit", partial(_trial, folder, number, seed))


def _trial(folder: Path, number: int, seed: int) -> dict[str, Any]:
    from jtl.verbs import checkpoint

    rng, kept = record.generator(seed, "bits", number), folder / "checkpoints"
    path = rng.choice(sorted(each for each in kept.rglob("*") if each.is_file() and each.stat().st_size))
    content = path.read_bytes()
    path.write_bytes(mutations.bit(rng, content))
    try:
        found = checkpoint.verify(str(folder))
    finally:
        path.write_bytes(content)
    damaged = path.relative_to(kept).parts[0]
    faults = [] if found[damaged] else [f"the flipped bit of {path.relative_to(kept)} was not found"]
    faults += [f"checkpoint {step} was named" for step in found if found[step] and step != damaged]
    return {"file": str(path.relative_to(kept)), "said": found[damaged], "faults": faults}
