"""Training examples read once and kept: a source of them, and what keeping them would take.

They lie in a store (`store`) under a digest of the stored bytes of all examples, in order, and of what
decides how they are read; so runs, and other seeds of a run, share them.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jtl import files, memory, signals
from jtl.data import store
from jtl.data.contract import Info, Source, read
from jtl.data.entry import Entry, Writer
from jtl.data.subset import fingerprints
from jtl.data.workers import num_cores
from jtl.errors import UserError
from jtl.inputs.contract import Storage

FOLDER = "examples"
# Examples whose size is looked at to tell what all would take.
NUM_SAMPLED = 16
# What is read ahead of what is written, in examples a thread.
AHEAD = 16


@dataclass(frozen=True, eq=False)
class Cached:
    """The examples of a source, whose raw values are what was kept of them; nothing of the source is read."""

    source: Source
    entry: Entry
    all_labels: np.ndarray | None
    starts: np.ndarray

    @property
    def info(self) -> Info:
        """Its name and its classes."""
        return self.source.info

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        shape = self.entry.arrays["shapes"][index]
        start = int(self.starts[index])
        values = self.entry.arrays["values"][start : start + math.prod(map(int, shape))]
        label = None if self.all_labels is None else self.all_labels[index]
        return {"raw": np.asarray(values).reshape(tuple(shape)), "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.all_labels

    def describe(self, index: int) -> str:
        """Name the example as the source does."""
        return self.source.describe(index)

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return the source's digest of the stored bytes."""
        del raw
        return self.source.fingerprint(index)


def cached(source: Source, storage: Storage, max_bytes: int, *, unit: str, say: store.Say) -> Cached | None:
    """Return the source with its examples read and kept, from the user's cache where they are there.

    None where they cannot be kept; `say` is told why, and how many (`unit`) are read.

    Raises:
        UserError: an example cannot be read.
    """
    try:
        folder = files.cache_folder(FOLDER)
    except UserError as error:
        say(f"{unit} of {source.info.name} are not kept: {error}")
        return None
    num_bytes = needed_bytes(source, storage)
    entry = store.kept(
        store.Store(folder, max_bytes),
        _key(source, storage),
        partial(_write, source, storage, unit, folder, num_bytes, say),
        num_bytes=num_bytes,
        about=f"{unit} of {source.info.name}",
        say=say,
    )
    if entry is None:
        return None
    sizes = entry.arrays["shapes"].prod(axis=1, dtype=np.int64)
    return Cached(source, entry, source.labels(), np.cumsum(sizes) - sizes)


def needed_bytes(source: Source, storage: Storage) -> int:
    """Return about what all examples take, from an even choice of them.

    Raises:
        UserError: one of these cannot be read.
    """
    rows = np.unique(np.linspace(0, len(source) - 1, NUM_SAMPLED).astype(np.int64))
    sizes = [stored(source, storage, row).nbytes for row in rows.tolist()]
    return math.ceil(sum(sizes) / len(sizes) * len(source))


def stored(source: Source, storage: Storage, row: int) -> np.ndarray:
    """Return an example as it is kept.

    Raises:
        UserError: it cannot be read.
    """
    return read(source, row, lambda raw, rng: storage.read(raw)).inputs


def _write(
    source: Source,
    storage: Storage,
    unit: str,
    folder: Path,
    num_bytes: int,
    say: store.Say,
    writer: Writer,
) -> None:
    say(
        f"reading {len(source):,} {unit} once ({storage.described}), to be kept in {str(folder)!r}: about "
        f"{memory.text(num_bytes)}"
    )
    threads = num_cores()
    with signals.pool(threads) as pool:
        for rows in np.array_split(np.arange(len(source)), math.ceil(len(source) / (threads * AHEAD))):
            for values in pool.map(partial(stored, source, storage), rows.tolist()):
                writer.append("values", values.reshape(-1))
                writer.append("shapes", np.array([values.shape], np.int32))


def _key(source: Source, storage: Storage) -> str:
    digest = hashlib.sha256(f"{len(source)} {storage.decides}".encode())
    for each in fingerprints(source):
        digest.update(hashlib.sha256(each).digest())
    return digest.hexdigest()
