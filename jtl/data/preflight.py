"""A look at the data before training: counts, imbalance, what is unreadable, what is in two splits."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jtl.data.contract import Config, Source
from jtl.data.pipeline import num_cores
from jtl.data.subset import Subset, fingerprints
from jtl.errors import UserError
from jtl.inputs import Input, Unreadable

# Up to here every example is read; of a larger split an evenly spaced part of this size (unless unreadable
# examples may be skipped, for then each must be known), and duplicates are not looked for. 10,000 photos take
# about 10 s on 2 cores.
MAX_CHECKED = 10_000
_NAMED = 5


class Preflight(NamedTuple):
    """What was found. `splits` are without the `unreadable` examples; `lines` are for people.

    `facts` are what the kind of input found of the examples that were read, for its `fitted`.
    """

    splits: dict[str, Source]
    lines: list[str]
    unreadable: list[str]
    duplicates: list[tuple[str, str]]
    facts: list[Any]


def inspect(splits: dict[str, Source], config: Config, kind: Input) -> Preflight:
    """Read the splits once, before anything is trained.

    Raises:
        UserError: more than `config.max_unreadable` examples cannot be read, or they are of another kind.
    """
    for source in splits.values():
        check_kind(source, kind)
    readable: dict[str, Source] = {}
    unreadable: list[str] = []
    facts: list[Any] = []
    lines = list(dict.fromkeys(note for source in splits.values() for note in source.info.notes))
    for split, source in splits.items():
        rows = _rows_to_check(len(source), checks_all=config.max_unreadable > 0)
        faults, found = _checked(source, rows, kind)
        unreadable += [_with_class(source, row, fault) for row, fault in faults.items()]
        facts += found.values()
        good = np.setdiff1d(np.arange(len(source)), np.asarray(list(faults), np.int64))
        readable[split] = Subset(source, good) if faults else source
        lines.append(_describe(split, readable[split], kind.unit))
        if len(rows) < len(source):
            lines.append(f"{split}: read {len(rows):,} of {len(source):,} {kind.unit} to check them")
        named = [(source.describe(row), each) for row, each in found.items()]
        lines += [f"{split}: {line}" for line in kind.told(named)]
    if len(unreadable) > config.max_unreadable:
        raise UserError(
            f"{len(unreadable)} {kind.unit} are unreadable, expected at most {config.max_unreadable}: "
            f"{_few(unreadable)}; mend or remove them, or set config.data.max_unreadable={len(unreadable)} "
            "to skip them"
        )
    if unreadable:
        lines.append(f"skipped {len(unreadable)} unreadable {kind.unit}: {_few(unreadable)}")
    for split, source in readable.items():
        if len(source) == 0:
            raise UserError(f"the {split} split has no readable {kind.unit}")
    duplicates = _duplicates(readable)
    if duplicates:
        pairs = [f"{first} = {second}" for first, second in duplicates]
        lines.append(f"{len(duplicates)} {kind.unit} are in two splits: {_few(pairs)}")
    return Preflight(readable, lines, unreadable, duplicates, facts)


def check_kind(source: Source, kind: Input) -> None:
    """Raise UserError unless the source's examples are what the kind reads."""
    check_holds(source.info.name, source.info.holds, kind)


def check_holds(name: str, holds: str, kind: Input) -> None:
    """Raise UserError unless data of that name, whose examples are these (`Info.holds`), can be read."""
    if holds != kind.holds:
        raise UserError(
            f"{name} holds examples of kind {holds!r}, and the model reads {kind.holds!r}; give {kind.unit}, "
            f"or weights of a model that reads {holds!r}"
        )


def survey(splits: dict[str, Source], kind: Input, preprocess: Any) -> list[str]:
    """Return what the kind says of each split's raw examples, as lines for people; of many, of a sample."""
    lines: list[str] = []
    for split, source in splits.items():
        rows = _rows_to_check(len(source), checks_all=False).tolist()
        found = kind.survey(_raws(source, rows), preprocess)
        lines += [f"{split}: {line}" for line in found]
    return lines


def digest(source: Source) -> str:
    """Return the sha256 of the examples' fingerprints in order; of many, of `MAX_CHECKED` evenly spaced."""
    rows = _rows_to_check(len(source), checks_all=False)
    return hashlib.sha256(b"".join(fingerprints(Subset(source, rows)))).hexdigest()


def _rows_to_check(count: int, *, checks_all: bool) -> np.ndarray:
    if checks_all or count <= MAX_CHECKED:
        return np.arange(count)
    return np.linspace(0, count - 1, MAX_CHECKED).astype(np.int64)


def _raws(source: Source, rows: list[int]) -> Iterator[Any]:
    return (source[row]["raw"] for row in rows)


def _checked(source: Source, rows: np.ndarray, kind: Input) -> tuple[dict[int, str], dict[int, Any]]:
    """Return the fault of every row that cannot be read, and the facts of every other one."""

    def check(row: int) -> tuple[str, Any]:
        try:
            return "", kind.check(source[row]["raw"])
        except Unreadable as error:
            return f"cannot read {source.describe(row)}: {error}", None

    with ThreadPoolExecutor(num_cores()) as pool:
        found = dict(zip(rows.tolist(), pool.map(check, rows.tolist()), strict=True))
    faults = {row: fault for row, (fault, _) in found.items() if fault}
    return faults, {row: facts for row, (fault, facts) in found.items() if not fault}


def _with_class(source: Source, row: int, fault: str) -> str:
    """Return the fault with the example's class, where it has one."""
    labels, names = source.labels(), source.info.label_names
    if labels is None or labels.ndim != 1 or not names:
        return fault
    return f"{fault} (class {names[int(labels[row])]!r})"


def _describe(split: str, source: Source, unit: str) -> str:
    """Return the split's line: its size, its classes, and how far they are from even.

    The share of the largest class to the smallest is over classes that occur; those that do not are counted.
    """
    names, labels = source.info.label_names, source.labels()
    if labels is None or not names:
        values = ", no labels" if labels is None else f", {labels.shape[1]} values each"
        return f"{split}: {len(source):,} {unit}{values}"
    counts = (
        np.bincount(labels, minlength=len(names)) if labels.ndim == 1 else labels.sum(axis=0).astype(np.int64)
    )
    line = f"{split}: {len(source):,} {unit}, {len(names)} classes"
    if not counts.any():
        return line
    present = np.flatnonzero(counts)
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    line += f", largest:smallest {counts[largest] / counts[smallest]:.1f}"
    if counts[largest] > counts[smallest]:
        line += f" ({names[largest]}: {counts[largest]:,}, {names[smallest]}: {counts[smallest]:,})"
    if len(present) < len(names):
        absent = [names[place] for place in np.flatnonzero(counts == 0)]
        line += f"; without {unit}: {_few(absent)}"
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
