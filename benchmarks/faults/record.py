"""Runs trials, several at a time, and keeps a record of them that is whole whenever it is read."""

import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import runs

# The record is written, and a trial that is right shown, no more often.
WRITE_SECONDS = 3.0


class Trial(NamedTuple):
    """One trial: its name, and what makes it → what was found; "faults" in it are what went wrong."""

    name: str
    run: Callable[[], dict[str, Any]]


def generator(seed: int, *names: object) -> random.Random:
    """Return the chance of one trial, whatever others there are."""
    return random.Random(":".join(map(str, (seed, *names))))


def run_all(
    what: str, trials: Iterable[Trial], out: Path, *, processes: int, about: Mapping[str, Any]
) -> int:
    """Run trials, write the record after each, say what went wrong; return the number of bad trials."""
    lock, found, written_at = threading.Lock(), [], [0.0]
    head = {"trials_of": what, **about, "commit": commit(), "num_processors": os.cpu_count()}
    began = time.monotonic()

    def make(trial: Trial) -> None:
        since = time.monotonic()
        try:
            made = trial.run()
        except Exception:
            made = {"faults": [f"the trial itself failed: {traceback.format_exc()}"]}
        entry = {
            "name": trial.name,
            **made,
            "seconds": round(time.monotonic() - since, 1),
            "load": round(os.getloadavg()[0], 1),
        }
        with lock:
            found.append(entry)
            if time.monotonic() - written_at[0] > WRITE_SECONDS:
                _write(out, {**head, **_counts(found), "minutes": _minutes(began)}, found)
                written_at[0] = time.monotonic()
            if entry["faults"] or entry["seconds"] > WRITE_SECONDS:
                say(f"{len(found)} {trial.name}: {'; '.join(entry['faults']) or 'right'}")

    if processes == 1:
        # In the main thread, which alone may handle signals.
        for trial in trials:
            make(trial)
    else:
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(make, trials))
    _write(out, {**head, **_counts(found), "minutes": _minutes(began)}, found)
    counts = _counts(found)
    say(f"{what}: {counts['num_right']} of {counts['num_trials']} right; the record is {out}")
    return counts["num_trials"] - counts["num_right"]


def commit() -> str:
    """Return the commit that is tried, marked where files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(words, cwd=runs.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _minutes(began: float) -> float:
    return round((time.monotonic() - began) / 60, 1)


def _counts(found: list[dict[str, Any]]) -> dict[str, int]:
    return {"num_trials": len(found), "num_right": sum(not entry["faults"] for entry in found)}


def _write(out: Path, head: Mapping[str, Any], found: list[dict[str, Any]]) -> None:
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps({**head, "trials": found}, indent=1) + "\n", encoding="utf-8")
    part.replace(out)
