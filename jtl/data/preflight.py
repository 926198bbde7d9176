"""A look at the data before training: counts, imbalance, unreadable images, the same image in two splits."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jtl.data.contract import Config, Source
from jtl.data.pipeline import num_cores
from jtl.data.subset import Subset, fingerprints
from jtl.errors import UserError
from jtl.inputs.image import Unreadable

# Up to here every image is decoded; of a larger split an evenly spaced part of this size (unless unreadable
# images may be skipped, for then each must be known), and duplicates are not looked for. 10,000 photos take
# about 10 s on 2 cores.
MAX_CHECKED = 10_000
_NAMED = 5


class Preflight(NamedTuple):
    """What was found. `splits` are without the `unreadable` examples; `lines` are for people."""

    splits: dict[str, Source]
    lines: list[str]
    unreadable: list[str]
    duplicates: list[tuple[str, str]]


def inspect(splits: dict[str, Source], config: Config) -> Preflight:
    """Read the splits once, before anything is trained.

    Raises:
        UserError: more than `config.max_unreadable` examples cannot be read.
    """
    readable: dict[str, Source] = {}
    unreadable: list[str] = []
    lines: list[str] = []
    for split, source in splits.items():
        rows = _rows_to_check(len(source), checks_all=config.max_unreadable > 0)
        faults = _unreadable(source, rows)
        unreadable += faults.values()
        good = np.setdiff1d(np.arange(len(source)), np.asarray(list(faults), np.int64))
        readable[split] = Subset(source, good) if faults else source
        lines.append(_describe(split, readable[split]))
        if len(rows) < len(source):
            lines.append(f"{split}: read {len(rows):,} of {len(source):,} images to check them")
    if len(unreadable) > config.max_unreadable:
        raise UserError(
            f"{len(unreadable)} images are unreadable, expected at most {config.max_unreadable}: "
            f"{_few(unreadable)}; mend or remove them, or set config.data.max_unreadable={len(unreadable)} "
            "to skip them"
        )
    if unreadable:
        lines.append(f"skipped {len(unreadable)} unreadable images: {'; '.join(unreadable)}")
    for split, source in readable.items():
        if len(source) == 0:
            raise UserError(f"the {split} split has no readable images")
    duplicates = _duplicates(readable)
    if duplicates:
        pairs = [f"{first} = {second}" for first, second in duplicates]
        lines.append(f"{len(duplicates)} images are in two splits: {_few(pairs)}")
    return Preflight(readable, lines, unreadable, duplicates)


def digest(source: Source) -> str:
    """Return the sha256 of the examples' fingerprints in order; of many, of `MAX_CHECKED` evenly spaced."""
    rows = _rows_to_check(len(source), checks_all=False)
    return hashlib.sha256(b"".join(fingerprints(Subset(source, rows)))).hexdigest()


def _rows_to_check(count: int, *, checks_all: bool) -> np.ndarray:
    if checks_all or count <= MAX_CHECKED:
        return np.arange(count)
    return np.linspace(0, count - 1, MAX_CHECKED).astype(np.int64)


def _unreadable(source: Source, rows: np.ndarray) -> dict[int, str]:
    """Return the fault of every row that cannot be decoded."""

    def fault(row: int) -> str:
        try:
            source[row]
        except Unreadable as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(num_cores()) as pool:
        faults = zip(rows.tolist(), pool.map(fault, rows.tolist()), strict=True)
        return {row: message for row, message in faults if message}


def _describe(split: str, source: Source) -> str:
    """Return the split's line: its size, its classes, and how far they are from even.

    The share of the largest class to the smallest is over classes that occur; those that do not are counted.
    """
    names, labels = source.info.label_names, source.labels()
    if not names:
        values = f", {labels.shape[1]} values each" if labels.ndim > 1 else ", no labels"
        return f"{split}: {len(source):,} images{values}"
    counts = (
        np.bincount(labels, minlength=len(names)) if labels.ndim == 1 else labels.sum(axis=0).astype(np.int64)
    )
    line = f"{split}: {len(source):,} images, {len(names)} classes"
    if not counts.any():
        return line
    present = np.flatnonzero(counts)
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    line += f", largest:smallest {counts[largest] / counts[smallest]:.1f}"
    if counts[largest] > counts[smallest]:
        line += f" ({names[largest]}: {counts[largest]:,}, {names[smallest]}: {counts[smallest]:,})"
    if len(present) < len(names):
        absent = [names[place] for place in np.flatnonzero(counts == 0)]
        line += f"; without images: {_few(absent)}"
    return line


def _duplicates(splits: dict[str, Source]) -> list[tuple[str, str]]:
    """Return the pairs of examples with the same bytes in two splits."""
    if sum(map(len, splits.values())) > len(splits) * MAX_CHECKED:
        return []
    seen: dict[bytes, tuple[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    for split, source in splits.items():
        for row, key in enumerate(fingerprints(source)):
            first_split, first = seen.setdefault(key, (split, source.describe(row)))
            if first_split != split:
                pairs.append((first, source.describe(row)))
    return pairs


def _few(items: list[str]) -> str:
    shown = ", ".join(items[:_NAMED])
    return shown if len(items) <= _NAMED else f"{shown} and {len(items) - _NAMED} more"
