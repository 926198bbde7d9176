"""A look at the data before training: counts, imbalance, what is unreadable, what is in two splits."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl import signals
from jtl.data.classes import NAMED, few
from jtl.data.contract import Config, Source
from jtl.data.subset import Subset, fingerprints
from jtl.data.workers import num_cores
from jtl.errors import UserError, counted
from jtl.inputs import Input, Unreadable

# Up to here every example is read; of a larger split an evenly spaced part of this size (unless unreadable
# examples may be skipped, for then each must be known), and duplicates are not looked for. 10,000 photos take
# about 10 s on 2 cores.
MAX_CHECKED = 10_000
# Examples that a thread looks at before it hands them over.
CHUNK = 32
# What a message shows of why an example cannot be read, its path included.
MAX_FAULT = 400


class Preflight(NamedTuple):
    """What was found. `splits` are without the `unreadable` examples; `lines` are for people.

    `duplicates` are pairs of examples with the same bytes in two splits, `conflicts` pairs within a split
    whose labels differ. `facts` are what the kind of input found of the examples that were read, for its
    `fitted`.
    """

    splits: dict[str, Source]
    lines: list[str]
    unreadable: list[str]
    duplicates: list[tuple[str, str]]
    conflicts: list[tuple[str, str]]
    facts: list[Any]


def inspect(splits: dict[str, Source], config: Config, kind: Input) -> Preflight:
    """Read the splits once, before anything is trained.

    Raises:
        UserError: more than `config.max_unreadable` examples cannot be read, or they are of another kind.
    """
    for source in splits.values():
        check_kind(source, kind)
    readable: dict[str, Source] = {}
    keys: dict[str, dict[int, bytes]] = {}
    unreadable: list[str] = []
    facts: list[Any] = []
    lines = list(dict.fromkeys(note for source in splits.values() for note in source.info.notes))
    for split, source in splits.items():
        rows = _rows_to_check(len(source), checks_all=config.max_unreadable > 0)
        faults, found = _looked_at(source, rows, kind)
        unreadable += [_with_class(source, row, fault) for row, fault in faults.items()]
        facts += [each.facts for each in found.values()]
        good = np.setdiff1d(np.arange(len(source)), np.asarray(list(faults), np.int64))
        readable[split] = _chosen(source, good) if faults else source
        keys[split] = {place: found[row].key for place, row in enumerate(good.tolist()) if row in found}
        lines.append(_describe(split, readable[split], kind.unit))
        if len(rows) < len(source):
            lines.append(f"{split}: read {len(rows):,} of {len(source):,} {kind.unit} to check them")
        named = [(source.describe(row), each.facts) for row, each in found.items()]
        lines += [f"{split}: {line}" for line in kind.told(named)]
    if len(unreadable) > config.max_unreadable:
        raise UserError(
            f"{counted(len(unreadable), f'{kind.unit} are')} unreadable, expected at most "
            f"{config.max_unreadable}: {few(unreadable, max_chars=MAX_FAULT)}; mend or remove them, or set "
            f"config.data.max_unreadable={len(unreadable)} to skip them"
        )
    if unreadable:
        lines.append(
            f"skipped {counted(len(unreadable), f'unreadable {kind.unit}')}: "
            f"{few(unreadable, max_chars=MAX_FAULT)}"
        )
    for split, source in readable.items():
        if len(source) == 0:
            raise UserError(f"the {split} split has no readable {kind.unit}")
    readable = _with_keys(readable, keys)
    conflicts: list[tuple[str, str]] = []
    for split, source in readable.items():
        clashing, copies = _repeated(source)
        conflicts += clashing
        lines += _repeats(split, kind.unit, clashing, copies)
    duplicates = _duplicates(readable)
    if duplicates:
        lines.append(f"{counted(len(duplicates), f'{kind.unit} are')} in two splits: {_equal(duplicates)}")
    return Preflight(readable, lines, unreadable, duplicates, conflicts, facts)


def glance(sources: Sequence[Source], kind: Input) -> tuple[list[Any], list[str]]:
    """Read examples once, before anything is made of them: their facts, and lines on what is lost in reading.

    Those that cannot be read are left to whoever reads them again. Of many, an even choice is read.
    """
    named: list[tuple[str, Any]] = []
    lines: list[str] = []
    for source in sources:
        rows = _rows_to_check(len(source), checks_all=False)
        _, found = _looked_at(source, rows, kind)
        named += [(source.describe(row), each.facts) for row, each in found.items()]
        if len(rows) < len(source):
            lines.append(f"read {len(rows):,} of {len(source):,} {kind.unit} to check them")
    return [facts for _, facts in named], [*lines, *kind.told(named)]


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


def sampled(splits: Mapping[str, Source], unit: str) -> list[str]:
    """Return a line for each split of which `digest` takes a part: the others may change unseen."""
    return [
        f"{split}: {MAX_CHECKED:,} of {len(source):,} {unit}, evenly spaced, tell a run that goes on whether "
        f"they are still the same: a change of the others is not noticed"
        for split, source in splits.items()
        if len(source) > MAX_CHECKED
    ]


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


class _Looked(NamedTuple):
    """What was found of an example that can be read: its fingerprint, and the kind's facts of it."""

    key: bytes
    facts: Any


def _looked_at(source: Source, rows: np.ndarray, kind: Input) -> tuple[dict[int, str], dict[int, _Looked]]:
    """Return the fault of every row that cannot be read, and what was found of every other."""

    def look(row: int) -> str | _Looked:
        try:
            raw = source[row]["raw"]
            return _Looked(facts=kind.check(raw), key=source.fingerprint(row, raw))
        except Unreadable as error:
            return f"cannot read {source.describe(row)}: {error}"

    # A thread is handed several at once: what waits for one takes a KiB.
    chunks = np.array_split(rows, max(1, len(rows) // CHUNK))
    with signals.pool(num_cores()) as pool:
        parts = pool.map(lambda part: [(row, look(row)) for row in part.tolist()], chunks)
        found = [each for part in parts for each in part]
    faults = {row: each for row, each in found if isinstance(each, str)}
    return faults, {row: each for row, each in found if isinstance(each, _Looked)}


def _with_class(source: Source, row: int, fault: str) -> str:
    """Return the fault with the example's class, where it has one."""
    labels, names = source.labels(), source.info.label_names
    if labels is None or labels.ndim != 1 or not names:
        return fault
    return f"{fault} (class {names[int(labels[row])]!r})"


def _chosen(source: Source, rows: np.ndarray) -> Subset:
    keys = source.keys if isinstance(source, Subset) else None
    return Subset(source, rows, None if keys is None else tuple(keys[row] for row in rows.tolist()))


def _with_keys(splits: dict[str, Source], keys: dict[str, dict[int, bytes]]) -> dict[str, Source]:
    """Return the splits with the fingerprints of their examples, so that no one reads them again.

    Of large splits those of the examples that were not looked at are left out, unless they are known.
    """
    is_small = sum(map(len, splits.values())) <= len(splits) * MAX_CHECKED
    found: dict[str, Source] = {}
    for split, source in splits.items():
        known = keys[split]
        if isinstance(source, Subset) and source.keys is not None:
            found[split] = source
        elif is_small or len(known) == len(source):
            rows = range(len(source))
            all_keys = tuple(known[row] if row in known else source.fingerprint(row) for row in rows)
            found[split] = Subset(source, np.arange(len(source)), all_keys)
        else:
            found[split] = source
    return found


def _describe(split: str, source: Source, unit: str) -> str:
    """Return the split's line: its size, its classes, and how far they are from even.

    The share of the largest class to the smallest is over classes that occur; those that do not are counted.
    """
    names, labels = source.info.label_names, source.labels()
    if labels is None or not names:
        values = ", no labels" if labels is None else f", {labels.shape[1]} values each{_constant(labels)}"
        return f"{split}: {counted(len(source), unit)}{values}"
    counts = (
        np.bincount(labels, minlength=len(names)) if labels.ndim == 1 else labels.sum(axis=0).astype(np.int64)
    )
    line = f"{split}: {counted(len(source), unit)}, {counted(len(names), 'classes')}"
    if not counts.any():
        return line
    present = np.flatnonzero(counts)
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    line += f", largest:smallest {counts[largest] / counts[smallest]:.1f}"
    if counts[largest] > counts[smallest]:
        line += f" ({names[largest]}: {counts[largest]:,}, {names[smallest]}: {counts[smallest]:,})"
    if len(present) < len(names):
        absent = [names[place] for place in np.flatnonzero(counts == 0)]
        line += f"; without {unit}: {few(absent)}"
    return line


def _constant(labels: np.ndarray) -> str:
    """Return the words about targets that do not differ, of which nothing can be learned."""
    same = np.flatnonzero((labels == labels[:1]).all(axis=0)) if len(labels) > 1 else ()
    shown = few((f"{labels[0, place]:g}" for place in same), 3)
    which = "the value is" if labels.shape[1] == 1 else f"values {few(str(place + 1) for place in same)} are"
    return f"; {which} the same in all of them ({shown}): nothing to learn" if len(same) else ""


def _repeated(source: Source) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return pairs of examples of a split with the same bytes: those whose labels differ, and the others."""
    if not (isinstance(source, Subset) and source.keys is not None):
        return [], []
    labels, first_of = source.labels(), {}
    clashing: list[tuple[str, str]] = []
    copies: list[tuple[str, str]] = []
    for row, key in enumerate(source.keys):
        first = first_of.setdefault(key, row)
        if first == row or key is None:
            continue
        pair = (source.describe(first), source.describe(row))
        if labels is None or np.array_equal(labels[first], labels[row]):
            copies.append(pair)
        else:
            words = [_label(source.info.label_names, labels[each]) for each in (first, row)]
            clashing.append((f"{pair[0]} ({words[0]})", f"{pair[1]} ({words[1]})"))
    return clashing, copies


def _repeats(
    split: str, unit: str, clashing: list[tuple[str, str]], copies: list[tuple[str, str]]
) -> list[str]:
    """Return the lines about examples that stand in a split more than once."""
    lines: list[str] = []
    if clashing:
        lines.append(
            f"{split}: {counted(len(clashing), f'{unit} stand')} there again under another label: "
            f"{_equal(clashing)}; keep the right one"
        )
    if copies:
        lines.append(f"{split}: {counted(len(copies), f'{unit} repeat')} others: {_equal(copies)}")
    return lines


def _label(names: tuple[str, ...], label: Any) -> str:
    """Return a label in people's words."""
    if not names:
        return " ".join(f"{value:g}" for value in label)
    return names[int(label)] if label.ndim == 0 else few(names[place] for place in np.flatnonzero(label))


def _duplicates(splits: dict[str, Source]) -> list[tuple[str, str]]:
    """Return the pairs of examples with the same bytes in two splits, of the splits whose bytes are known."""
    seen: dict[bytes | None, tuple[str, int]] = {}
    pairs: list[tuple[str, str]] = []
    for split, source in splits.items():
        for row, key in enumerate(source.keys or () if isinstance(source, Subset) else ()):
            other, first = seen.setdefault(key, (split, row))
            if other != split and key is not None:
                pairs.append((splits[other].describe(first), source.describe(row)))
    return pairs


def _equal(pairs: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{first} = {second}" for first, second in pairs[:NAMED])
    return shown if len(pairs) <= NAMED else f"{shown} and {len(pairs) - NAMED:,} more"
