"""Source `webdataset`: tar archives of `KEY.jpg`, `KEY.cls` and the like, read where they lie.

The form is that of the WebDataset library (0.2): the files of an example have one name up to the first dot.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jtl.data import contract, subset, tar
from jtl.data.classes import few
from jtl.data.columns import LABEL_COLUMNS
from jtl.data.contract import IMAGE, NO_LABELS, TEXT, Info, Labels, Source, SourceKind
from jtl.data.labels import SEPARATOR, encode_splits
from jtl.data.shards import shards_in
from jtl.data.stored import Stored
from jtl.data.tar import Member
from jtl.errors import UserError, shown
from jtl.inputs import INPUTS, Unreadable
from jtl.names import as_unicode

SUFFIX = ".tar"
HIDDEN = (".", "__MACOSX")
CONTENTS = {IMAGE: tuple(each[1:] for each in INPUTS["image"].suffixes), TEXT: ("txt", "text")}
CLASS, JSON = "cls", "json"
# A label, or an example's JSON, in bytes.
MAX_LABEL = 1 << 20


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` is a .tar, or a folder of them, whose names or folders say train, val or test.

    Of an example's files the one that ends as an image is read, or its .txt where there are no images;
    `content_column` names another ending ("jpg"). Its label is the .cls, else a field of the .json with a
    customary name (label, class, …), else beside images the .txt; `label_column` names an ending, or a field
    as "json.FIELD". Archives are read as they are, not unpacked.
    """

    name: str = "webdataset"
    content_column: str = ""
    label_column: str = ""


class _Example(NamedTuple):
    """The files of an example by their endings, in the archive `path`."""

    path: str
    key: str
    files: dict[str, Member]


@dataclass(frozen=True, eq=False)
class Packed:
    """Places of files in archives (`stored.Places`).

    Example i is `sizes[i]` bytes from `offsets[i]` of archive `paths[shards[i]]`.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        """Name the file and the archive."""
        return as_unicode(f"{self.names[index]} in {self.paths[self.shards[index]]}")

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        size = int(self.sizes[index])
        return _read(self.paths[self.shards[index]], int(self.offsets[index]), size)


def open_archives(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of archives.

    Raises:
        UserError: one is missing or damaged, an example lacks its content or its label, or a label is bad.
    """
    examples = {split: _examples(paths) for split, paths in _archives(config.path).items()}
    for split, found in examples.items():
        if not found:
            raise UserError(f"{config.path}: the archives of the {split} split hold no files")
    if "train" not in examples and labels.names is None and labels.kind != NO_LABELS:
        raise UserError(f"{config.path} has archives for {', '.join(examples)} but none for train; add some")
    every = [example for found in examples.values() for example in found]
    holds, endings = _contents(every, config)
    told = "" if labels.kind == NO_LABELS else _label_ending(every, holds, config)
    cells = {split: [_cell(each, told) for each in found] for split, found in examples.items()}
    encoded = encode_splits(
        cells,
        labels,
        where=lambda split, row: _named(examples[split][row]),
        asked=config.labels_are,
    )
    note = f"{holds} of {' and '.join(endings)}, " + (f"labels of {told}" if told else "no labels")
    splits: dict[str, Source] = {}
    for split in (each for each in contract.SPLIT_ORDER if each in examples):
        notes = (note, *encoded[split].notes)
        info = Info(f"{config.path}:{split}", encoded[split].names, holds, notes, encoded[split].reading)
        splits[split] = Stored(info, _packed(examples[split], endings), encoded[split].values)
    return subset.arrange(splits, config)


KIND = SourceKind(Config, open_archives)


def _archives(path: str) -> dict[str, tuple[str, ...]]:
    """Return the archives by split."""
    if os.path.isfile(path):
        return {"train": (path,)}
    if not os.path.isdir(path):
        raise UserError(f"data.path {path!r} is not there; expected a {SUFFIX} or a folder of them")
    found = shards_in(path, SUFFIX)
    if not found:
        raise UserError(
            f"data.path {path!r} holds no {SUFFIX}; expected archives such as train-000000{SUFFIX}"
        )
    if "" in found and len(found) > 1:
        raise UserError(
            f"{path} holds {os.path.basename(found[''][0])!r}, which says no split, beside archives that do; "
            f"name it train, val or test, or move it away"
        )
    return {split or "train": paths for split, paths in found.items()}


def _examples(paths: Iterable[str]) -> list[_Example]:
    """Return the examples of archives in their order."""
    found: list[_Example] = []
    for path in paths:
        by_key: dict[str, dict[str, Member]] = {}
        for member in tar.members(path):
            folder, _, name = member.name.rpartition("/")
            key, _, ending = name.partition(".")
            if name.startswith(HIDDEN) or folder.startswith(HIDDEN[1]) or not ending:
                continue
            key = f"{folder}/{key}" if folder.strip("./") else key
            files = by_key.setdefault(key, {})
            if ending.lower() in files:
                raise UserError(f"{as_unicode(path)} holds {as_unicode(member.name)!r} twice; keep one")
            files[ending.lower()] = member
        found += (_Example(path, key, files) for key, files in by_key.items())
    return found


def _contents(examples: list[_Example], config: Config) -> tuple[str, tuple[str, ...]]:
    """Return what the examples hold, and the endings of the files that hold it."""
    counts = Counter(ending for example in examples for ending in example.files)
    wanted = config.content_column.strip().lstrip(".").lower()
    for holds, endings in CONTENTS.items():
        known = [ending for ending in counts if ending.rpartition(".")[2] in endings]
        if wanted and wanted in known:
            return holds, (wanted,)
        # "seg.png" is beside the image "png"; an ending of one part comes first.
        plain = [ending for ending in known if "." not in ending] or known
        if plain and not wanted:
            double = next((each for each in examples if len(each.files.keys() & set(plain)) > 1), None)
            if double is not None:
                raise UserError(
                    f"{_named(double)} has files ending in "
                    f"{few(sorted(double.files.keys() & set(plain)))}; set config.data.content_column to one"
                )
            return holds, tuple(sorted(plain))
    setting = f"data.content_column is {config.content_column!r}, and " if wanted else ""
    raise UserError(
        f"{setting}the files of {examples[0].path} end in {few(sorted(counts), 20)}; expected images "
        f"({few(CONTENTS[IMAGE], 4)}) or texts ({CONTENTS[TEXT][0]})"
    )


def _label_ending(examples: list[_Example], holds: str, config: Config) -> str:
    """Return what holds the labels: an ending, or a field as "json.FIELD"."""
    if config.label_column:
        return config.label_column.strip().lstrip(".")
    first = examples[0]
    if CLASS in first.files:
        return CLASS
    if JSON in first.files:
        fields = _fields(first)
        named = {name.lower(): name for name in fields}
        if field := next((named[name] for name in LABEL_COLUMNS if name in named), ""):
            return f"{JSON}.{field}"
    if holds == IMAGE and CONTENTS[TEXT][0] in first.files:
        return CONTENTS[TEXT][0]
    raise UserError(
        f"{_named(first)} has files ending in {few(sorted(first.files))}; expected a "
        f"label: .{CLASS}, or a .{JSON} with {few(LABEL_COLUMNS, 4)}; set config.data.label_column"
    )


def _cell(example: _Example, told: str) -> str:
    """Return the label of an example as a table's cell."""
    if not told:
        return ""
    ending, _, field = told.partition(".")
    if ending.lower() == JSON and field:
        value = _fields(example).get(field)
        parts = value if isinstance(value, list) else ["" if value is None else value]
        if not all(isinstance(each, str | int | float) for each in parts):
            raise UserError(
                f"{_named(example)} has {shown(value)} for {field!r}, expected a text or a "
                f"number, or a list of them"
            )
        return SEPARATOR.join(map(str, parts))
    return _text(example, told.lower())


def _fields(example: _Example) -> Mapping[str, Any]:
    text = _text(example, JSON)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the {JSON} of {_named(example)} is none: {shown(text)}; expected an object"
        ) from error
    if not isinstance(fields, dict):
        raise UserError(f"the {JSON} of {_named(example)} is a {type(fields).__name__}, expected an object")
    return fields


def _text(example: _Example, ending: str) -> str:
    """Return the text of a small file of an example."""
    member = example.files.get(ending)
    if member is None:
        raise UserError(
            f"{_named(example)} has no .{ending}, only {few(sorted(example.files))}; "
            f"add it, or set config.data.label_column"
        )
    if member.size > MAX_LABEL:
        raise UserError(
            f"{as_unicode(member.name)} in {example.path} has {member.size:,} bytes, expected a label"
        )
    try:
        return _read(example.path, member.offset, member.size).decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{as_unicode(member.name)} in {example.path} is no UTF-8; expected a label as text"
        ) from error


def _packed(examples: list[_Example], endings: tuple[str, ...]) -> Packed:
    """Return the places of the examples' contents.

    Raises:
        UserError: an example has none.
    """
    found: list[Member] = []
    for example in examples:
        member = next((example.files[each] for each in endings if each in example.files), None)
        if member is None:
            raise UserError(
                f"{_named(example)} has files ending in {few(sorted(example.files))}, "
                f"expected {' or '.join(endings)}; add it, or take the example out"
            )
        found.append(member)
    places = {path: place for place, path in enumerate(dict.fromkeys(each.path for each in examples))}
    return Packed(
        tuple(places),
        tuple(member.name for member in found),
        np.array([places[each.path] for each in examples], np.int32),
        np.array([member.offset for member in found], np.int64),
        np.array([member.size for member in found], np.int64),
    )


def _named(example: _Example) -> str:
    return as_unicode(f"{example.key} in {example.path}")


def _read(path: str, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise Unreadable(f"{as_unicode(path)}: {error.strerror}") from error
    if len(data) < size:
        raise Unreadable(f"{as_unicode(path)} is cut short")
    return data
