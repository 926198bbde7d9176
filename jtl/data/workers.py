"""The reader processes of Grain: how they begin, what becomes of them, and how they end with the run."""

import faulthandler
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jtl import signals

PARENT_CHECK_SECONDS = 0.5
# How long the end of a stopped process waits for its readers; Grain itself gives them 25 s.
CLOSING_SECONDS = 1.0
# The name of the memory that a reader writes its stacks to, and how long it has for it.
STACKS, ANSWER_SECONDS = "jtl-stacks", 1.0
# Grain 0.8, of a worker process that ended by itself.
DEAD_WORKER = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")
OUT_OF_MEMORY = {signal.Signals(9): "the memory", signal.Signals(7): "the shared memory (/dev/shm)"}
# What the process that keeps count of shared memory says after it has removed what a killed worker left.
LEFT_SHARED_MEMORY = "ignore:resource_tracker"


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def first_of_workers(iterator: Iterator[Any]) -> Iterator[Any]:
    """Yield the first batch: it starts the workers, which inherit that the terminal's signals are not theirs.

    Those reach the whole group; what becomes of the workers is for this process to say.
    """

    def first() -> list[Any]:
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
        return [batch for batch in (next(iterator, None),) if batch is not None]

    yield from signals.interruptibly(first)


def close(iterator: Any) -> None:
    """Release threads and workers; of a process that is asked to stop, at once."""
    if not signals.is_asked():
        iterator.close()
        return
    for worker in multiprocessing.active_children():
        worker.kill()
    closing = threading.Thread(target=iterator.close, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)


def dead_worker(code: int, workers: int) -> str:
    """Return what became of a worker process, and what to change."""
    cure = f"lower inputs.workers ({workers}) or inputs.prefetch, or set inputs.workers=0"
    if code >= 0:
        return f"a reader process ended by itself (exit code {code}; its own lines are above); {cure}"
    name = signal.Signals(-code).name
    what = OUT_OF_MEMORY.get(signal.Signals(-code))
    guess = f": {what} may not suffice" if what else ""
    return f"a reader process was killed (signal {-code}, {name}){guess}; {cure}"


def keep_tracker_quiet() -> None:
    """Keep what counts shared memory from warning of what killed workers left, once it has removed it."""
    found = os.environ.get("PYTHONWARNINGS", "")
    if LEFT_SHARED_MEMORY not in found:
        os.environ["PYTHONWARNINGS"] = ",".join(each for each in (found, LEFT_SHARED_MEMORY) if each)


def end_with_parent(parent: int, worker: int, num_workers: int) -> None:
    """Watch the training process from inside a worker: one that was killed cannot stop its workers itself."""
    del worker, num_workers
    # What the terminal sends goes to the whole group: what becomes of the readers is for their run to say.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # no SIGHUP on Windows
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    show_stacks_when_asked()


def show_stacks_when_asked() -> None:
    """Let this process, a reader, write where its threads are once it gets SIGUSR1; see `stacks`.

    The fault handler of Python answers even inside of C++ code. It writes to memory that the run finds by its
    name, and that goes with the process.
    """
    if hasattr(os, "memfd_create"):  # Linux
        number = os.memfd_create(STACKS)
        faulthandler.register(signal.SIGUSR1, file=number, all_threads=True)


def stacks() -> str:
    """Return where the threads of the reader processes are, and which do not answer."""
    texts = []
    for child in multiprocessing.active_children():
        path = _stacks_of(child.pid or 0)
        if path is not None:
            os.kill(child.pid or 0, signal.SIGUSR1)
        until, found = time.monotonic() + ANSWER_SECONDS, ""
        while path is not None and not found and time.monotonic() < until:
            time.sleep(0.05)
            with suppress(OSError):
                found = path.read_text(encoding="utf-8", errors="replace")
        state = _state(child.pid or 0)
        texts.append(f"reader process {child.pid} ({state}):\n{found or 'gave no stacks'}\n")
    return "".join(texts)


def _stacks_of(pid: int) -> Path | None:
    """Return what a reader writes its stacks to, None where it has not begun, or is none."""
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(each).startswith(f"/memfd:{STACKS}"):
                return each
    return None


def _state(pid: int) -> str:
    """Return the state of a process in the words of the kernel, as far as it says."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("State:"):
                return line.partition(":")[2].strip()
    return "state unknown"


def mark_flags_as_parsed() -> None:
    """Let Grain read its command-line flags where no absl main has parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
