"""`jtl train` in a few words: what they mean, what goes together, and what comes next."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.models import MODELS
from jtl.training import config as configs
from jtl.training import recipe
from jtl.training import run as training
from jtl.verbs import auto, subject, train
from jtl.verbs.contract import say_next
from jtl.verbs.rank import rank
from jtl.weights.hub import catalogue, hugging_face


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
        ({"data": "photos", "minutes": 3.0, "epochs": 3.0}, "--minutes 3 and --epochs 3 are both given"),
        ({"data": "photos", "minutes": -1.0}, "--minutes is -1; expected a positive number"),
        ({"data": "photos", "weights": "a", "weights_in": "b"}, "are both given; expected one"),
        ({"data": "photos", "workdir": "gs://bucket/run"}, "expected a folder that this machine has"),
    ],
)
def test_words_that_do_not_go_together_are_one_line(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.run(**words)


def test_weights_left_out_are_a_default_that_is_named_where_none_are_at_hand(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "is_cached", lambda spec: False)
    found = auto.chosen(str(photos), "full", "", (), print)
    assert found.weights == subject.WEIGHTS["image"]
    assert found.lines == (
        f"chosen: {found.weights}, which is fetched: no weights for images are at hand to choose among",
    )
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(UserError, match="may hold images or texts; say which by --weights"):
        auto.chosen(str(tmp_path / "rows.csv"), "", "", (), print)


def test_weights_at_hand_are_those_of_the_folder_and_of_the_cache_the_smaller_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"resnet50.a1_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"}
    specs = {catalogue.spec_of(name) for name in kept}
    monkeypatch.setattr(hugging_face, "is_cached", specs.__contains__)
    (tmp_path / "own.safetensors").touch()
    (tmp_path / "README.md").touch()
    assert auto.at_hand("image", str(tmp_path)) == [
        str(tmp_path / "own.safetensors"),
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "resnet50.a1_in1k",
        "embedded://vit_mini",
    ]
    assert auto.at_hand("text", "") == []
    (tmp_path / "own.safetensors").unlink()
    with pytest.raises(UserError, match=r"--weights-in .* has no file of weights"):
        auto.at_hand("image", str(tmp_path))


def test_the_first_of_a_ranking_is_trained_as_the_labels_allow_and_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "at_hand", lambda holds, folder: ["a", "embedded://vit_mini"])
    asked: list[Any] = []

    def ranked(**given: Any) -> dict[str, Any]:
        asked.append(given)
        return {"recommended": "embedded://vit_mini", "sentence": "Take it: evidence."}

    monkeypatch.setattr(rank, "run", ranked)
    overrides = [("data.val_fraction", "0"), ("train.batch_size", "2")]
    found = auto.chosen(str(photos), "", "", overrides, lambda line: None)
    assert (found.weights, found.strategy) == ("embedded://vit_mini", "probe")
    assert asked[0]["weights"] == ["a", "embedded://vit_mini"]
    assert asked[0]["overrides"] == overrides[:1]
    assert found.lines == (
        "chosen: embedded://vit_mini, the first of 2 at hand (a, embedded://vit_mini)",
        "chosen: Take it: evidence.",
        "chosen: strategy probe: 2 labels are fewer than 5 of each of 2 classes",
    )
    for name in ("cat", "dog"):
        for number in range(1, 8):
            image = np.full((8, 8, 3), number, np.uint8)
            Image.fromarray(image).save(photos / name / f"{number}.png")
    assert auto.chosen(str(photos), "", "", overrides, lambda line: None).strategy == "lora"
    assert auto.chosen(str(photos), "bitfit", "", overrides, lambda line: None).strategy == "bitfit"


def test_only_models_with_attention_take_adapters() -> None:
    found = {name: auto.takes_adapters(MODELS[name].build(MODELS[name].tiny(), 2)) for name in MODELS}
    assert {name for name, takes in found.items() if takes} >= {"vit", "bert"}
    assert not found["resnet"]


def test_resumed_run_is_asked_nothing_anew(
    photos: Path, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train.run(data=str(photos), weights="embedded://vit_mini", strategy="lora", workdir=str(folder))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs.kept(asked[0][0])))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    monkeypatch.setattr(auto, "chosen", lambda *_: pytest.fail("it began with weights"))
    train.run(data=str(photos), workdir=str(folder))
    assert asked[1][0].model.weights == "embedded://vit_mini"
    assert asked[1][0].strategy.name == "lora"


def test_what_comes_next_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    say_next(["jtl", "predict", "--run", "my runs/a", "FILES"], page="my runs/a/report.html")
    assert capsys.readouterr().err == (
        "look at: my runs/a/report.html\nnext: jtl predict --run 'my runs/a' FILES\n"
    )
