"""The undisturbed run of each kind: what it comes to, and its clock; made once and kept for all trials."""

import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import moments, outcome, record, runs
from benchmarks.faults.moments import Clock
from benchmarks.faults.runs import Setup

LIMIT_SECONDS = 900.0
ONE_AT_A_TIME = threading.Lock()


class Reference(NamedTuple):
    """An undisturbed run: its folder, its outcome, and when it came to what."""

    folder: Path
    outcome: dict[str, Any]
    clock: Clock


def make(setup: Setup, kind: str) -> Reference:
    """Return the kind's undisturbed run; the first one there is makes it."""
    folder = folder_of(setup) / kind
    kept = folder.with_suffix(".json")
    with ONE_AT_A_TIME:
        if not kept.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            clock = _run(setup, kind, folder)
            kept.write_text(json.dumps(clock._asdict()), encoding="utf-8")
    clock = Clock(**json.loads(kept.read_text(encoding="utf-8")))
    return Reference(folder, outcome.outcome(folder), clock)


def folder_of(setup: Setup) -> Path:
    """Return where the undisturbed runs of this commit are: another may write other files."""
    return setup.folder / "references" / record.commit()


def _run(setup: Setup, kind: str, folder: Path) -> Clock:
    screen = folder.with_suffix(".screen")
    started = runs.start(runs.command(setup, kind, folder), folder, screen, runs.environment(setup))
    clock = moments.timed(started, LIMIT_SECONDS)
    code = runs.wait(started, LIMIT_SECONDS)
    if code:
        raise RuntimeError(
            f"the undisturbed run {kind} ended with {code}: {runs.last_line(runs.screen_text(started))}"
        )
    return clock
