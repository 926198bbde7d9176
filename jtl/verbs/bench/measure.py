"""Clocks around what a run does: a device step alone, the feed alone, and the loop itself.

Each is warmed up first, then measured in `runs` equal parts one behind the other, so that a spread shows what
else the machine did. Nothing here is a copy of the loop: it is driven, and watched through its live line.
"""

import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import jtl.training.checkpoint
    import jtl.training.progress
    import jtl.training.ready
    import jtl.training.state

T = TypeVar("T")
Clock = Callable[[], float]
# What the loop's time is charged to beside its steps and its waits for data.
OTHER_PHASES = ("load", "compile", "evaluate", "checkpoint")


class Length(NamedTuple):
    """How long to measure: `warmup` steps that do not count, then `runs` times `steps`."""

    warmup: int
    steps: int
    runs: int

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.warmup + self.runs * self.steps


class Tick(NamedTuple):
    """Where the loop was after a step: seconds since some moment, and what of them was what.

    `training` are seconds without compilation, evaluation and checkpoints, `waited` those spent waiting for
    data, `host` the processor's seconds of the loop's own thread.
    """

    step: int
    training: float
    waited: float
    host: float


class Spent(NamedTuple):
    """What one step of the loop took: seconds in all, of them waited for data, and of its thread's work."""

    training: float
    waited: float
    host: float


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least that share of them does not exceed.

    >>> percentile([4.0, 1.0, 2.0, 3.0], 0.5), percentile([4.0, 1.0, 2.0, 3.0], 0.95)
    (2.0, 4.0)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return what a record says of the seconds of the steps of each run: of all steps, and run by run.

    >>> spread([[1.0, 3.0], [2.0, 2.0]])["runs"]
    [2.0, 2.0]
    """
    values = [value for run in runs for value in run]
    return {
        "median": statistics.median(values),
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "min": min(values),
        "max": max(values),
        "num_steps": len(values),
        "runs": [statistics.median(run) for run in runs],
    }


def parts(values: Sequence[T], length: Length) -> list[list[T]]:
    """Return the values behind the warm-up, cut into the runs; a last run may be shorter, none is empty.

    >>> parts([9.0, 1.0, 2.0, 3.0], Length(warmup=1, steps=2, runs=2))
    [[1.0, 2.0], [3.0]]
    """
    counted = list(values[length.warmup :])
    cut = [counted[start : start + length.steps] for start in range(0, len(counted), length.steps)]
    return cut[: length.runs]


class Alone(NamedTuple):
    """Steps by themselves, each waited for: the seconds of each, and those until its call came back."""

    seconds: list[float]
    dispatch: list[float]


def steps_alone(
    call: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    batch: Any,
    length: Length,
    *,
    wait: Callable[[Any], object],
    clock: Clock = time.perf_counter,
) -> Alone:
    """Time steps on one batch; each gives the state that the next one takes."""
    found = Alone([], [])
    for _ in range(length.total):
        began = clock()
        state, values = call(state, batch)
        returned = clock()
        wait((state, values))
        found.seconds.append(clock() - began)
        found.dispatch.append(returned - began)
    return found


def feed_alone(
    batches: Iterator[Any],
    length: Length,
    *,
    wait: Callable[[Any], object],
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Time batches as they come, onto the device, with no step between them."""
    seconds = []
    for _ in range(length.total):
        began = clock()
        wait(next(batches))
        seconds.append(clock() - began)
    return seconds


def per_step(ticks: Sequence[Tick]) -> list[Spent]:
    """Return what each step between ticks took; several of them in one tick share it.

    >>> per_step([Tick(1, 1.0, 0.5, 0.0), Tick(3, 2.0, 0.75, 0.5)])[0]
    Spent(training=0.5, waited=0.125, host=0.25)
    """
    found: list[Spent] = []
    for before, after in itertools.pairwise(ticks):
        num_steps = after.step - before.step
        passed = ((now - then) / num_steps for then, now in zip(before[1:], after[1:], strict=True))
        found += [Spent(*passed)] * num_steps
    return found


class KeepsNothing:
    """What stands in for the checkpoints of a run that is measured and then thrown away."""

    def sound(self, state: "jtl.training.state.State") -> "jtl.training.checkpoint.Sound":
        """Return the state, unexamined."""
        from jtl.training.checkpoint import Sound

        return Sound(state, {})

    def save(self, sound: "jtl.training.checkpoint.Sound", history: "jtl.training.progress.History") -> None:
        """Save nothing."""

    def wait(self) -> None:
        """Wait for nothing."""


def loop(
    ready: "jtl.training.ready.Run", state: "jtl.training.state.State", length: Length, folder: Path
) -> list[Tick]:
    """Run the training loop for so many steps, without evaluations and checkpoints; return its ticks.

    The run must be longer than that: it is stopped as by a signal. Its numbers are written into `folder`.
    """
    from jtl import signals
    from jtl.errors import at_end
    from jtl.report.console import Live, Progress
    from jtl.report.summary import Phases
    from jtl.report.writer import Writer
    from jtl.signals import StopRequest
    from jtl.training import loop as loops

    phases, stop = Phases(), StopRequest()
    ticks: list[Tick] = []

    def watch(progress: Progress) -> None:
        # What is flushed may be shown again.
        if ticks and ticks[-1].step >= progress.step:
            return
        spent = sum(phases.seconds[name] for name in OTHER_PHASES)
        now = time.perf_counter() - spent
        ticks.append(Tick(progress.step, now, phases.seconds["data_wait"], time.thread_time()))
        # One more than there are intervals.
        if progress.step > length.total:
            stop.ask()

    live = Live(io.StringIO(), watch=watch)
    feed = ready.feed._replace(eval_batches={}, target_batches=None)
    watched = ready._replace(feed=feed, reporter=ready.reporter._replace(live=live, phases=phases))
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder, 0)
    with at_end(writer.close):
        loops.run(watched, state, [], KeepsNothing(), writer, stop)
    # The loop takes a signal for its own: whoever sent one means the measurement.
    signals.check()
    return ticks
