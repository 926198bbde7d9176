"""Training in two processes of four CPU devices each, as real processes that meet over a port."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "train.steps": "8",
    "train.eval_every": "4",
    "train.checkpoint_every": "1",
    "train.batch_size": "16",
    "train.log_every": "1",
    "model.dim": "128",
    "model.mlp_dim": "256",
}
LIMIT_SECONDS = 600.0
FAILING = """
import sys
from jtl import cli
from jtl.training import dispatch
def failing(self, number, state, batch):
    raise RuntimeError("as this test wants it")
dispatch.Dispatches.program = failing
cli.main(verb="train")
"""
# Process 1 waits for its third batch for ever.
HANGING = """
import threading
from jtl import cli
from jtl.training import dispatch
spans = dispatch.Dispatches.spans
def blocking(self, start, state):
    for number, span in enumerate(spans(self, start, state)):
        if number == 2:
            threading.Event().wait()
        yield span
dispatch.Dispatches.spans = blocking
cli.main(verb="train")
"""
# Process 1 is told to stop inside of its compiler.
STOPPED_COMPILING = """
import os
import signal
from jtl import cli
from jtl.training import dispatch
apart = dispatch.interruptibly
def stopped(call):
    def compile():
        os.kill(os.getpid(), signal.SIGTERM)
        return call()
    return apart(compile)
dispatch.interruptibly = stopped
cli.main(verb="train")
"""
# Several programs of one machine, of which each takes seconds to start.
pytestmark = pytest.mark.slow


class Process(NamedTuple):
    """A process, and where what it shows goes."""

    process: subprocess.Popen[bytes]
    screen: Path

    def shown(self) -> str:
        return self.screen.read_text(errors="replace")


def start(
    folder: Path, num: int, devices: int, mesh: str = "0,0,1", code: str = "", **more: str
) -> list[Process]:
    """Start the processes of a run in `folder`/run; the last of them runs `code`, where there is any."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {**SETTINGS, "sharding.mesh": mesh, **more}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    words = ["--config", "configs/smoke.py", "--workdir", str(folder / "run"), *flags]
    found = []
    for number in range(num):
        given = ["--coordinator", f"127.0.0.1:{port}", f"--num-processes={num}", f"--process-id={number}"]
        begin = ["-c", code] if code and number == num - 1 else ["-m", "jtl.main"]
        flag = f"--xla_force_host_platform_device_count={devices}"
        screen = folder / f"{time.monotonic_ns()}.screen"
        with screen.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *begin, *words, *given],
                stdout=file,
                stderr=file,
                env={**os.environ, "XLA_FLAGS": flag},
                cwd=ROOT,
            )
        found.append(Process(process, screen))
    return found


def codes(processes: Sequence[Process]) -> list[int | None]:
    """Return how the processes end."""
    try:
        return [each.process.wait(LIMIT_SECONDS) for each in processes]
    finally:
        for each in processes:
            each.process.kill()


def done(folder: Path, num: int, devices: int, mesh: str = "0,0,1") -> Path:
    """Run to the end and return the run folder."""
    folder.mkdir(exist_ok=True)
    processes = start(folder, num, devices, mesh)
    assert codes(processes) == [0] * num, [each.shown()[-2000:] for each in processes]
    return folder / "run"


def numbers(run: Path) -> list[dict[str, Any]]:
    """Return the lines of numbers without their times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with eight devices."""
    return done(tmp_path_factory.mktemp("alone"), 1, 8)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes, its state cut along fsdp and tensor."""
    return done(tmp_path_factory.mktemp("together"), 2, 4, "1,4,2")


def test_two_processes_train_and_measure_as_one_does(alone: Path, together: Path) -> None:
    assert_close(numbers(together), numbers(alone))
    ours, theirs = (json.loads((run / "val/metrics.json").read_text()) for run in (together, alone))
    assert ours["num_examples"] == theirs["num_examples"]
    assert ours["metrics"]["accuracy"] == theirs["metrics"]["accuracy"]


def test_one_process_writes_the_run_folder_and_the_others_a_log(together: Path) -> None:
    about = json.loads((together / "meta.json").read_text())
    assert about["num_processes"] == 2
    assert "sharding.mesh=(1, 4, 2)" in (together / "logs/process-1.log").read_text().replace(
        "mesh=", "sharding.mesh="
    )
    screens = [path.read_text() for path in sorted(together.parent.glob("*.screen"))]
    assert "step 8: val/accuracy" in screens[0]
    assert screens[1] == ""
    assert len(numbers(together)) == 8 + 2
    assert sorted(path.name for path in (together / "checkpoints").iterdir())[-1] == "8"


def test_signal_to_one_stops_both_at_one_step_and_another_number_of_processes_goes_on(
    tmp_path: Path, alone: Path
) -> None:
    processes = start(tmp_path, 2, 4, "1,8,1")
    while len(processes[0].shown().split("step 1/8")) < 2 and processes[0].process.poll() is None:
        time.sleep(0.01)
    processes[1].process.send_signal(signal.SIGTERM)
    assert codes(processes) == [75, 75], [each.shown()[-2000:] for each in processes]
    assert summary(tmp_path / "run")["status"] == "preempted"
    assert 0 < summary(tmp_path / "run")["steps"] <= 8
    run = done(tmp_path, 1, 4)
    assert_close(numbers(run), numbers(alone))
    assert "resumed elsewhere (device '8 x cpu', now '4 x cpu'" in (run / "meta.json").read_text()


def test_process_that_is_killed_ends_the_other_which_says_so_and_the_repeat_ends_in_the_same_bits(
    tmp_path: Path, together: Path
) -> None:
    processes = start(tmp_path, 2, 4, "1,4,2")
    while len(processes[0].shown().split("step 1/8")) < 2 and processes[0].process.poll() is None:
        time.sleep(0.01)
    processes[1].process.kill()
    assert codes(processes) == [75, -signal.SIGKILL]
    assert "jtl: process 1 of 2 (pid" in processes[0].shown()
    assert "is lost: no sign of life" in processes[0].shown()
    assert summary(done(tmp_path, 2, 4, "1,4,2"))["digest"] == summary(together)["digest"]


def test_damaged_checkpoint_is_set_aside_by_one_process_for_both(tmp_path: Path, together: Path) -> None:
    run = Path(shutil.copytree(together, tmp_path / "run"))
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    path = max(
        (run / "checkpoints/8/state").rglob("*"), key=lambda each: each.is_file() and each.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done(tmp_path, 2, 4, "1,4,2")
    assert "checkpoint 8 is damaged" in (run / "meta.json").read_text()
    assert (run / "damaged").is_dir()
    assert summary(run)["digest"] == summary(together)["digest"]
    assert summary(run)["goodput"]["attempts"] == 2


def test_frozen_parts_that_are_cut_are_kept_once_and_examples_on_the_devices_are_those_of_one_process(
    tmp_path: Path,
) -> None:
    more = {"strategy.name": "lora", "inputs.route": "device"}
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, num, devices, mesh in ((alone, 1, 8, "0,0,1"), (together, 2, 4, "1,8,1")):
        folder.mkdir()
        processes = start(folder, num, devices, mesh, **more)
        assert codes(processes) == [0] * num, [each.shown()[-2000:] for each in processes]
        assert "inputs.route: device (as set)" in processes[0].shown()
    assert_close(numbers(together / "run"), numbers(alone / "run"))
    run, before = together / "run", numbers(together / "run")
    (path,) = run.glob("frozen-*")
    # What no step moves is the same bits however it was cut.
    assert path.read_bytes() == next((alone / "run").glob("frozen-*")).read_bytes()
    for name in ("summary.json", "model.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints/8")
    processes = start(together, 1, 4, **more)
    assert codes(processes) == [0], processes[0].shown()[-2000:]
    assert_close(numbers(run), before)
    assert list(run.glob("frozen-*")) == [path]


def test_error_in_one_ends_both_with_its_words(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, 4, code=FAILING)
    assert codes(processes) == [1, 1]
    assert "jtl: process 1 of 2 (on " in processes[0].shown()
    assert "failed: RuntimeError('as this test wants it')" in processes[0].shown()
    log = (tmp_path / "run/logs/process-1.log").read_text()
    assert log.rstrip().endswith("please report it with the lines above")


def test_fault_of_the_user_is_one_line_and_ends_both(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, 4, **{"train.batch_size": "17"})
    assert codes(processes) == [2, 2]
    assert "jtl: error: train.batch_size is 17; expected a multiple of 8" in processes[0].shown()


def test_process_that_hangs_ends_both_with_76_and_is_named(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, 4, code=HANGING, **{"train.hang_seconds": "8"})
    assert codes(processes) == [76, 76], [each.shown()[-2000:] for each in processes]
    lines = [line for line in processes[0].shown().splitlines() if line]
    assert lines[-1].startswith("jtl: process 1 of 2 (on ")
    assert "hung: no progress in the wait for data for " in lines[-1]
    assert lines[-1].endswith("what was saved is kept: repeat the command to go on")
    stacks = (tmp_path / "run/logs/hung-1.txt").read_text()
    assert stacks.startswith("thread 'MainThread', the innermost call first:")
    assert "in blocking" in stacks
    assert "2" in [path.name for path in (tmp_path / "run/checkpoints").iterdir()]


def test_loss_that_is_not_finite_ends_both_and_the_examples_of_both_are_named(tmp_path: Path) -> None:
    more = {"optim.name": "sgd", "optim.learning_rate": "1e38", "optim.clip_norm": "0", "optim.warmup": "0"}
    processes = start(tmp_path, 2, 4, **more, **{"train.checkpoint_every": "4"})
    assert codes(processes) == [2, 2], [each.shown()[-2000:] for each in processes]
    (entry,) = json.loads((tmp_path / "run/nonfinite.json").read_text())["steps"]
    assert len(entry["examples"]["train"]) == 16
    first = repr(entry["examples"]["train"][0])
    log = (tmp_path / "run/logs/process-1.log").read_text()
    for text in (processes[0].shown(), log):
        assert f"at step {entry['step']}; expected finite numbers. Its examples: {first}" in text


def test_signal_to_one_that_compiles_its_first_step_ends_both_at_once(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, 4, code=STOPPED_COMPILING)
    assert codes(processes) == [75, 75], [each.shown()[-2000:] for each in processes]
    assert "jtl: process 1 of 2 (on " in processes[0].shown()
    assert "was stopped by SIGTERM" in processes[0].shown()
    assert not any((tmp_path / "run/checkpoints").iterdir())


def test_two_processes_train_the_baseline_too(tmp_path: Path, together: Path) -> None:
    more = {"baseline": "true", "train.steps": "2", "train.eval_every": "2", "model.weights": str(together)}
    processes = start(tmp_path, 2, 4, **more)
    assert codes(processes) == [0, 0], [each.shown()[-2000:] for each in processes]
    found = [summary(tmp_path / each) for each in ("run", "run/scratch")]
    assert [each["status"] for each in found] == ["finished", "finished"]
    assert found[0]["digest"] != found[1]["digest"]
    assert "from scratch" in processes[0].shown()
