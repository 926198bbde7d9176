"""Folders of one file an example: one folder a class, under `train/ val/ [test/]` or un-split.

Source `image_folder` is one of images; `text_folder` has the same rules. Where no labels are wanted, a folder
needs no classes.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from jtl.data import contract, subset
from jtl.data.contract import NO_LABELS, Info, Labels, Source, SourceKind
from jtl.data.files import Files
from jtl.data.labels import Encoded, encode_splits
from jtl.errors import UserError
from jtl.inputs import INPUTS, Input

ORDER = ("train", "val", "test")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# Files that people and systems leave between images. Any other file counts as an image, and one that is none
# is reported as unreadable: a photo in a format that cannot be read is never passed over in silence.
NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".ini", ".db", ".log")


class Contents(NamedTuple):
    """What the files of a folder are: examples of a kind of input, but for those that end in `notes`."""

    kind: Input
    notes: tuple[str, ...]


IMAGES = Contents(INPUTS["image"], NOTES)


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` holds `train/`, `val/` (`valid/`, `validation/`) and `test/`, or the class folders themselves.

    Capitals do not matter in these names. Classes are sorted by name. Hidden files and folders are ignored;
    folders within a class folder belong to it.
    """

    name: str = "image_folder"


def open_folder(contents: Contents, config: contract.Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a folder.

    Raises:
        UserError: the folder is missing, a class is empty, classes differ between splits, or files lie
        outside classes.
    """
    unit = contents.kind.unit
    if not config.path:
        raise UserError(f"data.path is empty, expected the folder with your {unit}; set config.data.path")
    if not os.path.isdir(config.path):
        raise UserError(
            f"data.path {config.path!r} is no folder; expected one with a folder of {unit} a class"
        )
    if labels.kind == NO_LABELS:
        return subset.arrange(_unlabelled(contents, config.path), config)
    if labels.kind != "class":
        raise UserError(
            f"a folder of {unit} gives one class an example, the task wants {labels.kind!r} labels; "
            "use data.name='table'"
        )
    roots = _split_roots(config.path, _has_folders, needs_train=labels.names is None)
    classes = {split: _classes(root, contents) for split, root in roots.items()}
    if labels.names is None:
        _check_classes(roots, classes)
    cells = {split: [name for name, paths in each.items() for _ in paths] for split, each in classes.items()}
    paths = {split: [path for each in found.values() for path in each] for split, found in classes.items()}
    own_names = tuple(sorted({name for each in classes.values() for name in each}))
    encoded = encode_splits(
        cells,
        labels,
        where=lambda split, row: os.path.join(roots[split], paths[split][row]),
        own_names=own_names,
        asked=config.labels_are,
    )
    splits = {split: _source(root, paths[split], encoded[split], contents) for split, root in roots.items()}
    return subset.arrange(splits, config)


KIND = SourceKind(Config, partial(open_folder, IMAGES), IMAGES.kind.holds)


def _unlabelled(contents: Contents, path: str) -> dict[str, Source]:
    """Open the files of every split, however they lie."""
    roots = _split_roots(path, os.path.isdir, needs_train=True)
    unit = contents.kind.unit
    splits: dict[str, Source] = {}
    for split, root in roots.items():
        paths = list(_files(root, "", set(), contents.notes))
        if not paths:
            raise UserError(f"folder {root!r} holds no {unit}")
        splits[split] = _source(root, paths, Encoded(None, ()), contents)
    return splits


def _source(root: str, paths: list[str], encoded: Encoded, contents: Contents) -> Source:
    info = Info(root, encoded.names, contents.kind.holds, reading=encoded.reading)
    return Files(info, root, tuple(paths), encoded.values)


def _split_roots(path: str, is_root: Callable[[str], bool], *, needs_train: bool) -> dict[str, str]:
    """Return the folder of every split; an un-split folder is all `train`.

    A folder named like a split is one only if `is_root`: with classes, if it holds folders, for "train" may
    also be a class of vehicles.
    """
    folders = {name for name in _visible(path) if is_root(os.path.join(path, name))}
    named = sorted(name for name in folders if name.lower() in SPLITS)
    roots: dict[str, str] = {}
    for name in named:
        split = SPLITS[name.lower()]
        if split in roots:
            raise UserError(f"{path} holds {os.path.basename(roots[split])!r} and {name!r}, keep one")
        roots[split] = os.path.join(path, name)
    if not roots:
        return {"train": path}
    if "train" not in roots and needs_train:
        raise UserError(f"{path} holds {', '.join(named)} but no train; add it")
    if others := sorted(folders.difference(named)):
        raise UserError(
            f"{path} holds {others[0]!r} beside its splits; "
            "expected train, val (or valid, validation) and test; "
            "rename it, move it, or hide it with a leading dot"
        )
    return {split: roots[split] for split in ORDER if split in roots}


def _classes(root: str, contents: Contents) -> dict[str, list[str]]:
    """Return the files, relative to `root`, of every class folder, both sorted by name."""
    entries, unit, suffixes = _visible(root), contents.kind.unit, contents.kind.suffixes
    if stray := [
        name
        for name in entries
        if name.lower().endswith(suffixes) and os.path.isfile(os.path.join(root, name))
    ]:
        raise UserError(
            f"{root} holds {len(stray)} {unit} outside a class folder ({stray[0]!r}, …); "
            "put each in the folder of its class"
        )
    classes = {
        name: list(_files(os.path.join(root, name), name, set(), contents.notes))
        for name in entries
        if os.path.isdir(os.path.join(root, name))
    }
    if not classes:
        raise UserError(f"{root} holds no class folders; expected one folder of {unit} a class")
    for name, paths in classes.items():
        if not paths:
            raise UserError(
                f"class folder {os.path.join(root, name)} is empty; add {unit} or remove the folder"
            )
    return classes


def _files(folder: str, relative: str, seen: set[str], notes: tuple[str, ...]) -> Iterator[str]:
    """Yield the examples under a folder, through links but never twice through the same folder."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for name in _visible(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            yield from _files(path, os.path.join(relative, name), seen, notes)
        elif not name.lower().endswith(notes):
            yield os.path.join(relative, name)


def _check_classes(roots: dict[str, str], classes: dict[str, dict[str, list[str]]]) -> None:
    """Raise unless training has two classes or more, and every other split the same ones."""
    train = classes["train"].keys()
    for split, root in roots.items():
        unknown, absent = sorted(classes[split].keys() - train), sorted(train - classes[split].keys())
        if unknown:
            found = f"classes unknown to {roots['train']}: {', '.join(map(repr, unknown))}"
        else:
            found = f"no folder for classes: {', '.join(map(repr, absent))}"
        if unknown or absent:
            raise UserError(
                f"{root} has {found}; expected the same classes in every split (a table may lack some)"
            )
    if len(train) == 1:
        raise UserError(
            f"{roots['train']} holds one class folder, {next(iter(train))!r}; expected two or more; if the "
            f"classes are inside it, set config.data.path to it"
        )


def _visible(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))


def _has_folders(folder: str) -> bool:
    return os.path.isdir(folder) and any(
        os.path.isdir(os.path.join(folder, name)) for name in _visible(folder)
    )
