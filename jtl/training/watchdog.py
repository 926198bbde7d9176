"""The watch of a run over its own progress: one that hangs is ended, and shows the stacks of its threads.

A thread looks whether the phases of the run move on (see `summary.Phases`). Nothing else can end a main
thread that waits for a disk, a device or a reader process for ever; what was saved is what the same command
goes on from.
"""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jtl import distributed, owner, signals
from jtl.data import workers
from jtl.peers import HUNG_CODE
from jtl.report.summary import Phases

# What is watched, and its words. All else takes the time it takes: imports, weights, compiling, reports.
DATA, COMPILE = "data_wait", "compile"
WATCHED = {
    "step": "a step",
    DATA: "the wait for data",
    "evaluate": "an evaluation",
    "checkpoint": "a save",
}
# So many times as long as it made no progress at most before, something may make none.
FACTOR = 10.0
POLL_SECONDS, POLLS = 1.0, 10
# Of several processes one that waits for data may hold up the others, and says so first.
DEFERENCE_SECONDS = 10.0
# How long the run folder's disk, which may be what hangs, has for the stacks.
WRITE_SECONDS = 5.0
COMPILER = os.path.join("jax", "_src", "compiler.py")


class Hang(NamedTuple):
    """What makes no progress, for how long, and how long it might have."""

    phase: str
    seconds: float
    limit: float

    def text(self) -> str:
        """Return it in words."""
        return (
            f"no progress in {WATCHED[self.phase]} for {self.seconds:.0f} s (limit {self.limit:.0f} s, "
            f"train.hang_seconds)"
        )


class Watchdog:
    """Looks, every `every` seconds, whether phases move on; `others` says what other processes are doing."""

    def __init__(
        self,
        phases: Phases,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        others: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        self._phases, self._seconds, self._clock, self._others = phases, seconds, clock, others
        self.every = min(POLL_SECONDS, seconds / POLLS)
        self._seen, self._idle, self._at = -1, 0.0, clock()
        self._phase = ""
        self._longest: dict[str, float] = {}

    def look(self) -> Hang | None:
        """Return what hangs, None where nothing does."""
        now, phase, moves = self._clock(), self._phases.current, self._phases.num_moves
        # Time in which this very thread did not run, as the process was stopped, is no hang.
        self._idle += min(now - self._at, 2 * self.every)
        self._at = now
        if moves != self._seen or phase not in WATCHED:
            self._longest[self._phase] = max(self._idle, self._longest.get(self._phase, 0.0))
            self._seen, self._idle, self._phase = moves, 0.0, phase
            return None
        limit = max(self._seconds, FACTOR * self._longest.get(phase, 0.0))
        if self._idle < limit:
            return None
        others = self._others()
        # An evaluation compiles its program with its first batch, and another process, for which this one
        # waits, may compile or write a report.
        if is_compiling() or any(each not in WATCHED for each in others.values()):
            self._idle = 0.0
            return None
        defers = bool(others) and phase != DATA
        return Hang(phase, self._idle, limit) if self._idle >= limit + defers * DEFERENCE_SECONDS else None

    def doing(self) -> str:
        """Return what this process is doing, for others."""
        return COMPILE if is_compiling() else self._phases.current


@contextmanager
def watching(seconds: float, folder: Path, phases: Phases) -> Iterator[None]:
    """Watch over a run inside the `with` block; 0 seconds: do not."""
    if not seconds:
        yield
        return
    found = Watchdog(phases, seconds, others=distributed.doing_of_others)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(found.every):
            distributed.tell_doing(found.doing())
            hang = found.look()
            if hang is not None and not is_over.is_set():
                end(hang, folder)
                return

    threading.Thread(target=watch, name="jtl-watchdog", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        distributed.tell_doing("")


def end(hang: Hang, folder: Path) -> None:
    """Show the stacks of all threads and reader processes, and end the process.

    One that is not a command's own, such as a notebook's, is told and goes on.
    """
    text = f"{stacks()}{workers.stacks()}"
    path = folder / owner.LOGS / f"hung-{distributed.process_id()}.txt"
    _show(text)
    known = ", ".join(f"process {number} in {what}" for number, what in distributed.doing_of_others().items())
    said = f"hung: {hang.text()}{f' ({known})' if known else ''}; stacks: {_written(path, text)}"
    request = signals.current()
    if request is None or not request.is_of_command:
        _show(f"jtl: {said}\n")
        return
    with suppress(Exception):
        distributed.leave(HUNG_CODE, said)
    _show(f"jtl: {said}; what was saved is kept: repeat the command to go on\n")
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(HUNG_CODE)


def stacks() -> str:
    """Return where each thread of this process is, the main thread first; reads no file."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    found = sorted(sys._current_frames().items(), key=lambda each: each[0] != main)
    blocks = []
    for number, frame in found:
        places = [
            f"  {each.f_code.co_filename}:{line} in {each.f_code.co_qualname}"
            for each, line in traceback.walk_stack(frame)
        ]
        blocks.append(
            "\n".join([f"thread {names.get(number, number)!r}, the innermost call first:", *places])
        )
    return "\n".join(blocks) + "\n"


def is_compiling() -> bool:
    """Return whether any thread is inside of JAX's compiler."""
    return any(
        each.f_code.co_filename.endswith(COMPILER)
        for frame in sys._current_frames().values()
        for each, _ in traceback.walk_stack(frame)
    )


def _show(text: str) -> None:
    """Write to standard error past Python's buffers, whose lock the thread that hangs may have."""
    with suppress(OSError):
        os.write(2, f"\n{text}".encode(errors="backslashreplace"))


def _written(path: Path, text: str) -> str:
    """Write the stacks to the run folder, as far as it answers; return where they stand."""
    faults: list[str] = ["it does not answer"]

    def write() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            faults.clear()
        except OSError as error:
            faults[:] = [str(error.strerror)]

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(WRITE_SECONDS)
    return f"above ({path}: {faults[0]})" if faults else str(path)
