"""The runs that trials are made of: tiny trainings of several kinds, as real processes that are watched."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
NUM_STEPS = 12
EVAL_EVERY = 6
NUM_TARGET = 200
SHARED = {
    "train.steps": str(NUM_STEPS),
    "train.eval_every": str(EVAL_EVERY),
    "train.batch_size": "16",
    "train.eval_batch_size": "128",
    "train.checkpoint_every": "1",
    "train.log_every": "1",
}
# Recipe and settings of each kind; `{target}` stands for the examples of another domain.
KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "full": ("configs/smoke.py", {}),
    "probe_ema_mixup": (
        "configs/ft.py",
        {
            "strategy.name": "probe",
            "optim.learning_rate": "5e-3",
            "optim.ema": "0.9",
            "augment.mixup_alpha": "0.3",
        },
    ),
    "gradual": ("configs/transfer.py:gradual", {}),
    "lora": ("configs/transfer.py:lora", {}),
    "mcc": ("configs/transfer.py:mcc", {"data.target": "{target}"}),
}
TRACEBACK = "Traceback (most recent call last)"
POLL_SECONDS = 0.004
GRACE_SECONDS = 3.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Setup(NamedTuple):
    """Where trials are made: everything under `folder`, compiled programs shared where `is_shared`."""

    folder: Path
    is_shared: bool = True

    @property
    def target(self) -> Path:
        """The examples of another domain."""
        return self.folder / "target.npz"


class Started(NamedTuple):
    """A process with a session of its own: what it shows goes to the file `screen`, its run to `workdir`."""

    process: subprocess.Popen[bytes]
    screen: Path
    workdir: Path
    began: float


def write_target(setup: Setup) -> None:
    """Write the examples of another domain: scikit-learn's last digits, dark on light."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (255 - digits.images[-NUM_TARGET:] * (255 / 16)).astype(np.uint8)
    np.savez(setup.target, x=images, y=digits.target[-NUM_TARGET:])


def command(setup: Setup, kind: str, workdir: Path, more: Mapping[str, str] | None = None) -> list[str]:
    """Return the words that train a kind of run in `workdir`, with `more` settings."""
    recipe, own = KINDS[kind]
    settings = {**SHARED, **own, **(more or {})}
    flags = [f"--config.{name}={value.format(target=setup.target)}" for name, value in settings.items()]
    words = [sys.executable, "-m", "jtl.main", "--config", recipe, "--workdir", str(workdir)]
    return [*words, *flags]


def environment(setup: Setup) -> dict[str, str]:
    """Return what processes of trials inherit: one processor, and one folder of compiled programs."""
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    if setup.is_shared:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(setup.folder / "compiled")
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return variables


def start(
    words: Sequence[str], workdir: Path, screen: Path, variables: Mapping[str, str], cwd: Path = ROOT
) -> Started:
    """Start a process with a session of its own; what it shows is added to `screen`."""
    began = time.monotonic()
    with screen.open("ab") as shown:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=shown,
            env=dict(variables),
            cwd=cwd,
            start_new_session=True,
        )
    return Started(process, screen, workdir, began)


def wait(started: Started, seconds: float) -> int | None:
    """Return the exit code once the process ends; None, with all of its session killed, where it does not."""
    try:
        return started.process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_session(started)
        started.process.wait()
        return None


def session(started: Started) -> list[int]:
    """Return the processes of the session that are alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == started.process.pid and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def left(started: Started) -> list[int]:
    """Return what is alive of an ended process's session after a short grace, and kill it."""
    until = time.monotonic() + GRACE_SECONDS
    while (found := session(started)) and time.monotonic() < until:
        time.sleep(0.05)
    kill_session(started)
    return found


def kill_session(started: Started) -> None:
    """Send SIGKILL to all that is left of the session."""
    for process in session(started):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def cpu_seconds(started: Started) -> float:
    """Return the processor seconds that the main process has used: a clock that a busy machine slows, too."""
    try:
        text = Path(f"/proc/{started.process.pid}/stat").read_text()
    except OSError:
        return float("inf")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def waited_seconds(started: Started) -> dict[str, float]:
    """Return how long each thread of the main process has waited for a processor, which others had."""
    found = {}
    for path in Path(f"/proc/{started.process.pid}/task").glob("*/schedstat"):
        try:
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            continue
    return found


def catches(started: Started, number: int) -> bool:
    """Return whether the process has a handler of its own for a signal."""
    try:
        text = Path(f"/proc/{started.process.pid}/status").read_text()
    except OSError:
        return False
    masks = [line.split()[1] for line in text.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) >> (number - 1) & 1)


def screen_text(started: Started) -> str:
    """Return all that the screen shows so far."""
    return started.screen.read_text(encoding="utf-8", errors="replace")


def last_line(text: str) -> str:
    """Return the last line of a screen that says something.

    >>> last_line("step 1\\rstep 2\\njtl: error: no\\n\\n")
    'jtl: error: no'
    """
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")
