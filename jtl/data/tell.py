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
    found = tables_in(path)
    has_folders = any(os.path.isdir(os.path.join(path, name)) for name in os.listdir(path))
    first = next(iter(found.values()), ("",))[0]
    if first and ("" not in found or not has_folders or is_metadata(first)):
        return FILES[os.path.splitext(first)[1].lower()]
    for suffix in SHARDS:
        if shards_in(path, suffix):
            return FILES[suffix]
    counts = Counter(holds for holds in islice(_holds(path), MAX_FILES))
    if not counts:
        suffixes = ", ".join(each for kind in INPUTS.values() for each in kind.suffixes)
        raise UserError(
            f"folder {path!r} holds no examples; expected files ending in {suffixes}, or a table "
            f"({', '.join(tables.READERS)}) a split; set data.name where they are of another kind"
        )
    return FOLDERS[counts.most_common(1)[0][0]]


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


def _holds(folder: str) -> Iterator[str]:
    """Yield what each file below a folder holds that ends or begins as an example, in a fixed order."""
    for relative, why_not in entries(folder):
        for kind in INPUTS.values():
            if not why_not and is_example(os.path.join(folder, relative), kind):
                yield kind.holds
