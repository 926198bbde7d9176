"""The trials of faults: what they call the same, when they disturb, and how they change files."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import (
    bits,
    inputs,
    kills,
    machine,
    moments,
    mutations,
    outcome,
    record,
    runs,
    signals,
    together,
)
from benchmarks.faults.alarm import NoEndError
from benchmarks.faults.moments import Clock
from benchmarks.faults.runs import Setup, Started
from jtl.errors import UserError
from jtl.training import config

CLOCK = Clock(spoke=1.0, stepped=3.0, evaluating=5.0, last_step=7.0, weights=8.0, summed=9.0, ended=10.0)
IMPORTS = "import signal, subprocess, sys, time"
SUMMARY = {"status": "finished", "steps": 12, "digest": "a", "best": {}, "final": {"loss": 1.0}, "seconds": 3}


def _run_folder(folder: Path) -> Path:
    (folder / "checkpoints" / "12").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 2.0}\n{"step": 9}\n')
    return folder


def _change_summary(folder: Path, **values: Any) -> None:
    (folder / "summary.json").write_text(json.dumps(SUMMARY | values))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "digest": lambda folder: _change_summary(folder, digest="b"),
    "final": lambda folder: _change_summary(folder, final={"loss": 1.0000001}),
    "status": lambda folder: _change_summary(folder, status="preempted"),
    "weights": lambda folder: (folder / "model.safetensors").write_bytes(b"other"),
    "numbers": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n'),
    "checkpoints": lambda folder: (folder / "checkpoints" / "11").mkdir(),
    "files": lambda folder: (folder / ".left.part").write_text(""),
    "unreadable": lambda folder: (folder / "summary.json").unlink(),
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_a_run_is_compared(field: str, tmp_path: Path) -> None:
    expected = outcome.outcome(_run_folder(tmp_path / "a"))
    folder = _run_folder(tmp_path / "b")
    CHANGES[field](folder)
    assert [fault.partition(":")[0] for fault in outcome.against(folder, expected)] == [field]


def test_seconds_of_a_run_are_not_compared(tmp_path: Path) -> None:
    expected = outcome.outcome(_run_folder(tmp_path / "a"))
    folder = _run_folder(tmp_path / "b")
    _change_summary(folder, seconds=99)
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 8.0, "loss": 2.0}\n{"step": 9}\n')
    assert outcome.against(folder, expected) == []


def _places(trials: Iterable[record.Trial], place: int) -> Counter[str]:
    return Counter(trial.run.args[place].__name__ for trial in trials)  # type: ignore[attr-defined]


def test_a_third_of_the_kills_is_in_the_final_report_and_every_kind_meets_every_place(tmp_path: Path) -> None:
    made = list(kills.trials(Setup(tmp_path), 60, 0))
    found = _places(made, 2)
    assert found["in_report"] + found["after_weights"] == 20
    pairs = {(trial.run.args[1], trial.run.args[2]) for trial in made}  # type: ignore[attr-defined]
    assert len(pairs) == len(runs.KINDS) * len(kills.PLACES)


def test_signals_meet_every_place_and_every_kind(tmp_path: Path) -> None:
    made = list(signals.trials(Setup(tmp_path), 40, 0))
    for texts in (signals.PLACES, runs.KINDS, [each.name for each in signals.SIGNALS]):
        assert all(any(text in trial.name for trial in made) for text in texts)
    pairs = {(trial.run.args[2], trial.run.args[5]) for trial in made}  # type: ignore[attr-defined]
    assert len(pairs) == len(signals.PLACES) * len(signals.SIGNALS)


def test_trials_of_a_seed_are_the_same_again(tmp_path: Path) -> None:
    rng, again, other = (record.generator(seed, "kills", 3) for seed in (0, 0, 1))
    drawn = [[place(each, CLOCK) for place in kills.PLACES] for each in (rng, again, other)]
    named = [[(moment.name, moment.delay) for moment in each] for each in drawn]
    assert named[0] == named[1] != named[2]


@pytest.mark.parametrize("kind", runs.KINDS)
def test_every_kind_of_run_reads(kind: str, tmp_path: Path) -> None:
    words = runs.command(Setup(tmp_path), kind, tmp_path / "run")
    flags = [word.removeprefix("--config.").split("=", 1) for word in words if word.startswith("--config.")]
    settings = config.read(words[words.index("--config") + 1], [(name, value) for name, value in flags])
    assert settings.train.steps == runs.NUM_STEPS
    assert settings.train.checkpoint_every == 1


def test_together_are_two_and_three_new_and_resumed_killed_and_not(tmp_path: Path) -> None:
    made = [trial.name for trial in together.trials(Setup(tmp_path), 20, 0)]
    for text in ("2 processes", "3 processes", "new", "resumed", "the owner killed", "the owner finishes"):
        assert 6 <= sum(text in name for name in made) <= 14


def test_mutations_change_what_they_are_given_and_hang_on_the_seed_alone() -> None:
    content = json.dumps({"model": {"dim": 32, "names": ["a", "b"]}, "seed": 0}).encode()
    made = [[mutations.mutated(random.Random(seed), content) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(changed != content for _, changed in made[0]) > 180
    assert {how for how, _ in made[0]} == {change.__name__.strip("_") for change in mutations.CHANGES}


def test_mutations_of_lines_change_one_line() -> None:
    content = b'{"step": 1}\n{"step": 2}\n'
    changed = {mutations._missing(random.Random(seed), content) for seed in range(20)}
    assert changed == {b'{}\n{"step": 2}\n', b'{"step": 1}\n{}\n'}


def test_disturbances_have_names_of_their_own(tmp_path: Path) -> None:
    made = [trial.name for trial in machine.trials(Setup(tmp_path), 99, 0)]
    assert len(set(made)) == len(made) == len(machine.DISTURBANCES)


def _sleeper(tmp_path: Path, code: str) -> Started:
    words = [
        sys.executable,
        "-c",
        f"import signal, subprocess, sys, time\n{code}\nprint('up', flush=True)\ntime.sleep(60)",
    ]
    started = runs.start(words, tmp_path / "run", tmp_path / "screen", {})
    assert moments.reach(started, moments.Moment("up", moments.spoken), 60)
    return started


def test_processes_that_are_left_are_found_and_end(tmp_path: Path) -> None:
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = _sleeper(tmp_path, child)
    assert len(runs.session(started)) == 2
    started.process.kill()
    started.process.wait()
    assert len(runs.session(started)) == 1
    runs.kill_session(started)


def test_handlers_of_a_process_are_seen(tmp_path: Path) -> None:
    started = _sleeper(tmp_path, "signal.signal(signal.SIGTERM, lambda *_: None)")
    assert [runs.catches(started, number) for number in (signal.SIGTERM, signal.SIGHUP)] == [True, False]
    assert runs.wait(started, 0.0) is None
    assert runs.session(started) == []


def test_record_counts_what_was_right_and_keeps_what_a_trial_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> dict[str, Any]:
        raise OSError("no such thing")

    made = [record.Trial("good", lambda: {"faults": []}), record.Trial("bad", broken)]
    assert record.run_all("kills", made, tmp_path / "r.json", processes=1, about={"seed": 0}) == 1
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["num_trials"], found["num_right"], found["seed"]) == (2, 1, 0)
    assert "no such thing" in found["trials"][1]["faults"][0]
    assert "1 of 2 right" in capsys.readouterr().out


def _two_lines(path: Path) -> None:
    raise UserError(f"{path.name} is damaged\nin two lines")


def _bug(path: Path) -> None:
    raise KeyError(path.name)


def _endless(path: Path) -> None:
    raise NoEndError("no end after 60 s")


@pytest.mark.parametrize(
    ("read", "fault"),
    [(_two_lines, "no line: 'a is damaged"), (_bug, "KeyError: 'a'"), (_endless, "NoEndError: no end after")],
)
def test_what_is_neither_a_result_nor_one_line_is_a_fault(read: Any, fault: str, tmp_path: Path) -> None:
    kind = inputs.Kind(b"content", mutations.damaged, read, 1)
    ((name, run),) = inputs.trials_of({"a": kind}, tmp_path, 1, 0)
    found = run()
    assert name == "0000 a"
    assert [each[: len(fault)] for each in found["faults"]] == [fault]
    assert (tmp_path / "kept00000-a").exists()


def test_inputs_are_damaged_alike_by_a_seed_and_a_sound_end_is_right(tmp_path: Path) -> None:
    seen: list[bytes] = []
    kind = inputs.Kind(bytes(range(200)), mutations.damaged, lambda path: seen.append(path.read_bytes()), 1)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for trial in inputs.trials_of({"a.png": kind}, tmp_path / folder, 20, 3):
            assert trial.run()["faults"] == []
    assert seen[:20] == seen[20:]
    assert len(set(seen)) == 20
    assert kind.content not in seen


@pytest.mark.slow
def test_bit_that_changes_a_value_and_is_not_named_is_a_fault_and_the_folder_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jtl.verbs import checkpoint

    path = tmp_path / "checkpoints" / "12" / "state"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sound")
    seen = []
    monkeypatch.setattr(bits, "_sound", lambda folder: "sound")

    def verified(found: dict[str, str], values: str) -> list[str]:
        monkeypatch.setattr(checkpoint, "verify", lambda run: seen.append(path.read_bytes()) or found)
        monkeypatch.setattr(bits, "_values", lambda folder: values)
        return bits._trial(tmp_path, 0, 0)["faults"]

    assert verified({"12": "'state' does not match its digest"}, "other") == []
    assert verified({"12": ""}, "sound") == []
    assert verified({"12": ""}, "other") == ["the flipped bit of 12/state changed a value and was not found"]
    assert b"sound" not in seen
    assert path.read_bytes() == b"sound"


def test_every_kind_of_input_is_tried(tmp_path: Path) -> None:
    words = ["inputs", "--num", "80", "--out", str(tmp_path / "r.json"), "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.faults", *words], cwd=runs.ROOT, check=False)
    found = json.loads((tmp_path / "r.json").read_text())
    assert (done.returncode, found["num_right"]) == (0, 80)
    kinds = {trial["name"].split()[1] for trial in found["trials"]}
    assert {"a.png", "a.csv", "images.parquet", "tokenizer.json", "config.json", "a.pth"} <= kinds


def test_the_command_says_what_it_takes() -> None:
    words = [sys.executable, "-m", "benchmarks.faults", "nothing", "--out", "x"]
    done = subprocess.run(words, cwd=runs.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "folders" in done.stderr
