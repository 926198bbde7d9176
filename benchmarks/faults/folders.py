"""Finished run folders whose JSON files are changed by chance, opened by every verb that reads them.

The verbs run in this process, as the command line runs them. Right is a result (exit code 0), or one line
`jtl: error: …` and exit code 2; within the seconds and the memory that a sound folder takes many times over.
"""

import contextlib
import io
import os
import resource
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import mutations, record, reference, runs
from benchmarks.faults.alarm import alarm
from benchmarks.faults.runs import Setup

KIND = "full"
NAMES = ("config.json", "meta.json", "summary.json", "metrics.jsonl")
# What is read most is changed most.
WEIGHTS = (4, 4, 2, 1)
LIMIT_BYTES = 12 << 30
NUM_EXAMPLES = 8
FROM_RUN = "train from it"


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; the verbs take turns."""
    ours = reference.make(setup, KIND)
    folder = setup.folder / "folders" / f"{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sound = folder / "sound"
    shutil.copytree(ours.folder, sound, symlinks=True)
    _write_examples(folder)
    _prepare(setup)
    verbs = _commands(setup, folder)
    # Training from a run takes as long as all others together.
    turns = [*[name for name in verbs if name != FROM_RUN] * 3, FROM_RUN]
    for number in range(num):
        verb = turns[number % len(turns)]
        yield record.Trial(f"{number:04d} {verb}", partial(_trial, folder, sound, verbs[verb], number, seed))


def _prepare(setup: Setup) -> None:
    os.environ.update(runs.environment(setup))
    os.chdir(runs.ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))


def _write_examples(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_EXAMPLES, 8, 8), np.uint8)
    np.savez(folder / "examples.npz", x=images, y=np.arange(NUM_EXAMPLES))
    Image.fromarray(images[0]).save(folder / "example.png")


def _commands(setup: Setup, folder: Path) -> dict[str, list[str]]:
    """Return the words of each verb that reads a run folder."""
    run, out = str(folder / "run"), str(folder / "out")
    examples, small = str(folder / "examples.npz"), ["--batch-size", str(NUM_EXAMPLES)]
    return {
        "train": ["train", *runs.command(setup, KIND, folder / "run")[3:]],
        "predict": ["predict", "--run", run, str(folder / "example.png"), *small],
        "evaluate": ["evaluate", "--run", run, "--data", examples, *small],
        "features": ["features", "--run", run, "--data", examples, "--out", f"{out}/features.npz", *small],
        "fuse": [
            "fuse",
            "--runs",
            run,
            str(folder / "sound"),
            "--method",
            "uniform",
            "--out",
            f"{out}/fused",
        ],
        "inspect": ["weights", "inspect", run],
        FROM_RUN: [
            *[
                "train",
                "--config",
                f"configs/ft.py:{run}",
                "--config.data.name",
                "arrays",
                "--workdir",
                f"{out}/next",
            ],
            *[
                "--config.data.path",
                examples,
                "--config.train.steps=1",
                "--config.train.batch_size=2",
                "--config.data.val_fraction=0",
            ],
        ],
    }


def _trial(folder: Path, sound: Path, words: list[str], number: int, seed: int) -> dict[str, Any]:
    rng = record.generator(seed, "folders", number)
    for name in ("run", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(sound, folder / "run", symlinks=True)
    (folder / "out").mkdir()
    name = rng.choices(NAMES, WEIGHTS)[0]
    how, content = mutations.mutated(rng, (sound / name).read_bytes())
    (folder / "run" / name).write_bytes(content)
    code, shown = _command(words)
    faults = _faults(code, shown)
    found = {
        "file": name,
        "change": how,
        "code": code,
        "last_line": runs.last_line(shown)[:300],
        "faults": faults,
    }
    if faults:
        kept = folder / f"kept{number:04d}-{name}"
        kept.write_bytes(content)
        found |= {"shown": shown[-2000:], "kept": str(kept), "words": words}
    return found


def _faults(code: int | str | None, shown: str) -> list[str]:
    last = runs.last_line(shown)
    if code not in (0, 2):
        return [f"{code}: {last[:200]}"]
    if runs.TRACEBACK in shown:
        return [f"a traceback is on the screen: {last[:200]}"]
    if code == 2 and (not last.startswith("jtl: error: ") or shown.count("jtl: error: ") != 1):
        return [f"exit code 2 without one line of error at the end: {last[:200]}"]
    return [f"a line of {len(last)} characters"] if code == 2 and len(last) > 1500 else []


def _command(words: list[str]) -> tuple[int | str | None, str]:
    """Run a command in this process; return its exit code, or the error that came instead, and its screen."""
    from jtl import cli

    screen = io.StringIO()
    with alarm(), contextlib.redirect_stderr(screen), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as ended:
            return ended.code, screen.getvalue()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return f"{type(error).__name__}: {str(error)[:200]}", screen.getvalue()
    return None, screen.getvalue()
