"""Moments of a run, by what it has done so far: the same on a busy machine and on an idle one."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults import outcome, runs
from benchmarks.faults.runs import EVAL_EVERY, NUM_STEPS, Started

EARLIEST_SECONDS = 0.3


class Clock(NamedTuple):
    """Processor seconds at which an undisturbed run came to each place, by its main process."""

    spoke: float
    stepped: float
    evaluating: float
    last_step: float
    weights: float
    summed: float
    ended: float


class Moment(NamedTuple):
    """A moment of a run: when `is_reached`, and `delay` processor seconds later."""

    name: str
    is_reached: Callable[[Started], bool]
    delay: float = 0.0


def timed(started: Started, seconds: float) -> Clock:
    """Watch a run to its end and return its clock."""
    places = {
        "spoke": spoken,
        "stepped": numbers_of(1),
        "evaluating": numbers_of(EVAL_EVERY),
        "last_step": numbers_of(NUM_STEPS),
        "weights": written("model.safetensors"),
        "summed": written("summary.json"),
    }
    found: dict[str, float] = {}
    now, until = 0.0, time.monotonic() + seconds
    while started.process.poll() is None and time.monotonic() < until:
        current = runs.cpu_seconds(started)
        now = current if current < float("inf") else now
        found |= {
            name: now for name, is_reached in places.items() if name not in found and is_reached(started)
        }
        time.sleep(runs.POLL_SECONDS)
    return Clock(**{name: found.get(name, now) for name in places}, ended=now)


def reach(started: Started, moment: Moment, seconds: float, *, stop_at_summary: bool = True) -> bool:
    """Wait for the moment, or for summary.json if that comes first; return whether the process still runs."""
    until = time.monotonic() + seconds
    since: float | None = None
    is_summed = written("summary.json")
    while started.process.poll() is None and time.monotonic() < until:
        if since is None and moment.is_reached(started):
            since = runs.cpu_seconds(started)
        if since is not None and runs.cpu_seconds(started) - since >= moment.delay:
            return started.process.poll() is None
        if stop_at_summary and is_summed(started):
            return started.process.poll() is None
        time.sleep(runs.POLL_SECONDS)
    return False


def spoken(started: Started) -> bool:
    """Return whether the process has said anything."""
    return started.screen.exists() and started.screen.stat().st_size > 0


def after(cpu_seconds: float) -> Callable[[Started], bool]:
    """Return whether the process has used so many processor seconds."""
    return lambda started: runs.cpu_seconds(started) >= cpu_seconds


def numbers_of(step: int, name: str = "train/loss") -> Callable[[Started], bool]:
    """Return whether metrics.jsonl has a number of this or a later step."""
    return lambda started: _last_step(started.workdir / "metrics.jsonl", name) >= step


def save_of(step: int) -> Callable[[Started], bool]:
    """Return whether the save of a step has begun."""

    def is_reached(started: Started) -> bool:
        begun = [int(name.partition(".")[0]) for name in outcome.saving(started.workdir)]
        return max([*begun, *outcome.steps_on_disk(started.workdir)], default=0) >= step

    return is_reached


def written(name: str) -> Callable[[Started], bool]:
    """Return whether the run folder has a file."""
    return lambda started: (started.workdir / name).exists()


def listening(number: int) -> Callable[[Started], bool]:
    """Return whether the process handles a signal, or has had its time to come to that."""
    return lambda started: (
        (runs.catches(started, number) and runs.catches(started, 15))
        or runs.cpu_seconds(started) >= EARLIEST_SECONDS
    )


def in_start(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment before the first step: import, configuration, data, weights, compiling."""
    return Moment("start", after(rng.uniform(0.05, clock.stepped)))


def in_step(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment in or after a step that is not the last."""
    step = rng.randint(1, NUM_STEPS - 1)
    return Moment(f"step {step}", numbers_of(step), rng.uniform(0, _step_seconds(clock)))


def in_save(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment inside a save."""
    del clock
    step = rng.randint(1, NUM_STEPS)
    return Moment(f"save of {step}", save_of(step), rng.uniform(0, 0.03))


def in_evaluation(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment inside the first evaluation."""
    return Moment("evaluation", numbers_of(EVAL_EVERY), rng.uniform(0, 10 * _step_seconds(clock)))


def in_report(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment between the last step and summary.json."""
    length = clock.summed - clock.last_step
    return Moment("report", numbers_of(NUM_STEPS), rng.uniform(0, length))


def after_weights(rng: random.Random, clock: Clock) -> Moment:
    """Return a moment between the exported weights and summary.json."""
    return Moment(
        "report, weights written", written("model.safetensors"), rng.uniform(0, clock.summed - clock.weights)
    )


def _step_seconds(clock: Clock) -> float:
    return max(0.0, clock.evaluating - clock.stepped) / EVAL_EVERY


def _last_step(path: Path, name: str) -> int:
    if not path.exists():
        return 0
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if name in entry:
            return int(entry["step"])
    return 0
