"""Labels that are dear to read, kept between runs: those of records that hold the pixels too.

They lie in $JTL_CACHE or ~/.cache/jtl, under a digest of the set's files: names, sizes and times of change.
Where nothing can be written they are read again; removing the folder costs nothing else.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jtl import files
from jtl.errors import UserError

FOLDER = "labels"


def kept(folder: str, words: tuple[str, ...], count: int, make: Callable[[], list[str]]) -> list[str]:
    """Return `count` label cells of a set in a folder, `words` saying which, as they were made last.

    They are made anew where the files of the folder have changed, or nothing is kept.
    """
    path = _path(folder, words)
    with suppress(OSError, UserError):  # what is not there, or damaged, is made anew
        cells = files.read_json(path)
        if isinstance(cells, list) and len(cells) == count and all(isinstance(each, str) for each in cells):
            return cells
    cells = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(path, json.dumps(cells))
    return cells


def _path(folder: str, words: tuple[str, ...]) -> Path:
    root = Path("~/.cache/jtl")
    with suppress(UserError):  # no home folder: a path that is not there
        root = files.cache_folder()
    about = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in os.scandir(folder)]
    told = json.dumps([os.path.realpath(folder), words, sorted(about)])
    return root / FOLDER / f"{hashlib.sha256(told.encode(errors='surrogateescape')).hexdigest()}.json"
