"""Runs that are asked to go (SIGTERM, SIGINT, SIGHUP) at all moments of the command, and then repeated.

Right is exit code 75, or 0 of a run that came to its end, within `LIMIT_SECONDS` of the signal, without a
process left, and the same outcome after the repeat. Where other programs keep the processors busy, the run's
own processor seconds are held against the limit; the record has both, and the longest wait for a processor.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.faults import kills, moments, outcome, record, reference, runs
from benchmarks.faults.moments import Clock, Moment
from benchmarks.faults.runs import Setup, Started

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PREEMPTED, LIMIT_SECONDS, WAIT_SECONDS = 75, 10.0, 300.0
WATCH_SECONDS = 0.02
# Settings that are read, and what was found in the data, are shown before anything is built.
BEGUN, LOOKED_AT = "run folder:", "pre-processing:"


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; the signals, the places and the kinds take turns."""
    kinds = tuple(runs.KINDS)
    for number in range(num):
        name, place = list(PLACES.items())[number % len(PLACES)]
        # Five kinds, eight places and three signals: each meets each.
        kind, sent = kinds[number % len(kinds)], SIGNALS[number % len(SIGNALS)]
        run = partial(_trial, setup, kind, place, number, seed, sent)
        yield record.Trial(f"{number:03d} {kind} {sent.name} in {name}", run)


def _imports(rng: random.Random, clock: Clock) -> Moment:
    """From the first line of the command on; what Python does before that is not the command's."""
    return Moment("imports", moments.listening(signal.SIGTERM), rng.uniform(0, clock.spoke))


def _data(rng: random.Random, clock: Clock) -> Moment:
    return Moment("data", _shown(BEGUN), rng.uniform(0, 0.3 * (clock.stepped - clock.spoke)))


def _build(rng: random.Random, clock: Clock) -> Moment:
    return Moment("build", _shown(LOOKED_AT), rng.uniform(0, 0.7 * (clock.stepped - clock.spoke)))


PLACES: dict[str, Callable[[random.Random, Clock], Moment]] = {
    "imports": _imports,
    "data": _data,
    "building and compiling": _build,
    "a step": moments.in_step,
    "a save": moments.in_save,
    "an evaluation": moments.in_evaluation,
    "the report": moments.in_report,
    "the end of the report": moments.after_weights,
}


def _shown(text: str) -> Callable[[Started], bool]:
    return lambda started: started.screen.exists() and text in runs.screen_text(started)


def _trial(
    setup: Setup, kind: str, place: Any, number: int, seed: int, sent: signal.Signals
) -> dict[str, Any]:
    ours = reference.make(setup, kind)
    rng = record.generator(seed, "signals", number)
    folder = setup.folder / "signals" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {"inputs.workers": "2"} if number // len(PLACES) % 2 else {}
    moment = place(rng, ours.clock)
    # As a terminal and some schedulers do.
    is_whole = bool(settings) and rng.random() < 0.5
    result = _signalled(setup, kind, folder, moment, settings, sent, is_whole=is_whole)
    faults = _faults(result, folder)
    _, more = kills.repeated(setup, kind, folder, ours, settings)
    found = {"kind": kind, "settings": settings, "signal": sent.name, **result, "faults": faults + more}
    if not found["faults"]:
        shutil.rmtree(folder)
    return found


def _signalled(
    setup: Setup,
    kind: str,
    folder: Any,
    moment: Moment,
    settings: dict[str, str],
    sent: signal.Signals,
    *,
    is_whole: bool,
) -> dict[str, Any]:
    words = runs.command(setup, kind, folder / "run", settings)
    screen = folder / "signalled.screen"
    started = runs.start(words, folder / "run", screen, runs.environment(setup))
    is_sent = moments.reach(started, moment, WAIT_SECONDS)
    num_processes, since = len(runs.session(started)), time.monotonic()
    used, waited = runs.cpu_seconds(started), runs.waited_seconds(started)
    if is_sent and is_whole:
        os.killpg(started.process.pid, sent)
    elif is_sent:
        os.kill(started.process.pid, sent)
    used_last, waited_last = used, dict(waited)
    while started.process.poll() is None and time.monotonic() - since < WAIT_SECONDS:
        used_last = max(used_last, _finite(runs.cpu_seconds(started), used_last))
        waited_last |= runs.waited_seconds(started)
        time.sleep(WATCH_SECONDS)
    seconds = time.monotonic() - since
    code = runs.wait(started, 1.0)
    shown = runs.screen_text(started)
    return {
        "moment": moment.name,
        "is_sent": is_sent,
        "is_to_all": is_whole,
        "num_processes": num_processes,
        "code": code,
        "seconds_to_exit": round(seconds, 2),
        "cpu_seconds_to_exit": round(used_last - used, 2),
        "waited_seconds": round(_longest_wait(waited, waited_last), 2),
        "num_left": len(runs.left(started)),
        "checkpoints": outcome.steps_on_disk(folder / "run"),
        "is_summed": (folder / "run/summary.json").exists(),
        "last_line": runs.last_line(shown)[:200],
        "has_traceback": runs.TRACEBACK in shown,
    }


def _faults(found: dict[str, Any], folder: Any) -> list[str]:
    faults = []
    if not found["is_sent"]:
        faults.append(f"ended with {found['code']} before the signal: {found['last_line']}")
    elif found["code"] not in (0, PREEMPTED):
        faults.append(f"ended with {found['code']}, expected {PREEMPTED}: {found['last_line']}")
    elif found["code"] == 0 and outcome.status(folder / "run") != "finished":
        faults.append(f"ended with 0, but the run is {outcome.status(folder / 'run')!r}")
    is_idle = os.getloadavg()[0] <= (os.cpu_count() or 1)
    seconds = found["seconds_to_exit" if is_idle else "cpu_seconds_to_exit"]
    if seconds > LIMIT_SECONDS:
        faults.append(f"{seconds} s from signal to exit, expected {LIMIT_SECONDS} at most")
    if found["num_left"]:
        faults.append(f"{found['num_left']} processes are left")
    if found["has_traceback"]:
        faults.append("a traceback is on the screen")
    return faults


def _longest_wait(before: dict[str, float], after: dict[str, float]) -> float:
    """Return how long that thread waited for a processor which waited longest."""
    return max((after[name] - before.get(name, 0.0) for name in after), default=0.0)


def _finite(value: float, otherwise: float) -> float:
    return value if value < float("inf") else otherwise
