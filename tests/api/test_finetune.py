"""`jtl.finetune`: the command of the same words, and an interrupt that Python knows."""

from pathlib import Path
from typing import Any

import pytest

import jtl
from jtl.api import model
from jtl.signals import Stopped
from jtl.training import run as training
from jtl.verbs import train


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings and folders of the runs that would be made; the model of one is its folder."""
    found: list[Any] = []

    def keep(settings: Any, folder: Path, **_: Any) -> dict[str, Any]:
        found.append((settings, folder))
        return {"status": "finished", "steps": 1}

    monkeypatch.setattr(training, "run", keep)
    monkeypatch.setattr(model, "load", lambda folder: folder)
    return found


def test_call_makes_the_run_of_the_command(photos: Path, tmp_path: Path, asked: list[Any]) -> None:
    words: dict[str, Any] = {"weights": "embedded://vit_mini", "strategy": "lora", "epochs": 3}
    given = {"optim": {"learning_rate": 2e-3}, "train.batch_size": 4}
    found = jtl.finetune(photos, workdir=tmp_path / "run", **words, **given)
    train.run(
        data=str(photos),
        workdir=str(tmp_path / "run"),
        **words,
        overrides=[("optim.learning_rate", "0.002"), ("train.batch_size", "4")],
    )
    assert asked[0] == asked[1]
    assert found == tmp_path / "run"


def test_fault_is_a_value_error_and_no_exit(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown config key optim.learning_rat; nearest: 'learning_rate'"):
        jtl.finetune(photos, weights="embedded://vit_mini", optim={"learning_rat": 1})
    with pytest.raises(ValueError, match="'nowhere' is not there"):
        jtl.finetune("nowhere")


def test_interrupted_training_is_an_interrupt_that_says_it_goes_on(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"weights": "embedded://vit_mini", "workdir": "here"}
    monkeypatch.setattr(training, "run", lambda *_, **__: {"status": "preempted", "steps": 7})
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 and saved; the same call goes on"):
        jtl.finetune(photos, **given)

    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped(2)

    monkeypatch.setattr(training, "run", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT; the same call goes on"):
        jtl.finetune(photos, **given)
