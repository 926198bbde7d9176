"""`jtl.load`: what a model gives in Python is what the verbs give, whatever its examples come as."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jtl
from jtl.errors import UserError
from jtl.training import step
from jtl.verbs import evaluate, explain, features, predict
from jtl.weights import FAMILIES
from tests.weights import writing

SETTINGS: dict[str, Any] = {"sharding": {"devices": 1}, "model": {"image_px": 16}}
OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "overrides": (("sharding.devices", "1"), ("model.image_px", "16")),
}


@pytest.fixture(scope="module")
def model(weights: str) -> jtl.Model:
    return jtl.load(weights, **SETTINGS)


@pytest.fixture
def image(photos: Path) -> Path:
    return photos / "ants" / "1.png"


def test_what_is_predicted_is_what_the_verb_predicts(model: jtl.Model, weights: str, photos: Path) -> None:
    found = model.predict(photos)
    expected = predict.run(weights=weights, inputs=[str(photos)], **OPTIONS)["images"]
    assert [each.name for each in found] == [row["path"] for row in expected]
    for each, row in zip(found, expected, strict=True):
        assert each.top(3) == [(one["label"], one["value"]) for one in row["predictions"]]
        assert (each.label, each.value) == each.top(1)[0]
    assert found.labels == [row["predictions"][0]["label"] for row in expected]
    assert (found.values.dtype, found.probabilities.shape) == (np.float32, (5, 3))
    assert model.label_names == found.label_names == ("0", "1", "2")


def test_example_is_the_same_however_it_is_given(model: jtl.Model, image: Path) -> None:
    pixels = np.asarray(Image.open(image))
    given = [str(image), image, image.read_bytes(), Image.open(image), pixels]
    found = model.predict(given)
    assert [each.name for each in found] == [str(image), str(image), "image 0", "image 1", "image 2"]
    np.testing.assert_array_equal(found.values, np.broadcast_to(found.values[:1], (5, 3)))
    for each in (*given, pixels[None], [image], (image,), (each for each in [image])):
        np.testing.assert_allclose(model.predict(each).values, found.values[:1], atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_picture_in_memory_is_read_as_its_file(model: jtl.Model, tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (24, 30), np.uint8)
    made = {
        "I;16": lambda: Image.fromarray(values.astype(np.uint16) * 200),
        "F": lambda: Image.fromarray(values.astype(np.float32)),
    }
    grey = Image.fromarray(values)
    picture = made[mode]() if mode in made else Image.merge("RGB", [grey] * 3).convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "picture.tif")
    in_memory, of_file = model.predict([picture]).values, model.predict(tmp_path / "picture.tif").values
    np.testing.assert_array_equal(in_memory, of_file)


def test_picture_in_memory_is_turned_upright_as_its_file_is(model: jtl.Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        in_memory = model.predict(opened).values
    np.testing.assert_array_equal(in_memory, model.predict(tmp_path / "turned.png").values)
    upright = model.predict(np.rot90(pixels, -1).copy()).values
    np.testing.assert_array_equal(in_memory, upright)


def test_what_cannot_be_read_is_an_error_that_names_it_or_a_fault(
    model: jtl.Model, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ValueError, match=r"cannot read .*broken.png"):
        model.predict([image, tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="cannot read image 0: "):
        model.features(b"no picture")
    with pytest.raises(ValueError, match="cannot read image 0: "):
        model.explain(b"no picture")
    found = model.predict([tmp_path / "broken.png", image], marks_unreadable=True)
    assert "broken.png" in found[0].fault
    assert np.isnan(found.values).all(axis=1).tolist() == [True, False]
    assert found.labels == ["", found[1].label]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is nothing to look at; give a path, the bytes of an image file"),
        (3, "a int is given; expected a path, "),
        ({"a": 1}, "a dict is given; expected a path, "),
        ([3.5], "a float is given; expected a path, "),
        (np.zeros((8, 8, 3)), r"pixels are float64 \(8, 8, 3\); expected uint8 \[height, width, channels\]"),
        ("nowhere.png", "'nowhere.png' is not there"),
        ("review.txt", "'review.txt' is one of texts, and the model reads images"),
    ],
)
def test_what_is_no_example_is_an_error_that_says_what_one_is(
    model: jtl.Model, given: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(given)


def test_settings_of_an_opened_model_are_those_of_data_alone(model: jtl.Model, image: Path) -> None:
    with pytest.raises(ValueError, match=r"preprocess.background is given, but the model is opened already"):
        model.predict(image, preprocess={"background": 255})
    with pytest.raises(ValueError, match=r"unknown config key data.lable_column"):
        model.predict(image, data={"lable_column": "x"})


def test_layers_are_what_the_verb_writes(
    model: jtl.Model, weights: str, photos: Path, tmp_path: Path
) -> None:
    options = {"weights": weights, "data": str(photos), "out": str(tmp_path / "f.npz"), **OPTIONS}
    features.run(layers=("pre_head", "stage1"), **options)
    with np.load(tmp_path / "f.npz") as file:
        order = np.argsort(file["path"])
        np.testing.assert_array_equal(model.features(photos), file["pre_head"][order])
        found = model.features(photos, ["stage1", "pre_head"])
        assert list(found) == ["stage1", "pre_head"]
        np.testing.assert_array_equal(found["stage1"], file["stage1"][order])
    assert model.features(photos, "stage1", pool="none").ndim == 4
    with pytest.raises(ValueError, match="which is no layer; nearest: 'stage2'"):
        model.features(photos, "stage9")
    with pytest.raises(ValueError, match="--pool is 'max'; expected one of"):
        model.features(photos, pool="max")


def test_explanation_is_the_verbs_with_its_picture(
    model: jtl.Model, weights: str, photos: Path, tmp_path: Path
) -> None:
    explain.run(weights=weights, inputs=(str(photos),), out=str(tmp_path / "e.npz"), **OPTIONS)
    found = model.explain(photos)
    with np.load(tmp_path / "e.npz") as file:
        np.testing.assert_array_equal([each.relevance for each in found], file["relevance"])
        assert [each.label for each in found] == file["class"].tolist()
    shown = found[0]._repr_png_()
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as picture:
        assert picture.size[0] > picture.size[1] == 224
    assert {each.label for each in model.explain(photos, class_name="2")} == {"2"}
    assert "relevance of 8 x 8" in repr(found[0])


def test_evaluation_is_the_verbs(model: jtl.Model, weights: str, photos: Path, tmp_path: Path) -> None:
    for index, name in enumerate("012"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes((photos / "bees" / f"{2 * (index % 3)}.png").read_bytes())
    overrides = {"sharding": {"devices": 1}, "model.image_px": 16}
    found = model.evaluate(tmp_path, **overrides)
    assert found == evaluate.run(weights=weights, data=str(tmp_path), **OPTIONS)
    with pytest.raises(ValueError, match="--weights needs --data"):
        model.evaluate()
    darker = jtl.load(weights, **overrides, preprocess={"mean": (0.0,)})
    assert darker.evaluate(tmp_path) == darker.evaluate(tmp_path, preprocess={"mean": (0.0,)}) != found


def test_programs_are_compiled_once(weights: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, traced, forward = jtl.load(weights, **SETTINGS), [], step.forward_normalised

    def counted(parts: Any, params: Any, model_state: Any, inputs: Any) -> Any:
        traced.append(len(inputs))
        return forward(parts, params, model_state, inputs)

    monkeypatch.setattr(step, "forward_normalised", counted)
    for count in (1, 1, 3, 4, 2):
        opened.predict([image] * count)
    assert traced == [1, 4, 2]


def test_backbone_gives_features_and_says_what_is_missing(photos: Path, tmp_path: Path) -> None:
    origin = FAMILIES["vit"].origins["timm"]
    save_file(writing.named(origin, writing.leaves_of("vit", num_outputs=0)), tmp_path / "vit.safetensors")
    backbone = jtl.load(tmp_path / "vit.safetensors", sharding={"devices": 1})
    assert backbone.features(photos, pool="cls").shape[0] == 5
    assert "no classes" in repr(backbone)
    for asked in (backbone.predict, backbone.explain):
        with pytest.raises(ValueError, match=r"has no head, and predicts nothing; fine-tune it, ask for"):
            asked(photos)


def test_classes_take_the_names_given(weights: str, image: Path) -> None:
    named = jtl.load(weights, classes=["ant", "bee, wild", "cow"], **SETTINGS)
    assert named.predict(image).label_names == ("ant", "bee, wild", "cow")
    assert "3 classes (ant, bee, wild, cow)" in repr(named)
    with pytest.raises(ValueError, match="2 class names are given; expected one for each of 3"):
        jtl.load(weights, classes=["ant", "bee"])


def test_model_of_weights_has_no_folder_and_no_summary(model: jtl.Model) -> None:
    assert model.folder is None
    with pytest.raises(UserError, match="is no run folder, and has no summary"):
        _ = model.summary


def test_package_offers_its_functions_and_nothing_of_another_name() -> None:
    assert set(jtl.__all__) <= set(dir(jtl))
    assert all(getattr(jtl, name).__module__.startswith("jtl.api.") for name in jtl.__all__)
    with pytest.raises(AttributeError, match="module 'jtl' has no attribute 'fine_tune'"):
        _ = jtl.fine_tune  # type: ignore[attr-defined]
