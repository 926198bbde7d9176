"""What part of the wall time of a run was steps that counted, and where the rest went, over all attempts.

Each attempt adds lines to `attempts.jsonl`: where it began, where it was at every save, and how it ended.
What it did after the step from which the next one went on is lost. Of what it did after its last line, before
it was killed, nothing tells.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jtl import files

FILE_NAME = "attempts.jsonl"
STEPS, START, REPORT, LOST = "steps", "start", "report", "lost"
# What the phases of a run are called here, once it has started.
PARTS = {
    "step": STEPS,
    "compile": "compile",
    "data_wait": "data",
    "features": "data",
    "evaluate": "evaluation",
    "checkpoint": "checkpoints",
}
# Lines between two saves are so far apart: as much of a killed attempt may be told by nothing.
EVERY_SECONDS = 5.0


class Line(NamedTuple):
    """A line of an attempt: its number, a step, seconds since its process began, and those by phase."""

    attempt: int
    step: int
    wall: float
    seconds: Mapping[str, float]


class Attempts:
    """Writes the lines of one attempt, which `began` then; a fault of writing them ends no run."""

    def __init__(self, folder: Path, step: int, seconds: Mapping[str, float], began: float) -> None:
        self._path = folder / FILE_NAME
        before = lines(self._path)
        self._number = before[-1].attempt + 1 if before else 1
        self._began = began
        self._added_at = 0.0
        self.add(step, seconds)

    def summed(self) -> dict[str, Any]:
        """Return what all attempts come to."""
        return summed(lines(self._path))

    def add(self, step: int, seconds: Mapping[str, float], *, every: float = 0.0) -> None:
        """Say how far the attempt is, unless that was said less than `every` seconds ago."""
        if time.monotonic() - self._added_at < every:
            return
        self._added_at = time.monotonic()
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        line = Line(self._number, step, round(time.monotonic() - self._began, 3), rounded)
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line._asdict()) + "\n")


def lines(path: Path) -> list[Line]:
    """Return the whole lines that a file has; what a killed process left half-written is none."""
    found = []
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for text in texts:
        with suppress(ValueError, TypeError, RecursionError):
            values = files.parsed(text)
            line = Line(**values)
            if all(isinstance(each, int | float) for each in (line.attempt, line.step, line.wall)):
                found.append(line)
    return found


def summed(found: Sequence[Line]) -> dict[str, Any]:
    """Return seconds by part over all attempts, their wall seconds and number, and the share of steps.

    >>> first = [Line(1, 0, 4.0, {}), Line(1, 5, 9.0, {"step": 5.0}), Line(1, 8, 12.0, {"step": 8.0})]
    >>> found = summed([*first, Line(2, 5, 3.0, {}), Line(2, 8, 7.0, {"step": 3.0})])
    >>> {name: value for name, value in found["seconds"].items() if value}
    {'steps': 8.0, 'start': 7.0, 'report': 1.0, 'lost': 3.0}
    """
    seconds = dict.fromkeys([*PARTS.values(), START, REPORT, LOST], 0.0)
    numbers = sorted({line.attempt for line in found})
    wall = 0.0
    for place, number in enumerate(numbers):
        own = [line for line in found if line.attempt == number]
        following = [
            line for line in found if place + 1 < len(numbers) and line.attempt == numbers[place + 1]
        ]
        # From there the next one went on.
        kept = [line for line in own if not following or line.step <= following[0].step] or own[:1]
        last = own[-1]
        wall += last.wall
        seconds[LOST] += last.wall - kept[-1].wall
        measured = 0.0
        for phase, part in PARTS.items():
            value = kept[-1].seconds.get(phase, 0.0) - own[0].seconds.get(phase, 0.0)
            seconds[part] += value
            measured += value
        seconds[START] += own[0].wall
        seconds[REPORT] += max(0.0, kept[-1].wall - own[0].wall - measured)
    return {
        "attempts": len(numbers),
        "wall_seconds": round(wall, 3),
        "fraction": round(seconds[STEPS] / wall, 4) if wall else 0.0,
        "seconds": {part: round(value, 3) for part, value in seconds.items()},
    }


def text(goodput: Mapping[str, Any]) -> str:
    """Return it in a line for people.

    >>> text({"attempts": 2, "wall_seconds": 19.0, "fraction": 0.5, "seconds": {"steps": 9.5, "lost": 0.2}})
    'goodput: 50.0% of 19 s in 2 attempts were steps; lost 1.1%'
    """
    wall, attempts = goodput["wall_seconds"], goodput["attempts"]
    rest = {name: value for name, value in goodput["seconds"].items() if name != STEPS and value > 0}
    shares = ", ".join(
        f"{name} {value / wall:.1%}" for name, value in sorted(rest.items(), key=lambda each: -each[1])
    )
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return f"goodput: {goodput['fraction']:.1%} of {wall:,.0f} s in {tries} were steps" + (
        f"; {shares}" if shares else ""
    )


def process_seconds() -> float:
    """Return the seconds since this process began, 0 where the system does not say."""
    try:
        fields = (
            Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]) - began)
    except (OSError, ValueError, IndexError):  # not on macOS and Windows
        return 0.0
