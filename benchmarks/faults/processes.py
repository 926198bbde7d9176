"""Runs of two processes of which one or both are killed, one is stopped, or one fails, and then repeated.

Right is: where one is killed the other ends within `LOST_LIMIT` seconds and says which was lost; where one is
asked to stop (SIGTERM) both end with 75 within `STOP_LIMIT`; where one fails the other ends within
`FAIL_LIMIT`; and the same commands, repeated, come to what an undisturbed run of two processes comes to.
"""

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import moments, outcome, record, reference, runs
from benchmarks.faults.moments import Clock, Moment
from benchmarks.faults.reference import Reference
from benchmarks.faults.runs import Setup, Started

NUM_PROCESSES, NUM_DEVICES = 2, 4
KIND = "full"
WAIT_SECONDS, LOST_LIMIT, STOP_LIMIT, FAIL_LIMIT = 900.0, 30.0, 10.0, 5.0
PREEMPTED, ABORTED = 75, -signal.SIGABRT
DEVICES_FLAG = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
# A training whose step number {step} raises.
RAISING = """
import sys
from jtl import cli
from jtl.training import dispatch

at = dispatch.Dispatches.program

def failing(self, number, state, batch):
    if number == {step}:
        raise RuntimeError("as this trial wants it")
    return at(self, number, state, batch)

dispatch.Dispatches.program = failing
cli.main(verb="train")
"""


class Ended(NamedTuple):
    """How a process ended: its code, None where it did not, seconds after the fault, and all it showed."""

    code: int | None
    seconds: float
    shown: str


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; the faults take turns, and the places, and which process it is."""
    for number in range(num):
        name, fault = list(FAULTS.items())[number % len(FAULTS)]
        run = partial(_trial, setup, name, fault, number, seed)
        yield record.Trial(f"{number:03d} {name}", run)


def _trial(setup: Setup, name: str, fault: "Fault", number: int, seed: int) -> dict[str, Any]:
    ours = undisturbed(setup)
    rng = record.generator(seed, "processes", number)
    folder = setup.folder / "processes" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    which = number // len(FAULTS) % NUM_PROCESSES
    found, faults = fault(setup, folder, which, rng, ours)
    faults += _repeated(setup, folder, ours)
    result = {"fault": name, "which": which, **found, "faults": faults}
    if not faults:
        shutil.rmtree(folder)
    return result


def undisturbed(setup: Setup) -> Reference:
    """Return the undisturbed run of two processes; made once."""
    folder = reference.folder_of(setup) / "two-processes"
    with reference.MAKING[folder.name]:
        if not folder.exists():
            work = folder.with_name("two-processes-working")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            started = start(setup, work)
            clock = moments.timed(started[0], WAIT_SECONDS)
            codes = [runs.wait(each, WAIT_SECONDS) for each in started]
            if any(codes):
                shown = [runs.last_line(runs.screen_text(each)) for each in started]
                raise RuntimeError(f"the undisturbed run ended with {codes}: {shown}")
            (work / "clock.json").write_text(json.dumps(clock._asdict()), encoding="utf-8")
            work.rename(folder)
    clock = Clock(**json.loads((folder / "clock.json").read_text(encoding="utf-8")))
    return Reference(folder / "run", outcome.outcome(folder / "run"), clock)


def start(setup: Setup, folder: Path, raising: Mapping[int, int] | None = None) -> list[Started]:
    """Start the processes; `raising` says of a process at which step it fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for number in range(NUM_PROCESSES):
        words = runs.command(setup, KIND, folder / "run")
        if number in (raising or {}):
            code = RAISING.format(step=(raising or {})[number])
            words = [words[0], "-c", code, *words[words.index("--config") :]]
        variables = runs.environment(setup) | {
            "XLA_FLAGS": DEVICES_FLAG,
            "JTL_COORDINATOR": f"127.0.0.1:{port}",
            "JTL_NUM_PROCESSES": str(NUM_PROCESSES),
            "JTL_PROCESS_ID": str(number),
        }
        found.append(runs.start(words, folder / "run", folder / f"{number}.screen", variables))
    return found


def _killed(
    setup: Setup, folder: Path, which: int, rng: random.Random, ours: Reference, *, are_all: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Kill one of the processes, or all, at some moment of the run."""
    started = start(setup, folder)
    place = rng.choice((moments.in_step, moments.in_save, moments.in_evaluation, moments.in_report))
    moment = place(rng, ours.clock)
    is_reached = moments.reach(started[0], moment, WAIT_SECONDS)
    since = time.monotonic()
    victims = list(range(NUM_PROCESSES)) if are_all else [which]
    for number in victims:
        started[number].process.send_signal(signal.SIGKILL)
    ended = _all(started, since)
    others = [each for number, each in enumerate(ended) if number not in victims]
    faults = [] if is_reached else ["the run ended before it was killed"]
    for each in others:
        faults += _late(each, LOST_LIMIT)
        # The service of process 0 ends the others itself when it is gone.
        named = "is lost" in each.shown or (which == 0 and "coordination service" in each.shown)
        if each.code not in (PREEMPTED, ABORTED) or not named:
            faults.append(f"ended with {each.code} and did not say who was lost: {_last(each)}")
    return _told(moment, ended, folder), faults


def _stopped(
    setup: Setup, folder: Path, which: int, rng: random.Random, ours: Reference
) -> tuple[dict[str, Any], list[str]]:
    """Ask one of the processes to stop, at some moment of the run."""
    started = start(setup, folder)
    places: Sequence[Callable[[random.Random, Clock], Moment]] = (
        moments.in_step,
        moments.in_save,
        moments.in_evaluation,
        moments.in_start,
    )
    moment = rng.choice(places)(rng, ours.clock)
    is_reached = moments.reach(started[0], moment, WAIT_SECONDS)
    until = time.monotonic() + WAIT_SECONDS
    while not runs.catches(started[which], signal.SIGTERM) and time.monotonic() < until:
        time.sleep(runs.POLL_SECONDS)
    since = time.monotonic()
    started[which].process.send_signal(signal.SIGTERM)
    ended = _all(started, since)
    faults = [] if is_reached else ["the run ended before it was stopped"]
    for each in ended:
        faults += _late(each, STOP_LIMIT)
        if each.code != PREEMPTED:
            faults.append(f"ended with {each.code}, expected {PREEMPTED}: {_last(each)}")
    return _told(moment, ended, folder), faults


def _failed(
    setup: Setup, folder: Path, which: int, rng: random.Random, ours: Reference
) -> tuple[dict[str, Any], list[str]]:
    """Let one of the processes raise an error at some step."""
    del ours
    step = rng.randint(1, runs.NUM_STEPS - 1)
    started = start(setup, folder, {which: step})
    started[which].process.wait(WAIT_SECONDS)
    since = time.monotonic()
    ended = _all(started, since)
    faults = []
    for each in ended:
        faults += _late(each, FAIL_LIMIT)
        if each.code != 1 or "as this trial wants it" not in each.shown:
            faults.append(f"ended with {each.code}, expected 1 and the error: {_last(each)}")
    return _told(Moment(f"step {step}", lambda _: True), ended, folder), faults


Fault = Callable[[Setup, Path, int, random.Random, Reference], tuple[dict[str, Any], list[str]]]
FAULTS: Mapping[str, Fault] = {
    "one killed": _killed,
    "both killed": partial(_killed, are_all=True),
    "one stopped": _stopped,
    "one fails": _failed,
}


def _all(started: Sequence[Started], since: float) -> list[Ended]:
    """Wait until all have ended, each as long as it may take at most."""
    ended: dict[int, Ended] = {}
    while len(ended) < len(started) and time.monotonic() - since < WAIT_SECONDS:
        for number, each in enumerate(started):
            if number not in ended and (code := each.process.poll()) is not None:
                seconds = time.monotonic() - since
                shown = runs.screen_text(each) + _log(each.workdir, number)
                ended[number] = Ended(code, seconds, shown)
        time.sleep(runs.POLL_SECONDS)
    for number, each in enumerate(started):
        if number not in ended:
            ended[number] = Ended(None, WAIT_SECONDS, runs.screen_text(each) + _log(each.workdir, number))
        runs.kill_session(each)
        each.process.wait()
    return [ended[number] for number in range(len(started))]


def _log(workdir: Path, number: int) -> str:
    path = workdir / "logs" / f"process-{number}.log"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _repeated(setup: Setup, folder: Path, ours: Reference) -> list[str]:
    """Repeat the commands to their end; return how what they come to differs."""
    started = start(setup, folder)
    ended = _all(started, time.monotonic())
    faults = [
        f"the repeat of process {number} ended with {each.code}, not 0: {_last(each)}"
        for number, each in enumerate(ended)
        if each.code != 0
    ]
    return faults or outcome.against(folder / "run", ours.outcome)


def _late(ended: Ended, limit: float) -> list[str]:
    # On a machine that others keep busy seconds say little.
    is_busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    if ended.code is None:
        return ["did not end"]
    late = ended.seconds > (3 if is_busy else 1) * limit
    return [f"ended {ended.seconds:.1f} s after the fault, expected {limit} at most"] if late else []


def _last(ended: Ended) -> str:
    return runs.last_line(ended.shown)[:200]


def _told(moment: Moment, ended: Sequence[Ended], folder: Path) -> dict[str, Any]:
    return {
        "moment": moment.name,
        "ended": [{"code": each.code, "seconds": round(each.seconds, 2)} for each in ended],
        "last_lines": [_last(each) for each in ended],
        "checkpoints": outcome.steps_on_disk(folder / "run"),
    }
