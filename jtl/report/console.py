"""The live line of a run, and lines that do not break it; all on stderr, since stdout belongs to `--json`."""

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from io import TextIOBase
from typing import Any, NamedTuple, TextIO

from jtl.report.tables import terminal_width

REDRAW_SECONDS = 0.2
# A notebook keeps every state of the line in its file.
NOTEBOOK_SECONDS, NOTEBOOKS = 1.0, "ipykernel"
PLAIN_SECONDS = 10.0
RATE_WINDOW = 50
ERASE = "\r\x1b[K"
LEAST_FIRST = ("epoch", "memory", "wait", "rate")


class Progress(NamedTuple):
    """Where a run is after a step.

    `num_examples` are those of one step, `unit` what they are called; `last` and `best` are values of the
    metric that picks the best step, None before the first evaluation. `shares` are what else is shown, by
    name, as a percentage.
    """

    step: int
    num_steps: int
    epoch: float
    loss: float
    num_examples: int
    unit: str
    wait_fraction: float
    metric_name: str
    last: float | None
    best: float | None
    shares: Mapping[str, float] = {}


class Live:
    """One line that is rewritten on a terminal or in a notebook; elsewhere a line every few seconds.

    The last state is always shown. It only ever sees numbers that are already on the host, so it cannot make
    the device wait. `watch` is called with every update.
    """

    def __init__(
        self,
        stream: TextIO | TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._watch = clock, watch
        is_notebook = type(self._stream).__module__.partition(".")[0] == NOTEBOOKS
        self._is_terminal = self._stream.isatty() or is_notebook
        self._seconds = NOTEBOOK_SECONDS if is_notebook else REDRAW_SECONDS
        self._progress: Progress | None = None
        self._parts: dict[str, str] = {}
        self._drawn_at = -float("inf")
        self._updated_at = -float("inf")
        self._started: tuple[float, int] | None = None
        self._intervals: deque[float] = deque(maxlen=RATE_WINDOW)

    def update(self, **values: Any) -> None:
        """Take the fields of `Progress` after every step, or every few."""
        before, self._progress, now = self._progress, Progress(**values), self._clock()
        if self._started is None or before is None:
            self._started = (now, self._progress.step)
        else:
            self._intervals.append((now - self._updated_at) / max(1, self._progress.step - before.step))
        self._updated_at = now
        if self._watch is not None:
            self._watch(self._progress)
        if now - self._drawn_at >= (self._seconds if self._is_terminal else PLAIN_SECONDS):
            self._draw()

    def log(self, text: str) -> None:
        """Print text above the live line."""
        if not self._is_terminal:
            self._write(f"{text}\n")
            return
        self._write(f"{ERASE}{text}\n{self._row()}")

    def finish(self) -> None:
        """Show the last state, if there is one that is not on the screen yet, and leave the line for good."""
        if self._progress is not None and self._updated_at > self._drawn_at:
            self._draw()
        if self._is_terminal and self._parts:
            self._write("\n")
        self._parts = {}

    def peak_memory_bytes(self) -> int:
        """Return the most memory that any one device held, or this process where devices do not say (CPU)."""
        peaks = [stats["peak_bytes_in_use"] for stats in _device_stats() if "peak_bytes_in_use" in stats]
        return max(peaks) if peaks else peak_process_bytes()

    def _draw(self) -> None:
        assert self._progress is not None, "update comes first"
        self._parts = parts(self._progress, self._examples_per_second(), self._seconds_left(), memory())
        self._write(f"{ERASE}{self._row()}" if self._is_terminal else f"{'  '.join(self._parts.values())}\n")
        self._drawn_at = self._updated_at

    def _row(self) -> str:
        # A row as wide as the terminal would wrap, and the next `ERASE` miss its start.
        return fitted(self._parts, terminal_width() - 1)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _examples_per_second(self) -> float | None:
        """The median step's rate: evaluations and checkpoints between two steps are not slow steps."""
        seconds = statistics.median(self._intervals) if self._intervals else 0.0
        return self._progress.num_examples / seconds if self._progress and seconds else None

    def _seconds_left(self) -> float | None:
        """From the mean step since the first: evaluations and checkpoints are still to come, too."""
        if self._started is None or self._progress is None or self._progress.step <= self._started[1]:
            return None
        started_at, first_step = self._started
        step_seconds = (self._updated_at - started_at) / (self._progress.step - first_step)
        return step_seconds * (self._progress.num_steps - self._progress.step)


def parts(
    progress: Progress, examples_per_second: float | None, seconds_left: float | None, memory_text: str
) -> dict[str, str]:
    """Return the parts of the live line by name; what is not known yet is left out."""
    known = {
        "step": f"step {progress.step:,}/{progress.num_steps:,}",
        "epoch": f"epoch {progress.epoch:.1f}",
        "loss": f"loss {progress.loss:.4f}",
        "shares": "  ".join(f"{name} {value:.0%}" for name, value in progress.shares.items()),
        "rate": "" if examples_per_second is None else f"{examples_per_second:,.0f} {progress.unit}/s",
        "wait": f"wait {progress.wait_fraction:.0%}",
        "memory": memory_text,
        "left": f"left {duration(seconds_left)}" if seconds_left is not None else "",
    }
    if progress.last is not None and progress.best is not None:
        known["metric"] = f"{progress.metric_name} {progress.last:.4f} (best {progress.best:.4f})"
    return {name: text for name, text in known.items() if text}


def fitted(known: Mapping[str, str], width: int) -> str:
    """Return the parts in one row of `width`: those that matter least go first, then the end is cut.

    >>> fitted({"step": "step 1/9", "epoch": "epoch 0.1", "loss": "loss 2.0"}, 20)
    'step 1/9  loss 2.0'
    """
    row = dict(known)
    for name in LEAST_FIRST:
        if len("  ".join(row.values())) > width:
            row.pop(name, None)
    return "  ".join(row.values())[:width]


def duration(seconds: float) -> str:
    """Return seconds as a clock reads.

    >>> duration(59.6), duration(3599), duration(90_000)
    ('1:00', '59:59', '25:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def memory() -> str:
    """Return how full the fullest local device is, or the most this process held where none says (CPU)."""
    stats = [each for each in _device_stats() if "bytes_in_use" in each]
    if not stats:
        return f"memory {peak_process_bytes() / 2**30:.1f} GiB"
    fullest = max(stats, key=lambda each: each["bytes_in_use"])
    limit = f"/{fullest['bytes_limit'] / 2**30:.0f}" if "bytes_limit" in fullest else ""
    return f"memory {fullest['bytes_in_use'] / 2**30:.1f}{limit} GiB"


def _device_stats() -> list[dict[str, int]]:
    """What the allocator of each local device has on its books; asking does not wait for the device."""
    import jax

    return [stats for device in jax.local_devices() if (stats := device.memory_stats())]


def peak_process_bytes() -> int:
    """Return the most memory that this process ever held; 0 where that is not known (Windows)."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
