"""Folders of one file an example: one folder a class, under `train/ val/ [test/]` or un-split.

Source `image_folder` is one of images; `text_folder` has the same rules. Where no labels are wanted, a folder
needs no classes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jtl.data import contract, subset
from jtl.data.classes import few
from jtl.data.contract import NO_LABELS, Info, Labels, Source, SourceKind
from jtl.data.files import Files
from jtl.data.labels import Encoded, encode_splits
from jtl.data.walk import Walked, is_example, passed_note, visible, walk
from jtl.errors import UserError, counted
from jtl.inputs import INPUTS, Input
from jtl.names import as_unicode, plain_name

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


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` holds `train/`, `val/` (`valid/`, `validation/`) and `test/`, or the class folders themselves.

    Capitals do not matter in these names. Classes are sorted by name. Hidden files and folders are ignored;
    folders within a class folder belong to it.
    """

    name: str = "image_folder"


def open_folder(kind: Input, config: contract.Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a folder.

    Raises:
        UserError: the folder is missing, a class is empty, classes differ between splits, or files lie
        outside classes.
    """
    if not config.path:
        raise UserError(
            f"data.path is empty, expected the folder with your {kind.unit}; set config.data.path"
        )
    if not os.path.isdir(config.path):
        raise UserError(
            f"data.path {config.path!r} is no folder; expected one with a folder of {kind.unit} a class"
        )
    if labels.kind == NO_LABELS:
        return subset.arrange(_unlabelled(kind, config.path), config)
    if labels.kind != "class":
        raise UserError(
            f"a folder of {kind.unit} gives one class an example, the task wants {labels.kind!r} labels; "
            "use data.name='table'"
        )
    roots = _split_roots(config.path, _has_folders, needs_train=labels.names is None)
    classes = {split: _classes(root, kind, is_alone=len(roots) == 1) for split, root in roots.items()}
    if labels.names is None:
        _check_classes(roots, classes)
    found = {split: _joined(each) for split, each in classes.items()}
    cells = {split: [name for name, each in classes[split].items() for _ in each.files] for split in classes}
    own_names = tuple(sorted({name for each in cells.values() for name in each}))
    encoded = encode_splits(
        cells,
        labels,
        where=lambda split, row: os.path.join(roots[split], found[split].files[row]),
        own_names=own_names,
        asked=config.labels_are,
    )
    passed = {split: [*_stray(root), *found[split].passed] for split, root in roots.items()}
    return subset.arrange(_sources(config.path, kind, roots, found, passed, encoded), config)


KIND = SourceKind(Config, partial(open_folder, INPUTS["image"]), INPUTS["image"].holds)


def _unlabelled(kind: Input, path: str) -> dict[str, Source]:
    """Open the files of every split, however they lie."""
    roots = _split_roots(path, os.path.isdir, needs_train=True)
    found = {split: walk(root, kind) for split, root in roots.items()}
    for split, root in roots.items():
        if not found[split].files:
            raise UserError(f"folder {root!r} holds no {kind.unit}")
    passed = {split: each.passed for split, each in found.items()}
    return _sources(path, kind, roots, found, passed, dict.fromkeys(roots, Encoded(None, ())))


def _split_roots(path: str, is_root: Callable[[str], bool], *, needs_train: bool) -> dict[str, str]:
    """Return the folder of every split; an un-split folder is all `train`.

    A folder named like a split is one only if `is_root`: with classes, if it holds folders, for "train" may
    also be a class of vehicles.
    """
    folders = {name for name in visible(path) if is_root(os.path.join(path, name))}
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
    return {split: roots[split] for split in contract.SPLIT_ORDER if split in roots}


def _classes(root: str, kind: Input, *, is_alone: bool) -> dict[str, Walked]:
    """Return what lies below the folder of every class, both sorted by name; paths are relative to `root`.

    Folders whose names differ in their Unicode form alone, as systems write them, are of one class.

    Raises:
        UserError: examples lie beside the classes, or there are none of a class.
    """
    entries = visible(root)
    stray = [
        name
        for name in entries
        if not os.path.isdir(os.path.join(root, name)) and is_example(os.path.join(root, name), kind)
    ]
    if stray:
        raise UserError(
            f"{root} holds {counted(len(stray), kind.unit)} outside a class folder "
            f"({as_unicode(stray[0])!r}, …); put each in the folder of its class"
        )
    folders = [name for name in entries if os.path.isdir(os.path.join(root, name))]
    if not folders:
        raise UserError(f"{root} holds no class folders; expected one folder of {kind.unit} a class")
    classes: dict[str, Walked] = {}
    for folder in sorted(folders, key=lambda name: (plain_name(name), name)):
        found, name = _below(walk(os.path.join(root, folder), kind), folder), plain_name(folder)
        if not found.files:
            cure = "remove the folder" if is_alone else "remove the class from every split"
            raise UserError(
                f"class folder {as_unicode(os.path.join(root, folder))} is empty; add {kind.unit} or {cure}"
            )
        both = [classes[name], found] if name in classes else [found]
        classes[name] = _joined({str(place): each for place, each in enumerate(both)})
    return classes


def _below(found: Walked, folder: str) -> Walked:
    return Walked(*([os.path.join(folder, each) for each in paths] for paths in found))


def _joined(classes: dict[str, Walked]) -> Walked:
    """Return what lies below all classes of a split."""
    return Walked(
        [path for each in classes.values() for path in each.files],
        [path for each in classes.values() for path in each.passed],
    )


def _stray(root: str) -> list[str]:
    """Return the files beside the folders of a folder."""
    return [name for name in visible(root) if not os.path.isdir(os.path.join(root, name))]


def _sources(
    path: str,
    kind: Input,
    roots: dict[str, str],
    found: dict[str, Walked],
    passed: dict[str, list[str]],
    encoded: dict[str, Encoded],
) -> dict[str, Source]:
    """Return the source of every split; the notes of each say what of the whole folder is passed over."""
    beside = [] if path in roots.values() else _stray(path)
    names = [
        os.path.relpath(os.path.join(roots[split], each), path) for split in roots for each in passed[split]
    ]
    notes = passed_note(path, [*beside, *names], kind)
    return {
        split: Files(
            Info(as_unicode(root), encoded[split].names, kind.holds, notes, encoded[split].reading),
            root,
            tuple(found[split].files),
            encoded[split].values,
        )
        for split, root in roots.items()
    }


def _check_classes(roots: dict[str, str], classes: dict[str, dict[str, Walked]]) -> None:
    """Raise unless training has two classes or more, and every other split the same ones."""
    train = classes["train"].keys()
    for split, root in roots.items():
        unknown, absent = sorted(classes[split].keys() - train), sorted(train - classes[split].keys())
        if unknown:
            found = f"classes unknown to {roots['train']}: {few(map(repr, unknown))}"
        else:
            found = f"no folder for classes: {few(map(repr, absent))}"
        if unknown or absent:
            raise UserError(
                f"{root} has {found}; expected the same classes in every split (a table may lack some)"
            )
    if len(train) == 1:
        raise UserError(
            f"{roots['train']} holds one class folder, {next(iter(train))!r}; expected two or more; if the "
            f"classes are inside it, set config.data.path to it"
        )


def _has_folders(folder: str) -> bool:
    return os.path.isdir(folder) and any(
        os.path.isdir(os.path.join(folder, name)) for name in visible(folder)
    )
