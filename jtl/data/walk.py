"""The one walk over folders: which files are examples, and which are passed over, by name.

Training, another domain, statistics, `jtl predict` and `jtl features` all see a folder through it.
"""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from jtl.errors import UserError
from jtl.inputs import INPUTS, Input
from jtl.names import as_unicode

# Files that people and systems leave between examples. Any other file counts as an example, and one that is
# none is reported as unreadable: a photo in a format that cannot be read is never passed over in silence.
NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".ini", ".db", ".log")
HIDDEN = (".", "__MACOSX")
HEAD_BYTES = 32
_NAMED = 5


class Walked(NamedTuple):
    """What lies below a folder, relative to it: examples, and what is passed over."""

    files: list[str]
    passed: list[str]


def walk(root: str, kind: Input) -> Walked:
    """Return what lies below a folder, every folder's entries by name; hidden ones are not looked at.

    Links are followed, though never twice into the same folder. What cannot be opened counts as an example,
    so that it is reported.

    Raises:
        UserError: a folder cannot be listed.
    """
    notes = notes_of(kind)
    files: list[str] = []
    passed: list[str] = []
    for relative, why_not in entries(root):
        if why_not:
            passed.append(f"{relative} ({why_not})")
        elif relative.lower().endswith(notes):
            passed.append(relative)
        else:
            files.append(relative)
    return Walked(files, passed)


def entries(root: str) -> Iterator[tuple[str, str]]:
    """Yield every file below a folder, relative to it, and why it cannot be one of the examples ("": it can).

    Raises:
        UserError: a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        relative = pending.pop()
        about = _about(os.path.join(root, relative))
        if about is not None and stat.S_ISDIR(about.st_mode):
            key = (about.st_dev, about.st_ino)
            if key in seen:
                yield relative, "a link to a folder that is read already"
                continue
            seen.add(key)
            names = visible(os.path.join(root, relative))
            pending += [os.path.join(relative, name) for name in reversed(names)]
        else:
            is_file = about is None or stat.S_ISREG(about.st_mode)
            yield relative, "" if is_file else "no file"


def visible(folder: str) -> list[str]:
    """Return the names in a folder that are not hidden, in order.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith(HIDDEN))
    except OSError as error:
        raise UserError(
            f"cannot list folder {as_unicode(folder)}: {error.strerror}; let this user read it, or "
            f"move it away"
        ) from error


def notes_of(kind: Input) -> tuple[str, ...]:
    """Return the endings of files that are no examples of a kind."""
    return tuple(each for each in NOTES if each not in kind.suffixes)


def is_example(path: str, kind: Input) -> bool:
    """Return whether a file ends as the kind's examples do, or begins as one."""
    if path.lower().endswith(kind.suffixes):
        return True
    about = _about(path)
    if about is None or not stat.S_ISREG(about.st_mode):
        return False
    try:
        with open(path, "rb") as file:
            return kind.recognises(file.read(HEAD_BYTES))
    except OSError:
        return False


def is_of_another(path: str, kind: Input) -> bool:
    """Return whether a file ends as the examples of another kind do."""
    name = path.lower()
    return not name.endswith(kind.suffixes) and any(name.endswith(each.suffixes) for each in INPUTS.values())


def passed_note(folder: str, passed: list[str], kind: Input) -> tuple[str, ...]:
    """Return the line that says for people what of a folder is passed over; () where that is nothing."""
    if not passed:
        return ()
    shown = ", ".join(map(as_unicode, passed[:_NAMED]))
    more = f" and {len(passed) - _NAMED} more" if len(passed) > _NAMED else ""
    files = "1 file" if len(passed) == 1 else f"{len(passed):,} files"
    return (f"passed over {files} in {as_unicode(folder)}, by their endings no {kind.unit}: {shown}{more}",)


def _about(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
