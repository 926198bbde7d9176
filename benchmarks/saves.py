"""What saving a checkpoint takes, with what never trains in each of them and once for all.

    python -m benchmarks.saves --weights vit_tiny_patch16_224.safetensors [--strategies probe,lora]

Each way saves the same state, as often as `--saves` says, to a folder of its own; the ways take turns.
Seconds are from the call to its return, in which training stands still, and to the last byte on the disk; the
first save of a run, which writes what never trains, stands apart. Prints a table, and writes the record to
OUT (`--out`).
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

WAYS = ("in each", "once")


def main() -> None:
    """Save by both ways, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--strategies", default="probe,lora,full")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.strategies.split(",") for row in _rows(args.weights, name, args.saves)]
    for row in rows:
        sys.stdout.write(
            f"{row['strategy']:>8} {row['way']:>8} {row['bytes'] / 1e6:8.2f} MB a checkpoint, "
            f"{row['shared_bytes'] / 1e6:6.2f} MB once; stands {1e3 * row['stands']:6.1f} ms, "
            f"on disk {1e3 * row['seconds']:6.1f} ms, the first {1e3 * row['first']:6.1f} ms\n"
        )
    if args.out:
        about = {
            "python": platform.python_version(),
            "jax": version("jax"),
            "orbax": version("orbax-checkpoint"),
        }
        args.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _rows(weights: str, strategy: str, num_saves: int) -> list[dict[str, Any]]:
    from jtl.training import build, config, step
    from jtl.verbs.bench import subject

    settings = config.read(
        "configs/vit_ft.py:ti16",
        [("model.weights", weights), ("strategy.name", strategy), ("sharding.devices", "1")],
    )
    found = subject.subject(settings)
    state, _ = build.initial_state(found.built, settings, found.mesh)
    still = {"in each": frozenset(), "once": step.unmoved(found.parts, state)}
    with tempfile.TemporaryDirectory() as folder:
        timed = {way: _Timed(Path(folder) / way.replace(" ", "-"), still[way]) for way in WAYS}
        for number in range(1, num_saves + 2):
            for way in WAYS:
                timed[way].save(state, number)
        return [{"strategy": strategy, "way": way, **timed[way].told()} for way in WAYS]


class _Timed:
    """The checkpoints of one way, and how long each save took."""

    def __init__(self, run: Path, still: frozenset[str]) -> None:
        from jtl.training.checkpoint import Checkpoints

        run.mkdir()
        self._run, self._stands, self._seconds = run, [], []
        self._checkpoints = Checkpoints(run / "checkpoints", metric="loss", is_maximized=False, still=still)

    def save(self, state: Any, number: int) -> None:
        import jax.numpy as jnp

        sound = self._checkpoints.sound(state._replace(step=jnp.array(number, jnp.int32)))
        began = time.perf_counter()
        self._checkpoints.save(sound, [])
        self._stands.append(time.perf_counter() - began)
        self._checkpoints.wait()
        self._seconds.append(time.perf_counter() - began)

    def told(self) -> dict[str, Any]:
        from jtl.training import checkpoint_files, once

        with closing(self._checkpoints):
            newest = self._run / "checkpoints" / str(self._checkpoints.steps()[-1])
        return {
            "bytes": checkpoint_files.num_bytes(newest),
            "shared_bytes": sum(path.stat().st_size for path in once.files(self._run)),
            "stands": statistics.median(self._stands[1:]),
            "seconds": statistics.median(self._seconds[1:]),
            "first": self._seconds[0],
        }


if __name__ == "__main__":
    main()
