"""`jtl compare` on the embedded digits: its runs, going on where it stopped, and its faults."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jtl import cli
from jtl.errors import UserError
from jtl.report import confusion, curves
from jtl.signals import StopRequest
from jtl.training import config
from jtl.training import run as train
from jtl.verbs.compare import compare, plan

SETTINGS = {
    "model.image_px": "8",
    "model.dim": "16",
    "model.depth": "1",
    "model.mlp_dim": "16",
    "train.steps": "4",
    "train.eval_every": "2",
    "train.eval_batch_size": "200",
    "sharding.devices": "1",
}


def _compare(weights: Path, out: Path, more: tuple[Any, ...] = (), **options: Any) -> dict[str, Any]:
    overrides = [*SETTINGS.items(), ("model.weights", str(weights)), *more]
    options = {"seeds": "2"} | options
    return compare.run(config="configs/smoke.py", out=str(out), overrides=overrides, **options)


@pytest.fixture(scope="module", autouse=True)
def _without_the_pictures_of_each_run() -> Iterator[None]:
    """Leave out what takes a third of so small a run, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "plot", lambda *_: None)
        patch.setattr(confusion, "plot", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder to begin from."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    train.run(config.read("configs/smoke.py", list(SETTINGS.items())), folder)
    return folder


@pytest.fixture(scope="module")
def finished(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of the three usual variants with two seeds."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    return folder, _compare(pretrained, folder)


def _times(folder: Path) -> dict[Path, int]:
    runs = [path for path in folder.rglob("*") if path.parent != folder and path.is_file()]
    return {path: path.stat().st_mtime_ns for path in runs}


@pytest.mark.slow
def test_every_variant_and_seed_is_an_ordinary_run_of_the_same_data_and_budget(
    finished: tuple[Path, dict[str, Any]], pretrained: Path
) -> None:
    folder, result = finished
    assert result == json.loads((folder / "compare.json").read_text())
    assert (result["status"], result["metric"], result["seeds"]) == ("finished", "accuracy", [0, 1])
    assert list(result["variants"]) == ["scratch", "probe", "full"]
    assert {each["steps"] for each in result["runs"]} == {4}
    settings = {
        label: [json.loads((folder / label / f"seed{seed}" / "config.json").read_text()) for seed in (0, 1)]
        for label in result["variants"]
    }
    assert [each["train"]["seed"] for each in settings["full"]] == [0, 1]
    assert settings["scratch"][0]["model"]["weights"] == "none"
    assert settings["full"][0]["model"]["weights"] == str(pretrained)
    assert all(each["data"] == settings["full"][0]["data"] for runs in settings.values() for each in runs)


@pytest.mark.slow
def test_result_is_what_the_runs_say(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    for each in result["runs"]:
        summary = json.loads(
            (folder / each["variant"] / f"seed{each['number']}" / "summary.json").read_text()
        )
        assert each["values"]["val best"] == summary["best"]["val/accuracy"]
        assert each["values"]["val last"] == summary["final"]["val/accuracy"]
        assert each["num_trainable"] == summary["parameters"]["trainable"]
    values = [each["values"]["val best"] for each in result["runs"] if each["variant"] == "probe"]
    assert result["variants"]["probe"]["columns"]["val best"]["mean"] == pytest.approx(sum(values) / 2)
    assert {path.name for path in folder.iterdir()} == {
        *("scratch", "probe", "full", "compare.json", "compare.csv", "compare.png"),
    }


@pytest.mark.slow
def test_same_command_repeats_no_finished_run_and_makes_the_missing_one(
    finished: tuple[Path, dict[str, Any]], pretrained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "probe" / "seed1")
    before = _times(folder)
    result = _compare(pretrained, folder)
    after = _times(folder)
    made = {path.relative_to(folder).parts[:2] for path in after if after[path] != before.get(path)}
    assert {parts for parts in made if len(parts) == 2 and parts[1].startswith("seed")} == {
        ("probe", "seed1")
    }
    values = [[each["values"] for each in which["runs"]] for which in (result, finished[1])]
    assert values[0] == values[1]


@pytest.mark.slow
def test_signal_ends_it_with_code_75_before_the_next_run_and_the_same_command_goes_on(
    finished: tuple[Path, dict[str, Any]],
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    run, asked = train.run, []

    def run_and_be_asked(settings: config.Config, path: Path, stop: StopRequest) -> dict[str, Any]:
        asked.append(path)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(settings, path, stop)

    monkeypatch.setattr(train, "run", run_and_be_asked)
    changes = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    words = [
        "compare",
        "--config",
        "configs/smoke.py",
        "--out",
        str(folder),
        "--seeds",
        "2",
        "--json",
        *changes,
    ]
    codes, shown = [], []
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, f"--config.model.weights={pretrained}"])
        codes.append(stop.value.code)
        shown.append(json.loads(capsys.readouterr().out))
    assert codes == [75, 0]
    assert [each["status"] for each in shown] == ["preempted", "finished"]
    assert asked[0] == folder / "scratch" / "seed0"
    assert len(asked) == 1 + 6


def test_run_stops_at_the_first_step_where_its_caller_was_asked_to(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.ask()
    result = train.run(config.read("configs/smoke.py", list(SETTINGS.items())), tmp_path / "run", stop)
    assert (result["status"], result["steps"]) == ("preempted", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": (("train.steps", "5"),)}, r"seed0' was made by other settings \(train.steps: 4 -> 5\)"),
        ({"more": (("data.val_fraction", "0"),)}, "no validation and no test split to compare on"),
        ({"column": "test"}, "--by: column 'test' is in no run; expected one of val best, val last"),
        ({"seeds": "two"}, "--seeds is 'two'; expected how many, such as 3, or which"),
        ({"seeds": "1,1"}, "--seeds is '1,1'; expected one or more, each once"),
        ({"seeds": "0"}, "--seeds is '0'"),
        ({"folds": 3}, "--seeds and --folds are both given; expected one of them"),
        ({"folds": 1, "seeds": ""}, "--folds is 1; expected 2 or more"),
        ({"variants": ("full", "bitfit:strategy.train=nothing")}, "variant 'bitfit': strategy.train"),
    ],
)  # fmt: skip
def test_fault_is_found_before_anything_is_trained(
    finished: tuple[Path, dict[str, Any]], pretrained: Path, changes: dict[str, Any], message: str
) -> None:
    before = _times(finished[0])
    with pytest.raises(UserError, match=message):
        _compare(pretrained, finished[0], **changes)
    assert before == _times(finished[0])


def test_unknown_column_is_found_before_the_first_run(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--by is 'tset'; expected one of val best, val last, test, target"):
        _compare(pretrained, tmp_path / "out", column="tset")
    assert not (tmp_path / "out").exists()


def test_run_that_fails_is_named_and_the_comparison_says_so(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> None:
        raise UserError("the loss is nan")

    monkeypatch.setattr(train, "run", diverge)
    with pytest.raises(UserError, match="variant 'scratch', seed 0: the loss is nan"):
        _compare(pretrained, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["status"] == "failed"


def test_variant_that_cannot_be_is_found_before_the_first_run(pretrained: Path, tmp_path: Path) -> None:
    impossible = "lora:strategy.targets=('nothing',)"
    with pytest.raises(UserError, match=r"variant 'lora' cannot be: strategy.targets 'nothing' matches no"):
        _compare(pretrained, tmp_path / "out", variants=("full", impossible))
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_refused_and_kept(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty and holds no compare.json; give another --out"):
        _compare(pretrained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_that_fails_is_named(pretrained: Path, tmp_path: Path) -> None:
    wild = "wild=full:optim.name=sgd;optim.learning_rate=1e38;optim.clip_norm=0;optim.warmup=0"
    with pytest.raises(UserError, match=r"variant 'wild', seed 0: the loss is"):
        _compare(pretrained, tmp_path / "out", variants=(wild, "full"))


def test_seeds_are_a_number_of_them_or_a_list() -> None:
    assert (plan.seeds("3"), plan.seeds("4,"), plan.seeds("0, 5")) == ([0, 1, 2], [4], [0, 5])


class _Pretended:
    """In place of `train.run`: leaves a finished run's folder behind and says what it is told to."""

    def __init__(self, source: Path, scores: dict[str, tuple[float, ...]]) -> None:
        self.parts: list[tuple[int, int, int]] = []
        self._source, self._scores = source, scores

    def __call__(self, settings: config.Config, folder: Path, stop: StopRequest) -> dict[str, Any]:
        del stop
        self.parts.append((settings.data.folds, settings.data.fold, settings.train.seed))
        shutil.copytree(self._source, folder)
        summary = json.loads((folder / "summary.json").read_text())
        score = self._scores[folder.parent.name][int(folder.name[4:])]
        return {**summary, "best": {"val/accuracy": score}}


def test_folds_are_runs_on_each_part_of_the_data_and_the_interval_knows_what_they_share(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"probe": (0.7, 0.8, 0.75), "full": (0.9, 0.85, 0.95)}
    pretended = _Pretended(pretrained, scores)
    monkeypatch.setattr(train, "run", pretended)
    result = _compare(pretrained, tmp_path / "out", seeds="", folds=3, variants=("probe", "full"))
    assert pretended.parts == [(3, fold, 0) for fold in (0, 0, 1, 1, 2, 2)]
    assert (result["unit"], result["folds"]) == ("fold", [0, 1, 2])
    gain = result["variants"]["full"]["gains"]["probe"]
    difference = np.subtract(scores["full"], scores["probe"])
    # A fold is half as large as what it is trained on: 1 / 3 + 1 / 2.
    half = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 1 / 2) * difference.var(ddof=1))
    assert gain["high"] - gain["mean"] == pytest.approx(half)
    assert "corrected resampled t (Nadeau & Bengio 2003) over folds" in result["sentences"][-1]


def test_metric_is_the_tasks_where_the_best_step_is_picked_without_labels(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run", _Pretended(pretrained, {"probe": (0.7,), "full": (0.9,)}))
    options = {"seeds": "1", "variants": ("probe", "full")}
    found = _compare(pretrained, tmp_path / "out", (("train.monitor", "target_im"),), **options)
    assert found["metric"] == "accuracy"
    with pytest.raises(UserError, match=r"probe/seed0' measured no macro_f2; expected it on a validation or"):
        _compare(pretrained, tmp_path / "none", (("train.monitor", "macro_f2"),), **options)
