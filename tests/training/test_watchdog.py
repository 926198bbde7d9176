"""A run that hangs: what counts as that, what is shown of it, and how it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

from jtl import distributed, signals
from jtl.data import workers
from jtl.report.summary import Phases
from jtl.training import watchdog
from jtl.training.watchdog import Hang, Watchdog

LIMIT = 10.0


class World:
    """A run in a phase, its watchdog, and the seconds that pass."""

    def __init__(self, others: Mapping[int, str] | None = None) -> None:
        self.now, self.phases, self.others = 0.0, Phases(), dict(others or {})
        clock, asked = lambda: self.now, lambda: self.others
        self.watchdog = Watchdog(self.phases, LIMIT, clock=clock, others=asked)

    def pass_seconds(self, seconds: float) -> Hang | None:
        """Let seconds pass, and look after each."""
        found = None
        for _ in range(round(seconds)):
            self.now += 1.0
            found = found or self.watchdog.look()
        return found


@pytest.mark.parametrize("phase", watchdog.WATCHED)
def test_what_makes_no_progress_for_the_limit_hangs(phase: str) -> None:
    world = World()
    with world.phases.measure(phase):
        assert world.pass_seconds(LIMIT) is None
        found = world.pass_seconds(2)
    assert found is not None
    assert (found.phase, found.limit) == (phase, LIMIT)
    assert found.text().startswith(f"no progress in {watchdog.WATCHED[phase]} for 1")
    assert found.text().endswith(" s (limit 10 s, train.hang_seconds)")


def test_what_moves_does_not_hang_however_long_it_takes() -> None:
    world = World()
    with world.phases.measure("evaluate"):
        for _ in range(20):
            assert world.pass_seconds(LIMIT - 2) is None
            world.phases.move()
    for _ in range(20):
        with world.phases.measure("step"):
            assert world.pass_seconds(LIMIT - 2) is None


@pytest.mark.parametrize("phase", ["compile", "load", "features", "explain"])
def test_compiling_and_all_that_is_not_watched_may_take_any_time(phase: str) -> None:
    world = World()
    with world.phases.measure("step"), world.phases.measure(phase):
        assert world.pass_seconds(100 * LIMIT) is None
    assert world.pass_seconds(100 * LIMIT) is None


def test_step_may_take_ten_times_as_long_as_the_slowest_before_it() -> None:
    world = World()
    with world.phases.measure("step"):
        assert world.pass_seconds(8) is None
    with world.phases.measure("step"):
        assert world.pass_seconds(75) is None
        found = world.pass_seconds(25)
    assert found is not None
    assert found.limit == pytest.approx(80, abs=20)
    # Of another phase nothing is known yet.
    with world.phases.measure("checkpoint"):
        found = world.pass_seconds(LIMIT + 2)
    assert found is not None
    assert found.limit == LIMIT


def test_time_in_which_the_process_itself_was_stopped_does_not_count() -> None:
    world = World()
    with world.phases.measure("step"):
        assert world.pass_seconds(2) is None
        world.now += 1000
        assert world.watchdog.look() is None
        assert world.pass_seconds(LIMIT) is not None


def test_program_that_an_evaluation_compiles_on_its_way_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax._src import compiler

    seen, really = [], compiler.backend_compile_and_load

    def compile_and_look(*given: Any, **more: Any) -> Any:
        seen.append(watchdog.is_compiling())
        return really(*given, **more)

    monkeypatch.setattr(compiler, "backend_compile_and_load", compile_and_look)
    assert not watchdog.is_compiling()
    jax.jit(lambda x: x * 3 + 41.5)(1.5)
    assert seen == [True]
    world = World()
    with world.phases.measure("evaluate"):
        monkeypatch.setattr(watchdog, "is_compiling", lambda: True)
        assert world.watchdog.doing() == "compile"
        assert world.pass_seconds(5 * LIMIT) is None
        monkeypatch.setattr(watchdog, "is_compiling", lambda: False)
        assert world.watchdog.doing() == "evaluate"
        assert world.pass_seconds(2 * LIMIT) is not None


@pytest.mark.parametrize("doing", ["compile", "load", ""])
def test_step_that_waits_for_another_process_that_is_not_watched_is_no_hang(doing: str) -> None:
    world = World(others={1: doing})
    with world.phases.measure("step"):
        assert world.pass_seconds(10 * LIMIT) is None
        world.others = {1: "step"}
        assert world.pass_seconds(3 * LIMIT) is not None


def test_of_several_processes_that_which_waits_for_data_ends_first() -> None:
    waiting, stepping = World(others={1: "step"}), World(others={0: "data_wait"})
    with waiting.phases.measure("data_wait"), stepping.phases.measure("step"):
        assert stepping.pass_seconds(LIMIT + 2) is None
        assert waiting.pass_seconds(LIMIT + 2) is not None
        assert stepping.pass_seconds(watchdog.DEFERENCE_SECONDS) is not None


def test_stacks_are_of_every_thread_and_name_what_it_is_in() -> None:
    is_over = threading.Event()

    def waits_for_the_test() -> None:
        is_over.wait()

    thread = threading.Thread(target=waits_for_the_test, name="reader of tests")
    thread.start()
    try:
        text = watchdog.stacks()
    finally:
        is_over.set()
        thread.join()
    assert text.startswith("thread 'MainThread', the innermost call first:\n")
    assert "thread 'reader of tests'" in text
    assert "waits_for_the_test" in text
    assert "test_stacks_are_of_every_thread_and_name_what_it_is_in" in text


# A training that stops its reader processes once it has reported its second step.
STOPPING = """
import multiprocessing
import os
import signal
from jtl import cli
from jtl.report.writer import Writer
report = Writer.scalars
def report_and_stop(self, step, values):
    report(self, step, values)
    if step == 2:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGSTOP)
Writer.scalars = report_and_stop
if __name__ == "__main__":
    cli.main(verb="train")
"""
READING = """
import time
from jtl.data import workers
def reads_for_ever():
    print("reading", flush=True)
    time.sleep(1000)
workers.show_stacks_when_asked()
reads_for_ever()
"""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that reads for ever, as a child of this one."""
    words = [sys.executable, "-c", READING]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        monkeypatch.setattr(multiprocessing, "active_children", lambda: [child])
        yield child
        child.kill()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="stacks of readers are kept on Linux alone")
def test_stacks_of_reader_processes_are_theirs_and_one_that_is_stopped_says_so(
    reader: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = workers.stacks()
    assert text.startswith(f"reader process {reader.pid} (S (sleeping)):\n")
    assert "in reads_for_ever" in text
    os.kill(reader.pid, signal.SIGSTOP)
    os.waitpid(reader.pid, os.WUNTRACED)
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 0.1)
    path = workers._stacks_of(reader.pid)
    assert path is not None
    os.truncate(path, 0)
    assert workers.stacks() == f"reader process {reader.pid} (T (stopped)):\ngave no stacks\n"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is shown, said to the other processes, and ended with, in place of doing it."""
    found: dict[str, Any] = {"shown": "", "codes": [], "left": []}

    def show(text: str) -> None:
        found["shown"] += text

    monkeypatch.setattr(watchdog, "_show", show)
    monkeypatch.setattr(watchdog.os, "_exit", found["codes"].append)
    monkeypatch.setattr(distributed, "leave", lambda *given: found["left"].append(given))
    return found


def test_command_that_hangs_ends_in_one_line_with_76_and_leaves_its_stacks(
    tmp_path: Path, ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = signals.StopRequest(lambda number: None)
    monkeypatch.setattr(signals, "current", lambda: request)
    monkeypatch.setattr(distributed, "doing_of_others", lambda: {1: "step"})
    watchdog.end(Hang("data_wait", 12.0, 10.0), tmp_path)
    path = tmp_path / "logs" / "hung-0.txt"
    assert "thread 'MainThread'" in path.read_text()
    assert ended["codes"] == [76]
    said = (
        f"hung: no progress in the wait for data for 12 s (limit 10 s, train.hang_seconds) (process 1 in "
        f"step); stacks: {path}"
    )
    assert ended["left"] == [(76, said)]
    assert ended["shown"].endswith(f"jtl: {said}; what was saved is kept: repeat the command to go on\n")


def test_process_that_is_no_commands_own_is_told_and_not_ended(tmp_path: Path, ended: dict[str, Any]) -> None:
    watchdog.end(Hang("step", 12.0, 10.0), tmp_path)
    assert "jtl: hung: no progress in a step for 12 s" in ended["shown"]
    assert ended["codes"] == []


def test_folder_that_does_not_take_the_stacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    found = watchdog._written(tmp_path / "logs" / "hung-0.txt", "stacks")
    assert found.startswith("above (")
    assert "hung-0.txt: " in found


def test_no_thread_watches_where_the_limit_is_0_and_none_is_left_behind(tmp_path: Path) -> None:
    def names() -> list[str]:
        return [each.name for each in threading.enumerate()]

    with watchdog.watching(0, tmp_path, Phases()):
        assert "jtl-watchdog" not in names()
    with watchdog.watching(1000, tmp_path, Phases()):
        (thread,) = [each for each in threading.enumerate() if each.name == "jtl-watchdog"]
    thread.join()


@pytest.mark.slow
def test_run_whose_reader_process_is_stopped_ends_with_76_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    program = tmp_path / "stopping.py"
    program.write_text(STOPPING)
    numbers = ("train.steps=60", "train.checkpoint_every=2", "train.eval_every=60", "train.hang_seconds=8")
    flags = [f"--config.{each}" for each in (*numbers, "inputs.workers=1", "inputs.prefetch=1")]
    words = [sys.executable, program, "--config", "configs/smoke.py", "--workdir", tmp_path / "run", *flags]
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    variables["PYTHONPATH"] = os.getcwd()
    # To a file: a pipe would stay open as long as a reader.
    with (tmp_path / "screen").open("w") as screen:
        done = subprocess.run(words, stdout=screen, stderr=screen, env=variables, check=False)
    shown = (tmp_path / "screen").read_text()
    assert done.returncode == 76, shown[-3000:]
    *_, last = shown.rstrip().splitlines()
    assert last.startswith("jtl: hung: no progress in the wait for data for ")
    assert "(T (stopped)):" in (tmp_path / "run/logs/hung-0.txt").read_text()
    assert "2" in [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
