"""Files that jtl writes whole or not at all, JSON that it reads back, and paths as people give them."""

import json
import os
import secrets
import shutil
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jtl.errors import UserError, nearest, shortened

# Names of what is being written; a process that was killed leaves such files, and no others.
PART = ".{name}.{mark}.part"


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a path to write to (an empty file), which takes the place of `path` if the block ends well.

    A reader finds the old file or the new one, never a part. The name is this process's own, and the mode
    what the user's umask says, whatever wrote the file.
    """
    part = path.with_name(PART.format(name=path.name, mark=f"{os.getpid()}-{secrets.token_hex(4)}"))
    try:
        with part.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        yield part
        if part.is_file():
            part.chmod(mode)
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file, as `replaced` does."""
    with replaced(path) as part:
        # In JSON a half of a surrogate pair has just the escape that Python gives it.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def is_part(name: str) -> bool:
    """Return whether a file or folder of this name is one that is being written."""
    return name.startswith(".") and name.endswith(".part")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes were writing into a folder; only its owner may."""
    for part in folder.glob(PART.format(name="*", mark="*")):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
            continue
        with suppress(OSError):
            part.unlink()


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises:
        UserError: it is no JSON, or holds numbers that JSON has no word for.
    """
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is damaged ({_fault(error)}); expected JSON in UTF-8") from error


def parsed(text: str) -> Any:
    """Return what a JSON text says; raises ValueError or RecursionError where it is none."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def expanded(path: str) -> str:
    """Return the path with `~` and `~user` in front as the home folder they mean.

    Raises:
        UserError: nothing says what the home folder is.
    """
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found == path and path.partition("/")[0] == "~":
        raise UserError(
            f"{path!r} begins with the home folder, which nothing names; set HOME (or JTL_CACHE and "
            f"HF_HOME for what is fetched), or give the whole path"
        )
    return found


def cache_folder(*names: str) -> Path:
    """Return a folder of the user's cache: below $JTL_CACHE, else $XDG_CACHE_HOME/jtl, else ~/.cache/jtl.

    Raises:
        UserError: nothing says what the home folder is.
    """
    beside = os.environ.get("XDG_CACHE_HOME")
    folder = os.environ.get("JTL_CACHE") or (f"{beside}/jtl" if beside else "~/.cache/jtl")
    return Path(expanded(folder), *names)


def type_name(hint: Any) -> str:
    """Return how an annotated type is called in a message."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


class Record:
    """One object of a run folder's JSON: gives a value by its key, checked, or says which key is wrong.

    `where` is the path of keys that leads to it.
    """

    def __init__(self, path: Path, values: Any, where: str = "") -> None:
        self.path, self.where = path, where
        if not isinstance(values, dict):
            raise self.wrong(f"{where or 'the whole of it'} is {_in_json(values)}; expected an object")
        self.values: dict[str, Any] = values

    def get(self, key: str, kind: "Kind", default: Any = None) -> Any:
        """Return the value of a key, which must be of the kind; a missing one is the default, if any.

        Raises:
            UserError: it is not of that kind, or missing.
        """
        if key not in self.values and default is not None:
            return default
        name = f"{self.where}.{key}" if self.where else key
        if key not in self.values:
            raise self.wrong(f"{name} is missing")
        value = self.values[key]
        if not kind[1](value):
            raise self.wrong(f"{name} is {_in_json(value)}; expected {kind[0]}")
        return value

    def below(self, key: str, default: Any = None) -> "Record":
        """Return the object under a key."""
        value = self.get(key, OBJECT, default)
        return Record(self.path, value, f"{self.where}.{key}" if self.where else key)

    def fields_of(self, kind: type) -> dict[str, Any]:
        """Return the values as fields of a dataclass, JSON's lists as the tuples they were.

        Raises:
            UserError: a field is unknown, missing or of another type, or the dataclass refuses the values.
        """
        hints = typing.get_type_hints(kind)
        found = {name: _tuples(value) for name, value in self.values.items()}
        for name, value in found.items():
            if name not in hints:
                raise self.wrong(f"{self.where}.{name} is unknown; nearest: {nearest(name, hints)}")
            if not _fits(value, hints[name]):
                raise self.wrong(
                    f"{self.where}.{name} is {_in_json(value)}; expected {type_name(hints[name])}"
                )
        try:
            kind(**found)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise self.wrong(f"{self.where}: {shortened(str(error))}") from error
        return found

    def wrong(self, fault: str) -> UserError:
        """Return the error that says what is wrong with the file."""
        return UserError(f"{str(self.path)!r} is damaged: {fault}; restore the file, or give another folder")


def read_record(path: Path) -> Record:
    """Return the object a JSON file holds.

    Raises:
        UserError: it holds something else, or no JSON.
    """
    return Record(path, read_json(path))


# What a value must be: in words, and as a question.
Kind = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OBJECT: Kind = ("an object", lambda value: isinstance(value, dict))
TEXT: Kind = ("text", lambda value: isinstance(value, str))
COUNT: Kind = (
    "a whole number of 0 or more",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
)
NUMBER: Kind = ("a number", _is_number)
NUMBER_OR_NONE: Kind = ("a number or null", lambda value: value is None or _is_number(value))
NUMBERS: Kind = (
    "numbers by name",
    lambda value: (
        isinstance(value, dict) and all(each is None or _is_number(each) for each in value.values())
    ),
)
COUNTS: Kind = (
    "a list of whole numbers of 0 or more",
    lambda value: isinstance(value, list) and all(COUNT[1](each) for each in value),
)
FINITE: Kind = ("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value)))
TEXTS: Kind = (
    "a list of texts",
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type; an int counts as a float, a bool as no number."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in parts)
    if origin is tuple and parts[1:] == (...,):
        return isinstance(value, tuple) and all(_fits(each, parts[0]) for each in value)
    if origin is tuple:
        is_long = isinstance(value, tuple) and len(value) == len(parts)
        return is_long and all(map(_fits, value, parts))
    if hint in (int, float):
        return _is_number(value) and (hint is float or isinstance(value, int))
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True


def _in_json(value: Any) -> str:
    return shortened(json.dumps(value, default=repr))


def _fault(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else shortened(str(error))
