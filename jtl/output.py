"""Standard output and standard error that outlive their reader: a closed pipe loses lines, not the run."""

import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STREAMS = {"stdout": 1, "stderr": 2}
# The reader has gone (a pager, a dropped connection, a closed terminal): nobody is left to tell.
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)


class Enduring(io.FileIO):
    """A descriptor whose first fault sends the rest to nowhere, what C++ code writes to it included."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be written; all of it counts as written."""
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data).cast("B"))


@contextmanager
def enduring() -> Iterator[dict[str, Enduring]]:
    """Replace both streams inside the `with` block; yield what lies below them, by name.

    Streams that are no descriptors, such as a notebook's, stay as they are.
    """
    _fill_gaps()
    before, below = {name: getattr(sys, name) for name in STREAMS}, {}
    for name, number in STREAMS.items():
        if before[name] is None or _number_of(before[name]) == number:
            below[name] = Enduring(number)
            setattr(sys, name, _text_over(below[name], before[name]))
    try:
        yield below
    finally:
        for name in below:
            with suppress(OSError, ValueError):
                getattr(sys, name).flush()
            setattr(sys, name, before[name])


def lost(below: dict[str, Enduring]) -> OSError | None:
    """Return why standard output could not be written (a full disk), None where it was or its reader left."""
    fault = below["stdout"].fault if "stdout" in below else None
    return None if fault is None or fault.errno in GONE else fault


def hush() -> None:
    """Let the threads and destructors of libraries fail without a word, for the rest of the process.

    What matters of it is raised where it is waited for, and the last line on the screen is ours.
    """
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None


def _fill_gaps() -> None:
    """Open nowhere in place of descriptors closed by the caller: the next file would take their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _number_of(stream: Any) -> int:
    """Return a stream's descriptor, -1 of one that has none."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _text_over(raw: Enduring, before: Any) -> io.TextIOWrapper:
    """Return text over a descriptor, as Python had it; what the encoding has no sign for is spelt out."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
