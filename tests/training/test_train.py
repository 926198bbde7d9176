"""End to end on the embedded digits: what a run leaves behind, resuming, stopping, evaluation, faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.explain import overlays
from jtl.report import curves
from jtl.signals import Stopped
from jtl.training import config, finish, loop
from jtl.training import run as train
from jtl.training.checkpoint_faults import Damage
from jtl.verbs import evaluate

# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
# Only the run that all tests share draws its pictures: its fixture comes before that of a test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("without_pictures"),
]

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    "optim": {"learning_rate": 1e-2},
    "train": {"steps": 12, "batch_size": 64, "eval_every": 4, "eval_batch_size": 200, "log_every": 1},
    # Eight devices that share two cores are slow; what needs several asks for them.
    "sharding": {"devices": 1},
}


def _settings(**changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(TINY), overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the summary of a run of 12 steps, which explains its gallery."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return folder, train.run(_settings(), folder, explain=overlays.of_run)


def test_run_folder_holds_everything_a_run_makes(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "meta.json", "metrics.jsonl", "summary.json", "model.safetensors", "val"}
    expected |= {"attempts.jsonl"}
    pages = {"report.html", "report.json", "README.md", "curves.png"}
    assert expected | pages | {"tensorboard", "checkpoints", "attempts.jsonl"} == names
    assert json.loads((folder / "summary.json").read_text()) == result
    names = {path.name for path in (folder / "val").iterdir()}
    assert names == {"metrics.json", "confusion.png", "predictions.parquet", "gallery.json"}
    shown = json.loads((folder / "val" / "gallery.json").read_text())
    assert len({item["index"] for item in shown if item["overlay"]}) == 12
    assert result["seconds"]["explain"] > 0


def test_summary_has_the_agreed_names(finished: tuple[Path, dict[str, Any]]) -> None:
    _, result = finished
    assert result["status"] == "finished"
    assert result["steps"] == 12
    assert 0.0 <= result["final"]["val/accuracy"] <= 1.0
    assert result["best"]["step"] in (4, 8, 12)
    assert result["best"]["val/accuracy"] >= result["final"]["val/accuracy"]
    assert result["parameters"]["total"] == result["parameters"]["trainable"]
    assert len(result["digest"]) == 64
    for name in ("images_per_second", "data_wait_fraction", "seconds", "peak_memory_bytes", "weights"):
        assert name in result


def test_metrics_file_has_a_line_for_every_step_and_evaluation(finished: tuple[Path, dict[str, Any]]) -> None:
    series = curves.read(finished[0] / "metrics.jsonl")
    assert [step for step, _ in series["train/loss"]] == list(range(1, 13))
    assert [step for step, _ in series["val/accuracy"]] == [4, 8, 12]


def test_finished_run_is_not_run_again(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train.run(_settings(), folder) == result
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_run_killed_in_its_final_report_is_finished_by_the_same_command(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    plotted: list[bool] = []
    is_summed = (tmp_path / "run" / "summary.json").exists
    monkeypatch.setattr("jtl.report.curves.plot", lambda *_: plotted.append(is_summed()))
    again = train.run(_settings(), tmp_path / "run")
    same = ("status", "steps", "digest", "best", "final")
    assert {name: again[name] for name in same} == {name: result[name] for name in same}
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()
    # The summary, which says that nothing is left to do, comes last.
    assert plotted == [False]


def test_run_that_has_lost_its_checkpoints_is_not_begun_anew(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoints' has no checkpoint; put the checkpoints back"):
        train.run(_settings(), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_folder_of_another_configuration_is_refused_and_kept(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(
        UserError, match=r"belongs to another configuration \(optim.learning_rate: 0.01 -> 0.5\)"
    ):
        train.run(_settings(optim__learning_rate=0.5), folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_folder_in_which_no_step_was_made_takes_the_corrected_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise UserError("images have 5 channels")

    monkeypatch.setattr(loop, "run", stop)
    for learning_rate in (0.5, 0.1):
        with pytest.raises(UserError, match="images have 5 channels"):
            train.run(_settings(optim__learning_rate=learning_rate), tmp_path / "run")
    assert "made no step: it starts as it is configured now" in capsys.readouterr().err
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["optim"]["learning_rate"] == 0.1


def test_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and no run folder"):
        train.run(_settings(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("batch_size", "num_devices"), [(7, 1), (1000, 1), (50, 8)])
def test_evaluation_of_the_run_counts_every_example_once_and_gives_its_numbers(
    finished: tuple[Path, dict[str, Any]], batch_size: int, num_devices: int
) -> None:
    folder, result = finished
    overrides = [("sharding.devices", str(num_devices))]
    found = evaluate.run(run_folder=str(folder), split="val", batch_size=batch_size, overrides=overrides)
    assert found["num_examples"] == 359
    assert found["metrics"]["accuracy"] == result["best"]["val/accuracy"]
    assert found["metrics"]["loss"] == pytest.approx(result["best"]["val/loss"], rel=1e-5)


@pytest.mark.slow
def test_same_command_gives_the_same_bits(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    again = train.run(_settings(inputs__threads=1), tmp_path / "again")
    assert again["digest"] == finished[1]["digest"]
    assert again["final"] == finished[1]["final"]


def test_command_that_failed_leaves_the_folder_free_for_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        train.run(_settings(model__weights="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_training_data_under_the_same_settings_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8)
    labels = np.arange(80) % 4
    changes = {"data__name": "arrays", "data__path": tmp_path / "data.npz", "train__batch_size": 16}
    settings = _settings(**changes, train__steps=2)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    train.run(settings, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    np.savez(tmp_path / "data.npz", images=images[:60], labels=labels[:60])
    with pytest.raises(
        UserError, match=r"the training data changed since run .* began: 64 examples of 4 classes"
    ):
        train.run(settings, tmp_path / "run")


@pytest.mark.slow
def test_damaged_best_checkpoint_leaves_a_run_that_reports_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Damage("leaf 'a' does not match its digest")

    monkeypatch.setattr(train.Checkpoints, "restore_values", refuse)
    settings = _settings(optim__learning_rate=1e-9, train__monitor="loss")
    monkeypatch.setattr(finish.progress, "best", lambda history, *_, **__: history[0] if history else None)
    result = train.run(settings, tmp_path / "run")
    assert result["status"] == "finished"
    assert result["best"]["step"] == 12
    about = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert about["notes"][-1].startswith("checkpoint 4, the best, is damaged (leaf 'a' does not match")


def test_early_stopping_keeps_the_best_step(tmp_path: Path) -> None:
    settings = _settings(train__patience=2, optim__learning_rate=1e-9, train__steps=200)
    result = train.run(settings, tmp_path / "run")
    assert result["status"] == "stopped_early"
    assert result["steps"] == 12
    assert result["best"]["step"] == 4


def test_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    settings = _settings(
        optim__name="sgd", optim__learning_rate=1e38, optim__clip_norm=0.0, optim__warmup=0.0
    )
    for _ in range(2):
        with pytest.raises(UserError, match=r"the loss is (nan|inf) .* at step \d+; expected finite numbers"):
            train.run(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_parameters_that_are_not_finite_after_the_last_step_are_no_finished_run(tmp_path: Path) -> None:
    """The loss and the gradient of a step are those before its update."""
    changes = {
        "optim__name": "sgd",
        "optim__learning_rate": 1e38,
        "optim__clip_norm": 0.0,
        "optim__warmup": 0.0,
    }
    settings = _settings(**changes, optim__head_multiplier=100.0, train__steps=1, train__eval_every=1)
    with pytest.raises(UserError, match=r"'trainable/.*' has \d+ values that are not finite after step 1"):
        train.run(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_batch_size_that_devices_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train.batch_size is 60; expected a multiple of 8 \(optim.accumulate 1 x 8"
    ):
        train.run(_settings(train__batch_size=60, sharding__devices=8), tmp_path / "run")


def test_unknown_monitor_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train.monitor 'acuracy' is no metric of this task; nearest: 'accuracy'"
    ):
        train.run(_settings(train__monitor="acuracy"), tmp_path / "run")


def test_pattern_that_matches_no_parameter_is_refused(tmp_path: Path) -> None:
    settings = _settings(strategy__name="partial", strategy__rules="(('^haed/', 1.0),)")
    with pytest.raises(UserError, match=r"strategy.rules '\^haed/' matches no parameter; nearest:"):
        train.run(settings, tmp_path / "run")


def test_few_labels_and_no_validation_split_train_to_the_end(tmp_path: Path) -> None:
    settings = _settings(data__val_fraction=0.0, train__steps=3)
    result = train.run(settings, tmp_path / "run")
    assert result["status"] == "finished"
    assert not [name for name in result["best"] if name.startswith("val/")]


@pytest.mark.slow
def test_baseline_trains_the_same_model_from_random_weights_beside_it(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(model__weights=str(finished[0]), train__steps=4, baseline="true")
    train.run(settings, tmp_path / "run")
    scratch = json.loads((tmp_path / "run" / "scratch" / "summary.json").read_text())
    assert scratch["weights"]["source"] == "none"
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("pretrained", "from scratch"))


def test_baseline_that_cannot_be_is_found_before_the_first_run(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    needs_a_head = _settings(model__weights=str(finished[0]), strategy__name="co_tuning", baseline="true")
    with pytest.raises(UserError, match=r"baseline, .*, cannot be: strategy 'co_tuning' needs weights with"):
        train.run(needs_a_head, tmp_path / "run")
    with pytest.raises(UserError, match=r"baseline is true and model.weights is 'none'"):
        train.run(_settings(baseline="true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _numbers(folder: Path) -> list[dict[str, Any]]:
    """Everything the run has reported, but when."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 3))])
def test_stopped_in_an_evaluation_it_goes_on_as_if_it_had_not_been(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    measure, calls = loop.evaluate.measure, []

    def stopped(*parts: Any, **options: Any) -> Any:
        calls.append(parts)
        if len(calls) == number:
            raise Stopped(signal.SIGTERM)
        return measure(*parts, **options)

    monkeypatch.setattr(loop.evaluate, "measure", stopped)
    found = train.run(_settings(), tmp_path / "run")
    assert (found["status"], found["steps"]) == ("preempted", 4 * number)
    _assert_goes_on_to(finished, tmp_path / "run")


def test_stopped_in_its_final_report_it_makes_it_anew(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*parts: Any) -> None:
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(finish.evaluate, "write", stopped)
        with pytest.raises(Stopped):
            train.run(_settings(), tmp_path / "run")
    _assert_goes_on_to(finished, tmp_path / "run")


def _assert_goes_on_to(finished: tuple[Path, dict[str, Any]], folder: Path) -> None:
    found = train.run(_settings(), folder)
    for name in ("status", "steps", "digest", "final", "best"):
        assert found[name] == finished[1][name], name
    assert _numbers(folder) == _numbers(finished[0])


FLAGS = [
    *("--config", "configs/smoke.py", "--config.train.steps=15"),
    *("--config.train.eval_every=4", "--config.train.checkpoint_every=3"),
    *("--config.augment.mixup_alpha=0.4", "--config.augment.cutmix_alpha=1.0"),
    *("--config.optim.ema=0.9", "--config.model.dropout=0.1"),
]
NEVER = 10**6


def _run(folder: Path, *more: str, name: str = "SIGTERM", at: int = NEVER) -> tuple[int, str]:
    """Run the command in a process that sends itself a signal once it has reported step `at`.

    It prints to a file: a pipe would stay open as long as any worker of a killed run.
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.training.signalled", name, str(at), *FLAGS]
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [*command, "--workdir", str(folder), *more],
            stderr=file,
            stdout=file,
            env=environment,
            check=False,
        )
    return done.returncode, log.read_text()


@pytest.mark.slow
def test_killed_three_times_and_resumed_with_other_threads_and_workers_ends_in_the_same_bits(
    tmp_path: Path,
) -> None:
    """At the step of a checkpoint, between two, and at that of an evaluation."""
    code, shown = _run(tmp_path / "whole")
    assert code == 0, shown
    expected = json.loads((tmp_path / "whole" / "summary.json").read_text())
    folder = tmp_path / "killed"
    for at, more in ((3, ""), (8, "--config.inputs.threads=1"), (12, "--config.input.workers=1")):
        code, shown = _run(folder, *more.split(), name="SIGKILL", at=at)
        assert code == -signal.SIGKILL, shown
    code, shown = _run(folder, "--config.inputs.threads=3")
    assert code == 0, shown
    assert "resumed at step" in shown
    found = json.loads((folder / "summary.json").read_text())
    assert {name: found[name] for name in ("digest", "final", "best")} == {
        name: expected[name] for name in ("digest", "final", "best")
    }
    series = [curves.read(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    assert series[0]["train/loss"] == series[1]["train/loss"]


@pytest.mark.slow
def test_sigterm_saves_exits_75_and_the_same_command_goes_on(tmp_path: Path) -> None:
    code, shown = _run(tmp_path / "run", "--json", name="SIGTERM", at=5)
    assert code == 75, shown
    assert "repeat the command to go on" in shown
    stopped = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stopped["status"] == "preempted"
    code, shown = _run(tmp_path / "run")
    assert code == 0, shown
    assert f"resumed at step {stopped['steps']} of 15" in shown
