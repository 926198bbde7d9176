"""Which kind of source a path is, told by the files that are there."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from jtl.data import tables
from jtl.data.shards import is_metadata, shards_in, tables_in
from jtl.data.walk import entries, is_example
from jtl.errors import UserError
from jtl.inputs import INPUTS, Input

FILES = {**dict.fromkeys(tables.READERS, "table"), ".npz": "arrays", ".tar": "webdataset"}
# Files of which a folder may be full, a split in each or in several.
SHARDS = (".tar",)
FOLDERS = {"image": "image_folder", "text": "text_folder"}
# Of a large folder so many files tell what it holds.
MAX_FILES = 1000


def kind_of(path: str) -> str:
    """Return the name of the kind of source at a path.

    A file is told by its ending. A folder of tables is one with a table named train, val, dev or test, or
    with one table and nothing below, or one named metadata that names images; else one of tar archives; else
    images and texts are counted.

    Raises:
        UserError: it is not there, or none of these.
    """
    if os.path.isfile(path):
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in FILES:
            raise UserError(f"data.path {path!r} ends in {suffix!r}; expected a folder, {', '.join(FILES)}")
        return FILES[suffix]
    if not os.path.isdir(path):
        raise UserError(f"data.path {path!r} is not there; expected a folder or a file of examples")
    if found := _set_in(path):
        return found
    counts = Counter(holds for holds in islice(_holds(path), MAX_FILES))
    if not counts:
        suffixes = ", ".join(each for kind in INPUTS.values() for each in kind.suffixes)
        raise UserError(
            f"folder {path!r} holds no examples; expected files ending in {suffixes}, or a table "
            f"({', '.join(tables.READERS)}) a split; set data.name where they are of another kind"
        )
    return FOLDERS[counts.most_common(1)[0][0]]


def is_set(path: str, kind: Input) -> bool:
    """Return whether a path holds its examples, which need no labels, in tables or archives.

    A file is told by its ending, a folder as `kind_of` tells it. Where examples of the kind lie in a folder
    as files of their own, it is these that are meant, whatever tables lie beside them.

    Raises:
        UserError: of a folder's tables or archives two are of one split, or a shard is missing.
    """
    if os.path.isdir(path):
        return not _has_files(path, kind) and bool(_set_in(path))
    return os.path.splitext(path)[1].lower() in (*tables.READERS, *SHARDS)


def is_of_files(path: str) -> bool:
    """Return whether a folder holds its examples as files, one each, rather than in tables or archives.

    Raises:
        UserError: it holds none.
    """
    return kind_of(path) in FOLDERS.values()


def name_of(path: str, kind: Input) -> str:
    """Return the name of the kind of source at a path; of one that is not there, the likeliest name."""
    if os.path.exists(path):
        return kind_of(path)
    return FILES.get(os.path.splitext(path)[1].lower(), FOLDERS[kind.holds])


def _set_in(folder: str) -> str:
    """Return the kind of the tables or archives that a folder is full of, "" where there are none."""
    found = tables_in(folder)
    has_folders = any(os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder))
    first = next(iter(found.values()), ("",))[0]
    if first and ("" not in found or not has_folders or is_metadata(first)):
        return FILES[os.path.splitext(first)[1].lower()]
    return next((FILES[suffix] for suffix in SHARDS if shards_in(folder, suffix)), "")


def _has_files(folder: str, kind: Input) -> bool:
    """Return whether a file below a folder ends or begins as an example of the kind."""
    return any(
        not why_not and is_example(os.path.join(folder, relative), kind)
        for relative, why_not in entries(folder)
    )


def _holds(folder: str) -> Iterator[str]:
    """Yield what each file below a folder holds that ends or begins as an example, in a fixed order."""
    for relative, why_not in entries(folder):
        for kind in INPUTS.values():
            if not why_not and is_example(os.path.join(folder, relative), kind):
                yield kind.holds
