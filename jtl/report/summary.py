"""The JSON files of a run folder, and the clock that says where a run's seconds went."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jtl import files

PHASES = ("load", "features", "compile", "step", "data_wait", "evaluate", "checkpoint", "explain")
STATUSES = ("finished", "stopped_early", "preempted", "given_up")
# What those who read a summary count on.
KINDS = {
    "steps": files.COUNT,
    "final": files.NUMBERS,
    "best": files.NUMBERS,
    "seconds": files.NUMBERS,
    "parameters": files.NUMBERS,
    "weights": files.OBJECT,
    "digest": files.TEXT,
}


class Phases:
    """Wall seconds by phase. Of nested phases only the innermost runs, so that no second counts twice.

    `num_moves` grows with every sign that the run goes on: a phase that begins or ends, or moves.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0
        self.num_moves = 0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Charge the time inside the `with` block to a phase."""
        assert phase in PHASES, f"{phase!r} is none of {PHASES}"
        self._charge()
        self._open.append(phase)
        self.move()
        try:
            yield
        finally:
            self._charge()
            self._open.pop()
            self.move()

    def move(self) -> None:
        """Note that the phase goes on: between the batches of an evaluation, say."""
        self.num_moves += 1

    @property
    def current(self) -> str:
        """The phase that runs, "" outside of all; other threads may ask."""
        return next(reversed(self._open), "")

    def data_wait_fraction(self) -> float:
        """Return the share of the training time (steps and waits for data) spent waiting; 0 before any."""
        training = self.seconds["step"] + self.seconds["data_wait"]
        return self.seconds["data_wait"] / training if training else 0.0

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def build(
    *,
    status: str,
    steps: int,
    final: Mapping[str, float],
    best: Mapping[str, float],
    phases: Phases,
    num_examples: int,
    unit: str,
    parameters: Mapping[str, int],
    weights: Mapping[str, str],
    digest: str,
    peak_memory_bytes: int,
    model_sha256: str = "",
    target: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what summary.json holds, ready for JSON.

    `num_examples` of that `unit` ("images") were trained on in the seconds that `phases` measured: those
    of this process, not of the runs it resumed. `digest` is over the final parameters,
    `model_sha256` of the file of weights that was written ("": none was). `target` is what is known of
    another domain, where the run has one.
    """
    assert status in STATUSES, f"{status!r} is none of {STATUSES}"
    assert parameters.keys() == {"total", "trainable"}, parameters
    assert weights.keys() == {"source", "sha256"}, weights
    training_seconds = phases.seconds["step"] + phases.seconds["data_wait"]
    rate = num_examples / training_seconds if training_seconds else 0.0
    return plain(
        {
            "status": status,
            "steps": steps,
            "final": final,
            "best": best,
            "examples_per_second": rate,
            f"{unit}_per_second": rate,
            "data_wait_fraction": phases.data_wait_fraction(),
            "seconds": {phase: round(seconds, 3) for phase, seconds in phases.seconds.items()},
            "peak_memory_bytes": peak_memory_bytes,
            "parameters": parameters,
            "weights": weights,
            "digest": digest,
        }
        | ({"model_sha256": model_sha256} if model_sha256 else {})
        | ({} if target is None else {"target": target})
    )


def read(path: Path) -> dict[str, Any]:
    """Return what a summary.json says, as `build` made it.

    Raises:
        UserError: it says something else.
    """
    record = files.read_record(path)
    if record.get("status", files.TEXT) not in STATUSES:
        raise record.wrong(f"status is {record.values['status']!r}; expected one of {', '.join(STATUSES)}")
    for name, kind in KINDS.items():
        record.get(name, kind)
    for name in ("total", "trainable"):
        record.below("parameters").get(name, files.COUNT)
    if "step" in record.values["best"]:
        record.below("best").get("step", files.COUNT)
    if "target" in record.values:
        for name in record.below("target").values:
            record.below("target").below(name)
    return record.values


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; a reader finds the old file or the new one, never a part.

    What is no Unicode in a name, such as a path of bytes that are no UTF-8, is escaped, and comes back.
    """
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    files.replace_text(path, text)


def plain(value: Any) -> Any:
    """Return the value in JSON's own types; numbers that JSON has no word for (nan, inf) become None.

    >>> plain({"loss": float("nan"), "shape": (1, 2), "folder": Path("runs")})
    {'loss': None, 'shape': [1, 2], 'folder': 'runs'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")
