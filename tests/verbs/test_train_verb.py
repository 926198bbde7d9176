"""`jtl train` in a few words: what they mean, what goes together, and what comes next."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.training import recipe
from jtl.training import run as training
from jtl.verbs import train
from jtl.verbs.contract import say_next


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings and folders of the runs that would be made."""
    found: list[Any] = []

    def keep(settings: Any, folder: Path, **_: Any) -> dict[str, Any]:
        found.append((settings, folder))
        return {"status": "finished"}

    monkeypatch.setattr(training, "run", keep)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photos" / name / "0.png")
    return tmp_path / "photos"


def test_few_words_are_the_recipe_of_a_strategy(photos: Path, asked: list[Any]) -> None:
    train.run(data=str(photos), weights="embedded://vit_mini", strategy="lora", epochs=3)
    ((settings, folder),) = asked
    assert (settings.strategy.name, settings.model.weights) == ("lora", "embedded://vit_mini")
    assert (settings.data.name, settings.data.path) == ("image_folder", str(photos))
    assert (settings.train.epochs, settings.optim.learning_rate) == (3.0, recipe.NEW_RATE)
    assert folder.parent == Path("runs")
    assert folder.name.startswith("photos-")


def test_settings_behind_the_words_change_them(photos: Path, asked: list[Any]) -> None:
    train.run(
        data=str(photos), weights="embedded://vit_mini", overrides=[("train.batch_size", "4")], workdir="here"
    )
    ((settings, folder),) = asked
    assert (settings.train.batch_size, settings.train.epochs) == (4, recipe.EPOCHS)
    assert folder == Path("here")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "there is nothing to train on"),
        ({"data": "photos", "config": "a.py"}, "are both given; expected one of them"),
        ({"config": "a.py", "epochs": 3.0}, "--epochs goes with DATA, not with --config"),
        ({"data": "photos", "strategy": "lorra", "weights": "x"}, "nearest: 'lora'"),
        ({"data": "nowhere"}, "'nowhere' is not there"),
        ({"data": "photos", "workdir": "gs://bucket/run"}, "expected a folder that this machine has"),
    ],
)
def test_words_that_do_not_go_together_are_one_line(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.run(**words)


def test_weights_left_out_are_a_default_that_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train._default(str(photos)) == train.WEIGHTS["image"]
    assert train.WEIGHTS["image"] in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(UserError, match="may hold images or texts; say which by --weights"):
        train._default(str(tmp_path / "rows.csv"))


def test_what_comes_next_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    say_next(["jtl", "predict", "--run", "my runs/a", "FILES"], page="my runs/a/report.html")
    assert capsys.readouterr().err == (
        "look at: my runs/a/report.html\nnext: jtl predict --run 'my runs/a' FILES\n"
    )
