"""Zero-shot classification from the command line: `jtl predict --classes` and `jtl evaluate --zero-shot`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl.errors import UserError
from jtl.verbs import evaluate, features, predict
from jtl.weights import zero_shot
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = ("cat", "dog")
ONE_DEVICE = [("sharding.devices", "1")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP as its repository has it."""
    folder = tmp_path_factory.mktemp("clip")
    with np.load(GOLDENS / "clip.npz") as goldens:
        shapes = json.loads(str(goldens["clip/shapes"]))
        (folder / "config.json").write_text(str(goldens["clip/config"]))
    save_file(
        {key: np.asarray(draws.tensor("clip", key, tuple(shape))) for key, shape in shapes.items()},
        folder / "model.safetensors",
    )
    shutil.copy(GOLDENS / "clip" / "clip.json", folder / "tokenizer.json")
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(6):
        path = folder / NAMES[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 36, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


OPTIONS = {"batch_size": 4, "overrides": ONE_DEVICE}


def _predict(weights: str, photos: Path, classes: str, **options: Any) -> list[dict[str, Any]]:
    options = {**OPTIONS, "inputs": (str(photos),), "top": 2, **options}
    return predict.run(weights=weights, classes=classes, **options)["images"]


def test_prediction_is_the_softmax_of_scaled_cosines(clip: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    features.run(weights=clip, data=str(photos), pool="cls", out=str(out), **OPTIONS)
    with np.load(out) as file:
        images = file["pre_head"] / np.linalg.norm(file["pre_head"], axis=-1, keepdims=True)
        logits = dict(zip(file["path"], images @ zero_shot.head(clip, NAMES)["kernel"], strict=True))
    for row in _predict(clip, photos, ", ".join(NAMES)):
        expected = np.exp(logits[row["path"]] - logits[row["path"]].max())
        expected /= expected.sum()
        for each in row["predictions"]:
            assert each["label"] == NAMES[each["index"]]
            assert each["value"] == pytest.approx(expected[each["index"]], abs=1e-5)


@pytest.mark.slow
def test_evaluation_takes_the_classes_of_the_data(clip: str, photos: Path) -> None:
    predicted = _predict(clip, photos, ",".join(NAMES))
    hits = [row["predictions"][0]["label"] == Path(row["path"]).parent.name for row in predicted]
    found = evaluate.run(weights=clip, is_zero_shot=True, data=str(photos), **OPTIONS)
    assert found["label_names"] == list(NAMES)
    assert found["metrics"]["accuracy"] == pytest.approx(np.mean(hits))


@pytest.mark.slow
def test_prompts_are_a_setting(clip: str, photos: Path) -> None:
    plain = _predict(clip, photos, ",".join(NAMES))
    templates = [*ONE_DEVICE, ("weights.templates", "('{}',)")]
    other = _predict(clip, photos, ",".join(NAMES), overrides=templates)
    assert plain != other


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "has no classification head; give a run folder .* predict --classes NAMES"),
        ("cat", "--classes 'cat' is no file; expected one"),
        ("cat, cat", "expected two different names or more"),
    ],
)
def test_class_names_that_make_no_head_are_refused(
    clip: str, photos: Path, classes: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _predict(clip, photos, classes)


def test_zero_shot_evaluation_needs_weights_and_data(clip: str, photos: Path) -> None:
    with pytest.raises(UserError, match="--zero-shot needs --weights of CLIP or SigLIP, and --data"):
        evaluate.run(weights=clip, is_zero_shot=True, **OPTIONS)
    with pytest.raises(UserError, match="text tower"):
        evaluate.run(weights="embedded://vit_mini", is_zero_shot=True, data=str(photos), **OPTIONS)
