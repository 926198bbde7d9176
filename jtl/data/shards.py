"""Which files of a folder make which split: one file a split, shards of it, or metadata beside images."""

import os
import re
from collections.abc import Iterable

from jtl.data import tables
from jtl.data.classes import few
from jtl.data.columns import LABEL_COLUMNS, PATH_COLUMNS
from jtl.data.sources.folder import SPLITS
from jtl.errors import UserError

SHARD = re.compile(r"(?P<name>.+?)[-_.]?(?P<number>\d+)(?:-of-(?P<count>\d+))?")
METADATA = "metadata"
# Where the repositories of a hub keep their tables.
INNER = "data"


def tables_in(folder: str, *, needs_labels: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the tables that a folder holds by split; one alone, whatever its name, is "" (not split).

    A table may be in shards (train-00000-of-00002.parquet), and one named metadata, which names the images of
    its folder, may lie in a folder a split; `needs_labels`: only if it has labels.

    Raises:
        UserError: there are two of a split, or a shard is missing.
    """
    if found := _metadata(folder, needs_labels=needs_labels):
        return found
    names = _files_ending(folder, tables.READERS)
    named: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        match = SHARD.fullmatch(stem)
        is_shard = match is not None and match["count"] is not None
        split = split_of(match["name"]) if match is not None and is_shard else SPLITS.get(stem.lower(), "")
        if not split:
            continue
        if split in named and not (is_shard and split not in whole):
            other = os.path.basename(named[split][0])
            raise UserError(f"{folder} holds {other!r} and {name!r}, keep one")
        named.setdefault(split, []).append(name)
        if not is_shard:
            whole[split] = name
    for found_names in named.values():
        _check_complete(folder, found_names)
    if named:
        return {
            split: tuple(os.path.join(folder, each) for each in found_names)
            for split, found_names in named.items()
        }
    if len(names) == 1:
        return {"": (os.path.join(folder, names[0]),)}
    inner = os.path.join(folder, INNER)
    return tables_in(inner) if not names and os.path.isdir(inner) and _is_alone(folder) else {}


def shards_in(folder: str, suffix: str) -> dict[str, tuple[str, ...]]:
    """Return the files of one ending in a folder by the split that their names, or their folders, say.

    Those that say none are all "" (not split).

    Raises:
        UserError: a shard is missing.
    """
    found: dict[str, list[str]] = {}
    for parent in ("", *_folders(folder)):
        own = SPLITS.get(parent.lower(), "")
        for name in _files_ending(os.path.join(folder, parent), (suffix,)):
            stem = os.path.splitext(name)[0]
            match = SHARD.fullmatch(stem)
            split = own or split_of(match["name"] if match is not None else stem)
            found.setdefault(split, []).append(os.path.join(parent, name))
    for names in found.values():
        _check_complete(folder, names)
    return {split: tuple(os.path.join(folder, each) for each in names) for split, names in found.items()}


def is_metadata(path: str, *, needs_labels: bool = True) -> bool:
    """Return whether a table names the images of its folder, by what it is called and by its columns."""
    if _stem(os.path.basename(path)) != METADATA:
        return False
    known = tables.Names(frozenset(PATH_COLUMNS))
    try:
        header = {tables.plain(name) for name in tables.read(path, known).header}
    except UserError:
        return True  # whoever reads it says what is wrong
    return bool(header & set(PATH_COLUMNS)) and (not needs_labels or bool(header & set(LABEL_COLUMNS)))


def split_of(name: str) -> str:
    """Return the split that a word of a name says, "" where none does.

    >>> split_of("imagenet1k-validation"), split_of("photos")
    ('val', '')
    """
    words = re.split(r"[-_. ]", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _check_complete(folder: str, names: list[str]) -> None:
    """Raise UserError where shards say how many they are, and one is missing."""
    matches = [SHARD.fullmatch(os.path.splitext(name)[0]) for name in names]
    numbers = {int(match["number"]): int(match["count"]) for match in matches if match and match["count"]}
    counts = set(numbers.values())
    if len(counts) > 1:
        raise UserError(
            f"{folder} holds shards of {few(map(str, sorted(counts)))} parts; keep one set of them"
        )
    count = next(iter(counts), 0)
    # The first that is missing, found without counting to what a name says.
    missing = next((place for place in range(min(count, len(numbers) + 1)) if place not in numbers), None)
    if missing is not None:
        raise UserError(
            f"{folder} holds {len(numbers)} of {count} shards of {names[0]!r}: number {missing} is missing; "
            f"copy it there"
        )


def _metadata(folder: str, *, needs_labels: bool) -> dict[str, tuple[str, ...]]:
    """Return the tables named metadata in a folder, or in the folders of its splits."""
    roots = {"": folder} | {
        SPLITS[name.lower()]: os.path.join(folder, name)
        for name in _folders(folder)
        if name.lower() in SPLITS
    }
    found: dict[str, tuple[str, ...]] = {}
    for split, root in roots.items():
        names = [each for each in _files_ending(root, tables.READERS) if _stem(each) == METADATA]
        if len(names) > 1:
            raise UserError(f"{root} holds {names[0]!r} and {names[1]!r}, keep one")
        if names and is_metadata(path := os.path.join(root, names[0]), needs_labels=needs_labels):
            found[split] = (path,)
    return {"": found[""]} if "" in found else found


def _files_ending(folder: str, suffixes: Iterable[str]) -> list[str]:
    return [
        name
        for name in sorted(os.listdir(folder))
        if os.path.splitext(name)[1].lower() in suffixes
        and not name.startswith(".")
        and os.path.isfile(os.path.join(folder, name))
    ]


def _folders(folder: str) -> list[str]:
    return sorted(
        name
        for name in os.listdir(folder)
        if not name.startswith(".") and os.path.isdir(os.path.join(folder, name))
    )


def _is_alone(folder: str) -> bool:
    return _folders(folder) == [INNER]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].lower()
