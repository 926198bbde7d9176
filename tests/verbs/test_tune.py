"""`jtl tune`: what a space says, and that a search which is killed goes on as if it had not been."""

import builtins
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="needs the extra `tune`")

from jtl.errors import UserError
from jtl.signals import StopRequest
from jtl.training import config
from jtl.verbs.subject import Subject
from jtl.verbs.tune import plot, results, space, study, trials, tune

pytestmark = pytest.mark.usefixtures("without_pictures")
TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 8, "depth": 1, "heads": 2, "mlp_dim": 8},
    "data": {"name": "digits"},
    "train": {"steps": 6, "batch_size": 32, "eval_every": 2, "eval_batch_size": 200},
    "sharding": {"devices": 1},
}
WORDS = ("optim.learning_rate=log:1e-4..1e-1", "train.batch_size=int:8..64", "optim.name=adamw|sgd")
Result = dict[str, Any]


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def base() -> config.Config:
    return config.from_dict(TINY)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.warmup=0..0.3", space.Dimension("optim.warmup", "", 0.0, 0.3)),
        ("optim.warmup=0.05..0.3", space.Dimension("optim.warmup", "", 0.05, 0.3)),
        ("optim.weight_decay=log:1e-4..3.5e-1", space.Dimension("optim.weight_decay", "log", 1e-4, 0.35)),
        ("train.batch_size=logint:8..64", space.Dimension("train.batch_size", "logint", 8.0, 64.0)),
        ("strategy.name=full|probe", space.Dimension("strategy.name", "choice", choices=("full", "probe"))),
    ],
)
def test_words_say_ranges_and_choices(word: str, expected: space.Dimension) -> None:
    assert space.parsed(word) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate", r"--space has 'learning_rate'; expected SECTION.NAME=VALUES, such as optim"),
        ("optim.learning_rate=1e-3", r"'optim.learning_rate=1e-3', which leaves nothing to choose"),
        ("optim.learning_rate=1e-2..1e-3", r"whose range is empty; expected the lower end first"),
        ("optim.learning_rate=log:0..1e-3", r"expected ends above 0 of a range in the logarithm"),
        ("optim.learning_rate=lgo:1e-4..1e-3", r"nearest to 'lgo': 'log'"),
        ("train.batch_size=int:8..9.5", r"expected whole numbers at both ends"),
        ("optim.warmup=a..0.3", r"'a' is no number; expected SECTION.NAME"),
        ("optim.name=adamw|adamw", r"leaves nothing to choose"),
        ("data.path=a|b", r"--space names data.path, which all trials share; give --config.data.path=VALUE"),
        (
            "optim.learning_rat=log:1e-4..1e-3",
            r"unknown config key optim.learning_rat; nearest: 'learning_rate'",
        ),
        ("optim.momentum=0.5..1.5", r"optim.momentum is 1.5; expected"),
        ("optim.name=adamw|adamx", r"optim.name is 'adamx'; expected one of"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(base: config.Config, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space.read([word], base)


def test_every_preset_is_of_settings_there_are(base: config.Config) -> None:
    for strategy in (*space.PRESETS, "l2_sp"):
        own = config.with_overrides(base, [("strategy.name", strategy), ("model.num_prompts", "2")])
        assert len(space.read((), own)) >= 2
    with pytest.raises(UserError, match=r"--space has optim.warmup twice"):
        space.read(["optim.warmup=0..0.1", "optim.warmup=0..0.2"], base)


def _objective(settings: config.Config, number: int) -> float:
    """A metric that grows over three evaluations, and is the best at a rate of 1e-2."""
    import math

    loss = abs(math.log10(settings.optim.learning_rate) + 2) + 0.1 * (settings.optim.name == "sgd")
    return round(1.0 - 0.2 * loss - 0.1 * (3 - number), 6)


def _runs(kills: list[tuple[int, int]], steps: list[str]) -> Callable[..., Result]:
    """Return a stand-in for a run, which resumes from what its folder holds and may be killed in it."""

    def run(settings: config.Config, folder: Path, stop: StopRequest, *, is_given_up: Any) -> Result:
        del stop
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "history.json"
        history = json.loads(kept.read_text()) if kept.exists() else []
        status = "given_up" if history and is_given_up(history) else ""
        while len(history) < 3 and not status:
            number = len(history) + 1
            steps.append(f"{folder.name}/{number}")
            history.append({"step": 2 * number, "accuracy": _objective(settings, number), "loss": 0.0})
            kept.write_text(json.dumps(history))
            trial = int(folder.name.removeprefix("trial"))
            if (trial, number) in kills:
                kills.remove((trial, number))
                raise Killed
            status = "given_up" if is_given_up(history) else ""
        best = {f"val/{name}": value for name, value in history[-1].items()}
        return {"status": status or "finished", "steps": 2 * len(history), "best": best}

    return run


def _searched(
    base: config.Config, folder: Path, monkeypatch: pytest.MonkeyPatch, kills: list[tuple[int, int]]
) -> tuple[Result, list[str]]:
    """Return what a search of 16 trials finds that is begun anew whenever it is killed, and what it made."""
    steps: list[str] = []
    monkeypatch.setattr("jtl.training.run.run", _runs(list(kills), steps))
    folder.mkdir()
    for _ in range(len(kills) + 1):
        plan = trials.made(base, space.read(WORDS, base), folder, 16, 0.0)
        found = study.opened(folder, {"a": 1}, "median", 3, is_maximized=True)
        try:
            assert trials.made_all(plan, found, StopRequest(), lambda line: None)
        except Killed:
            continue
        return results.of(plan, found), steps
    raise AssertionError("it was killed more often than it was to be")


def test_search_that_is_killed_twice_finds_what_an_undisturbed_one_does(
    base: config.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, steps = _searched(base, tmp_path / "whole", monkeypatch, [])
    again, more = _searched(base, tmp_path / "again", monkeypatch, [(5, 1), (12, 3)])
    assert more == steps

    def told(result: Result) -> list[Mapping[str, Any]]:
        return [{name: each[name] for name in each if name != "folder"} for each in result["trials"]]

    assert told(again) == told(whole)
    assert (again["best"]["number"], again["importance"]) == (whole["best"]["number"], whole["importance"])
    states = [each["state"] for each in whole["trials"]]
    assert states.count("given up") >= 3
    assert whole["steps"]["saved"] > 0.1
    assert 0.003 < whole["best"]["values"]["optim.learning_rate"] < 0.03


def test_value_half_drawn_when_it_was_killed_is_drawn_again(
    base: config.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dimensions = space.read(WORDS, base)
    drawn = []
    for name, is_cut in (("whole", False), ("cut", True)):
        (tmp_path / name).mkdir()
        found = study.opened(tmp_path / name, {}, "none", 0, is_maximized=True)
        trial = found.ask()
        if is_cut:
            study.values(trial, dimensions[:1])
            found = study.opened(tmp_path / name, {}, "none", 0, is_maximized=True)
            with trials._claimed(trials.made(base, dimensions, tmp_path / name, 1, 0.0), found) as claimed:
                assert claimed is not None
                trial = claimed
                assert trial.number == 0
                drawn.append(study.values(trial, dimensions))
            continue
        drawn.append(study.values(trial, dimensions))
    assert drawn[0] == drawn[1]


def test_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    study.opened(tmp_path, {"settings": {"train": {"epochs": 3}}}, "none", 0, is_maximized=True)
    with pytest.raises(
        UserError, match=r"holds another search \(settings.train.epochs: 3 -> 4\); give another"
    ):
        study.opened(tmp_path, {"settings": {"train": {"epochs": 4}}}, "none", 0, is_maximized=True)
    with pytest.raises(UserError, match=r"--pruner is 'medain'; nearest: 'median'"):
        study.opened(tmp_path, {}, "medain", 0, is_maximized=True)


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return really(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UserError, match=r"jtl tune needs Optuna, which is not installed; pip install 'jtl\[tune\]'"
    ):
        tune.run(Subject(data="photos"), out="out")


def test_picture_shows_words_and_numbers(tmp_path: Path) -> None:
    rows = [
        {
            "value": 0.5 + place / 10,
            "measured": [0.1, 0.5 + place / 10],
            "values": {"a.b": 10.0**-place, "a.c": "x"},
        }
        for place in range(3)
    ]
    given_up = {"value": None, "measured": [0.2], "values": {"a.b": 0.1, "a.c": "y"}}
    result = {"trials": [*rows, given_up], "best": rows[2], "importance": {}, "metric": "accuracy"}
    plot.plot({**result, "is_maximized": True}, tmp_path / "tune.png")
    assert (tmp_path / "tune.png").stat().st_size > 10_000


@pytest.mark.slow
def test_search_ends_with_a_comparison_at_other_seeds(base: config.Config, tmp_path: Path) -> None:
    overrides = [
        (f"{section}.{name}", str(value))
        for section, values in TINY.items()
        for name, value in values.items()
    ]
    what = Subject(config="configs/vit_ft.py")
    given = {"space": ["optim.learning_rate=log:1e-3..1e-1"], "trials": 3, "seeds": 2}
    given |= {"overrides": [*overrides, ("baseline", "false"), ("model.weights", "none")]}
    result = tune.run(what, out=str(tmp_path / "out"), **given)  # type: ignore[arg-type]
    assert result["status"] == "finished"
    assert len(result["trials"]) == 3
    assert sorted({each["number"] for each in result["comparison"]["runs"]}) == [1, 2]
    gain = result["comparison"]["variants"]["winner"]["gains"]["default"]
    assert gain["num_pairs"] == 2
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["best"] == result["best"]
    assert not list((tmp_path / "out").glob("trial*/checkpoints"))
    assert tune.run(what, out=str(tmp_path / "out"), **given)["best"] == result["best"]  # type: ignore[arg-type]
