"""The numbers of a run over its steps: metrics.jsonl (a line a report) and TensorBoard events beside it."""

import json
import math
import os
import socket
import struct
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jtl import files
from jtl.errors import UserError, at_end, shortened
from jtl.files import replace_text
from jtl.report.summary import plain

FILE_NAME = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"
# TensorBoard's `SessionLog.START`.
SESSION_START = 1
# What the names of an evaluation's numbers begin with, and those of the final report's.
MEASURED, FINAL = ("val/", "target/"), ("test/",)


@runtime_checkable
class Numbers(Protocol):
    """What takes the numbers of a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take values by name at a step."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class Unwritten:
    """The numbers of a process that does not write the run folder: another does."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Leave the values to the other."""

    def close(self) -> None:
        """Close nothing."""


class Writer:
    """Appends the scalars of a run to its folder; a resumed run goes on where its checkpoint was.

    Lines of later steps than `resume_step` are dropped first: those steps will be run again; and so are
    evaluations of other steps than `measured`.
    """

    def __init__(self, folder: Path, resume_step: int, measured: Container[int] = ()) -> None:
        self._path, self._events_path = folder / FILE_NAME, folder / EVENTS_FOLDER
        if self._path.exists():
            replace_text(self._path, kept_lines(self._path, resume_step, measured))
        # Line-buffered: whatever ends the process, the lines written before are whole.
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._events_path.mkdir(exist_ok=True)
        # Not tensorboardX's writers: the thread of one dies on a full disk unheard, and the other waits until
        # the disk has each report (14 ms).
        self._events = (self._events_path / _events_name()).open("ab")
        self._tell(0, file_version="brain.Event:2")
        # TensorBoard hides the events of later steps that earlier files hold.
        self._tell(resume_step + 1, session_log={"status": SESSION_START})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Report values by name at a step; nan and inf are null in the file and absent from TensorBoard.

        Raises:
            OSError: one of the files cannot be written; it is named.
        """
        line = {"step": step, "time": round(time.time(), 3), **values}
        with _naming(self._path):
            self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        shown = {name: value for name, value in values.items() if math.isfinite(value)}
        if shown:
            found = [{"tag": name, "simple_value": value} for name, value in shown.items()]
            self._tell(step, summary={"value": found})

    def close(self) -> None:
        """Flush and close both."""
        with at_end(self._events.close), _naming(self._path):
            self._file.close()

    def _tell(self, step: int, **content: Any) -> None:
        """Write a TensorBoard event, to the disk's own buffers."""
        with _naming(self._events_path):
            event = _messages().Event(wall_time=time.time(), step=step, **content)
            self._events.write(_record(event.SerializeToString()))
            self._events.flush()


def _events_name() -> str:
    """Return the name of this process's file, by which TensorBoard finds it, and puts it in order."""
    return f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"


def _record(data: bytes) -> bytes:
    """Return the data in TFRecord's framing: length and data, each with its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(each)) for each in (length, data)]
    return b"".join([length, checksums[0], data, checksums[1]])


def _messages() -> Any:
    """Return the module of TensorBoard's messages, which protobuf fills when it is imported."""
    from tensorboardX.proto import event_pb2

    return event_pb2


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file of an error of writing, which the operating system does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def kept_lines(path: Path, last_step: int, measured: Container[int]) -> str:
    """Return the lines of a metrics file up to a step, without the unfinished one a killed process leaves.

    Left out is also what a run that goes on will measure again: the final report, and evaluations of other
    steps than `measured`.

    Raises:
        UserError: a line is no report.
    """
    return "".join(
        line
        for line, report in reports(path)
        if report["step"] <= last_step
        and not _is_of(report, FINAL)
        and (report["step"] in measured or not _is_of(report, MEASURED))
    )


def reports(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the whole lines of a metrics file, each with what it reports: a step, and numbers by name.

    Raises:
        UserError: a line is no report.
    """
    content = path.read_bytes()
    found = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        try:
            text = line.decode()
            report = files.parsed(text)
            is_right = files.NUMBERS[1](report) and files.COUNT[1](report.get("step"))
        except (ValueError, RecursionError):
            text, report, is_right = repr(line), {}, False
        if not is_right:
            raise UserError(
                f"{path}:{number} is {shortened(text)!r}; expected a JSON object with a step and numbers; "
                f"remove the line"
            )
        found.append((f"{text}\n", report))
    return found


def _is_of(report: Mapping[str, Any], prefixes: tuple[str, ...]) -> bool:
    """Return whether a report has numbers, and all of their names begin with one of the prefixes."""
    names = report.keys() - {"step", "time"}
    return bool(names) and all(name.startswith(prefixes) for name in names)
