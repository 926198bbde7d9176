"""Two and three processes that are started on one run folder, new or half-finished.

Right is: one trains, the others end with 2 within `LIMIT_SECONDS` of their first word and name the owner's
process; what the owner comes to is what an undisturbed run comes to. In about half of the trials the owner is
killed (SIGKILL) once the others are gone, and the next start takes over.
"""

import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import kills, moments, outcome, record, reference, runs
from benchmarks.faults.moments import Moment
from benchmarks.faults.reference import Reference
from benchmarks.faults.runs import NUM_STEPS, Setup, Started

REFUSED, LIMIT_SECONDS, WAIT_SECONDS = 2, 5.0, 400.0
# Of the kinds the two that take the fewest seconds: what they train does not matter here.
KINDS = ("full", "probe_ema_mixup")


class Ended(NamedTuple):
    """How one of several processes ended: wall seconds from its first word, and processor seconds in all."""

    pid: int
    code: int | None
    seconds: float
    cpu_seconds: float
    shown: str


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials: two or three, new or resumed, together or one after another."""
    for number in range(num):
        count, is_new, is_killed = 2 + number % 2, number // 2 % 2 == 0, number // 4 % 2 == 0
        kind = KINDS[number // 8 % len(KINDS)]
        run = partial(_trial, setup, kind, count, number, seed, is_new=is_new, is_killed=is_killed)
        words = ("new" if is_new else "resumed", "the owner killed" if is_killed else "the owner finishes")
        yield record.Trial(f"{number:03d} {kind} {count} processes, {', '.join(words)}", run)


def _trial(
    setup: Setup, kind: str, count: int, number: int, seed: int, *, is_new: bool, is_killed: bool
) -> dict[str, Any]:
    ours = reference.make(setup, kind)
    rng = record.generator(seed, "together", number)
    folder = setup.folder / "together" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not is_new:
        shutil.copytree(half(setup, kind), folder / "run", symlinks=True)
    started = _started(setup, kind, folder, (count, ours.clock.summed), rng)
    ended = _all_but_one(started)
    owners = [each for each in started if each.process.poll() is None]
    faults, found = [], {"kind": kind, "num_processes": count, "refused": [_shown(each) for each in ended]}
    if len(owners) == 1:
        faults += [fault for each in ended for fault in _refusal_faults(each, owners[0], ours)]
        faults += _owner_faults(owners[0], folder, ours, rng, is_killed=is_killed)
    else:
        faults.append(f"{len(owners)} processes go on, expected 1: {[_shown(each) for each in ended]}")
        for each in owners:
            runs.kill_session(each)
            each.process.wait()
    _, more = kills.repeated(setup, kind, folder, ours)
    faults += more if is_killed or not faults else [f"after all of it: {fault}" for fault in more]
    if not faults:
        shutil.rmtree(folder)
    return {**found, "faults": faults}


def half(setup: Setup, kind: str) -> Path:
    """Return a run of the kind that was killed halfway; made once."""
    folder = reference.folder_of(setup) / f"{kind}-half"
    with reference.MAKING[folder.name]:
        if not folder.exists():
            work = folder.with_name(f"{kind}-halving")
            shutil.rmtree(work, ignore_errors=True)
            words = runs.command(setup, kind, work)
            started = runs.start(words, work, work.with_suffix(".screen"), runs.environment(setup))
            moments.reach(started, Moment("half", moments.numbers_of(NUM_STEPS // 2 + 2)), WAIT_SECONDS)
            runs.kill_session(started)
            started.process.wait()
            work.rename(folder)
    return folder


def _started(
    setup: Setup, kind: str, folder: Path, of: tuple[int, float], rng: random.Random
) -> list[Started]:
    """Start so many processes at once, or some processor seconds of the first apart.

    The last of three starts before four tenths of those of a whole run, in which no half-finished one ends.
    """
    found: list[Started] = []
    count, whole = of
    apart = rng.choice((0.0, rng.uniform(0, whole / 5)))
    for place in range(count):
        if found:
            moments.reach(found[0], Moment("apart", moments.after(apart * place)), WAIT_SECONDS)
        words = runs.command(setup, kind, folder / "run")
        found.append(runs.start(words, folder / "run", folder / f"{place}.screen", runs.environment(setup)))
    return found


def _all_but_one(started: Sequence[Started]) -> list[Ended]:
    """Wait until all processes but one have ended; return those."""
    ended: dict[int, Ended] = {}
    spoke: dict[int, float] = {}
    used = dict.fromkeys((each.process.pid for each in started), 0.0)
    until = time.monotonic() + WAIT_SECONDS
    while len(ended) < len(started) - 1 and time.monotonic() < until:
        for each in started:
            pid, now = each.process.pid, time.monotonic()
            cpu = runs.cpu_seconds(each)
            used[pid] = cpu if cpu < float("inf") else used[pid]
            if pid not in spoke and moments.spoken(each):
                spoke[pid] = now
            if pid not in ended and (code := each.process.poll()) is not None:
                seconds = now - spoke.get(pid, now)
                ended[pid] = Ended(pid, code, seconds, used[pid], runs.screen_text(each))
        time.sleep(runs.POLL_SECONDS)
    return list(ended.values())


def _refusal_faults(ended: Ended, owner: Started, ours: Reference) -> list[str]:
    last = runs.last_line(ended.shown)
    faults = []
    if ended.code != REFUSED or not last.startswith("jtl: error: "):
        faults.append(
            f"process {ended.pid} ended with {ended.code}, expected {REFUSED} and a line: {last[:200]}"
        )
    elif str(owner.process.pid) not in last or socket.gethostname() not in last:
        faults.append(f"the owner {owner.process.pid} is not named: {last[:200]}")
    if ended.seconds > LIMIT_SECONDS and ended.cpu_seconds - ours.clock.spoke > LIMIT_SECONDS:
        faults.append(f"refused after {ended.seconds:.1f} s, expected {LIMIT_SECONDS} at most")
    if runs.TRACEBACK in ended.shown:
        faults.append("a traceback is on the screen")
    return faults


def _owner_faults(
    owner: Started, folder: Path, ours: Reference, rng: random.Random, *, is_killed: bool
) -> list[str]:
    if not is_killed:
        code = runs.wait(owner, WAIT_SECONDS)
        faults = [f"the owner ended with {code}, expected 0"] if code else []
        return faults + outcome.against(folder / "run", ours.outcome)
    moments.reach(owner, Moment("killed", moments.after(rng.uniform(0.0, ours.clock.summed))), WAIT_SECONDS)
    owner.process.send_signal(signal.SIGKILL)
    code = runs.wait(owner, WAIT_SECONDS)
    runs.left(owner)
    return [] if code == -signal.SIGKILL else [f"the owner ended with {code}, expected to be killed"]


def _shown(ended: Ended) -> dict[str, Any]:
    return {
        "code": ended.code,
        "seconds": round(ended.seconds, 2),
        "cpu_seconds": round(ended.cpu_seconds, 2),
        "last_line": runs.last_line(ended.shown)[:200],
    }
