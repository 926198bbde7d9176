"""What `jtl predict` writes to a file: a row for each input or prediction, as they come."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from jtl.errors import UserError

Row = Mapping[str, Any]
RESULTS = ("rank", "label", "index", "value", "error")


def check_writable(out: str, endings: Iterable[str]) -> None:
    """Check that a file of that name can be written, before anything is computed for it.

    Raises:
        UserError: the ending is none of those known, or its folder is not there or closed to this user.
    """
    path, known = Path(out), list(endings)
    if path.suffix.lower() not in known:
        raise UserError(f"--out {out!r} ends in {path.suffix!r}; expected one of {', '.join(known)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {out!r}: folder {str(path.parent)!r} is not there; make it first")
    if path.is_dir():
        raise UserError(f"--out {out!r} is a folder; expected the name of a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--out {out!r} cannot be written: permission denied; give a place of your own")


@contextmanager
def writing(out: str, names: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """Open a file for rows that are named so, and give what writes one; "" writes none.

    What was written stays where the command does not come to its end.

    Raises:
        UserError: the file cannot be written.
    """
    if not out:
        yield lambda row: None
        return
    try:
        # Names of files need not be text; those of the result are (see `names.as_unicode`).
        with Path(out).open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            yield WRITERS[Path(out).suffix.lower()](stream, names)
    except OSError as error:
        if error.filename not in (None, out) and str(error.filename) != out:
            raise
        raise UserError(
            f"--out {out!r} cannot be written: {error.strerror}; make room, or give another place"
        ) from error


def _csv(stream: TextIO, names: Sequence[str]) -> Callable[[Row], None]:
    writer = csv.writer(stream)
    writer.writerow((*names, *RESULTS))

    def write(row: Row) -> None:
        named = [row.get(name, "") for name in names]
        for rank, each in enumerate(row.get("predictions", ())):
            writer.writerow((*named, rank + 1, each["label"], each["index"], each["value"], ""))
        if "error" in row:
            writer.writerow((*named, "", "", "", "", row["error"]))
        stream.flush()

    return write


def _json_lines(stream: TextIO, names: Sequence[str]) -> Callable[[Row], None]:
    del names

    def write(row: Row) -> None:
        stream.write(json.dumps(row) + "\n")
        stream.flush()

    return write


WRITERS: dict[str, Callable[[TextIO, Sequence[str]], Callable[[Row], None]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
}
