"""Runs that are killed (SIGKILL) at random moments and repeated until they are finished.

Of the trials a third are killed in the final report, a third inside a save or a step, a third elsewhere;
a quarter twice in a row; a fifth have workers, which in half of the trials outlive the main process at first.
"""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import moments, outcome, record, reference, runs
from benchmarks.faults.moments import Moment
from benchmarks.faults.reference import Reference
from benchmarks.faults.runs import Setup

LIMIT_SECONDS = 600.0
PLACES = (
    moments.in_report,
    moments.in_save,
    moments.in_start,
    moments.after_weights,
    moments.in_step,
    moments.in_evaluation,
)


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; the kinds take turns, and the places."""
    kinds = tuple(runs.KINDS)
    for number in range(num):
        # Five kinds and six places: each meets each.
        kind, place = kinds[number % len(kinds)], PLACES[number % len(PLACES)]
        yield record.Trial(f"{number:03d} {kind}", partial(_trial, setup, kind, place, number, seed))


def _trial(setup: Setup, kind: str, place: Any, number: int, seed: int) -> dict[str, Any]:
    ours = reference.make(setup, kind)
    rng = record.generator(seed, "kills", number)
    folder = setup.folder / "kills" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {"inputs.workers": "2"} if number // len(runs.KINDS) % 5 == 4 else {}
    kills, faults = [], []
    for again in range(2 if number // len(runs.KINDS) % 4 == 3 else 1):
        moment = place(rng, ours.clock) if not again else _anywhere(rng, ours)
        kill, more = _killed(setup, kind, folder, moment, settings, is_whole=rng.random() < 0.5)
        kills.append(kill)
        faults += more
    code, more = repeated(setup, kind, folder, ours, settings)
    result = {"kind": kind, "settings": settings, "kills": kills, "code": code, "faults": faults + more}
    if not result["faults"]:
        shutil.rmtree(folder)
    return result


def repeated(
    setup: Setup, kind: str, folder: Path, ours: Reference, settings: dict[str, str] | None = None
) -> tuple[int | None, list[str]]:
    """Repeat the command until its end; return its code, and how what it comes to differs."""
    screen = folder / "last.screen"
    words = runs.command(setup, kind, folder / "run", settings)
    started = runs.start(words, folder / "run", screen, runs.environment(setup))
    code = runs.wait(started, LIMIT_SECONDS)
    faults = screen_faults(started)
    if code != 0:
        faults.append(f"the repeat ended with {code}, not 0: {runs.last_line(runs.screen_text(started))}")
    else:
        faults += outcome.against(folder / "run", ours.outcome)
    return code, faults


def screen_faults(started: runs.Started) -> list[str]:
    """Return what no screen may show."""
    return ["a traceback is on the screen"] if runs.TRACEBACK in runs.screen_text(started) else []


def _anywhere(rng: random.Random, ours: Reference) -> Moment:
    return Moment("again, anywhere", moments.after(rng.uniform(0.05, ours.clock.summed)))


def _killed(
    setup: Setup, kind: str, folder: Path, moment: Moment, settings: dict[str, str], *, is_whole: bool
) -> tuple[dict[str, Any], list[str]]:
    """Start the run and kill it, with its workers or without; return what was killed, and what is wrong."""
    screen = folder / f"killed{len(list(folder.glob('killed*')))}.screen"
    words = runs.command(setup, kind, folder / "run", settings)
    started = runs.start(words, folder / "run", screen, runs.environment(setup))
    is_killed = moments.reach(started, moment, LIMIT_SECONDS)
    num_processes = len(runs.session(started))
    if is_killed:
        if is_whole:
            runs.kill_session(started)
        os.kill(started.process.pid, signal.SIGKILL)
    code = runs.wait(started, LIMIT_SECONDS)
    remaining = runs.left(started)
    kill = {
        "moment": moment.name,
        "is_killed": code == -signal.SIGKILL,
        "num_processes": num_processes,
        "is_whole": is_whole,
        "is_inside_save": bool(outcome.saving(folder / "run")),
        "checkpoints": outcome.steps_on_disk(folder / "run"),
        "is_summed": (folder / "run/summary.json").exists(),
    }
    faults = [f"{len(remaining)} workers are left"] if remaining else []
    if code not in (0, -signal.SIGKILL):
        faults.append(f"ended with {code} before it was killed: {runs.last_line(runs.screen_text(started))}")
    return kill, faults
