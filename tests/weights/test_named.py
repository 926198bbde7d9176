"""Pre-processing that only a name tells: it is used, and it is called a guess wherever it is used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import tree
from jtl.inputs import INPUTS
from jtl.inputs.preprocess import Changes, Preprocess
from jtl.models import MODELS
from jtl.training import seen
from jtl.weights import FAMILIES, Config, Loaded, LoadReport, inspect
from jtl.weights.hub import catalogue, named
from jtl.weights.hub.catalogue import STATISTICS
from jtl.weights.load import load
from tests.weights import writing

IMAGENET, HALF, CLIP = (STATISTICS[name][0] for name in ("imagenet", "half", "clip"))
ARRAYS = writing.named(FAMILIES["vit"].origins["timm"], writing.leaves_of("vit"))


def loaded(spec: str, **changes: Any) -> Any:
    config = MODELS["vit"].tiny()
    params, model_state = writing.trees_of(writing.leaves_of("vit", config, seed=1))
    return load(
        spec,
        family="vit",
        config=config,
        model_params=params,
        model_state=model_state,
        settings=Config(**changes),
    )


@pytest.mark.parametrize(
    ("name", "mean", "resize_px"),
    [
        ("deit_tiny_patch16_224", IMAGENET, 248),
        ("deit_tiny_patch16_224-a1311bcf", IMAGENET, 248),
        ("facebook/deit-tiny-patch16-224", IMAGENET, 248),
        ("DeiT3_small_finetuned", IMAGENET, 224),
        ("dinov2_vits14_pretrain", IMAGENET, 224),
        ("dino_deitsmall16_pretrain", IMAGENET, 248),
        ("mae_finetuned_vit_base", IMAGENET, 248),
        ("vit_small_patch16_224.dino", IMAGENET, 248),
        ("vit_small_patch16_224", HALF, 248),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", HALF, 248),
        ("openai_clip_vitb32", CLIP, 224),
    ],
)
def test_name_tells_statistics_and_crop(name: str, mean: tuple[float, ...], resize_px: int) -> None:
    found = named.of_name(name, "vit")
    assert found is not None
    assert (found.preprocess.mean, found.preprocess.resize_px) == (mean, resize_px)
    assert repr(name) in found.why


@pytest.mark.parametrize("name", ["model", "checkpoint-12", "best", "resnet50", "amaeda", "vit"])
def test_name_that_tells_nothing_is_no_guess(name: str) -> None:
    assert named.of_name(name, "vit") is None


@pytest.mark.parametrize("name", catalogue.entries())
def test_every_name_of_the_catalogue_tells_its_own(name: str) -> None:
    entry = catalogue.entries()[name]
    found = named.of_name(name, entry.family)
    assert found is not None
    assert found.preprocess == entry.preprocess


def test_file_name_folder_and_what_the_file_says_are_asked(tmp_path: Path) -> None:
    (tmp_path / "deit_small_patch16_224").mkdir()
    (tmp_path / "plain").mkdir()
    specs = [
        writing.save_safetensors(tmp_path / "plain" / "deit_tiny_patch16_224.safetensors", ARRAYS),
        writing.save_safetensors(tmp_path / "deit_small_patch16_224" / "model.safetensors", ARRAYS),
        writing.save_torch(
            tmp_path / "plain" / "x.pth", {"arch": "deit_base_patch16_224", "state_dict": ARRAYS}
        ),
        writing.save_torch(
            tmp_path / "plain" / "y.pth", {"state_dict": ARRAYS, "hyper_parameters": {"model_name": "deit"}}
        ),
    ]
    told = tmp_path / "plain" / "z.safetensors"
    save_file(ARRAYS, told, metadata={"architecture": "deit_tiny_patch16_224"})
    for spec in (*specs, str(told)):
        found = loaded(spec)
        assert found.preprocess.mean == IMAGENET, spec
        assert "deit" in found.guessed
    nameless = loaded(writing.save_safetensors(tmp_path / "plain" / "model.safetensors", ARRAYS))
    assert (nameless.preprocess, nameless.guessed) == (None, "")


def test_what_the_file_says_goes_before_its_name(tmp_path: Path) -> None:
    path = tmp_path / "deit_tiny_patch16_224.safetensors"
    save_file(ARRAYS, path, metadata={"architecture": "vit_tiny_patch16_224"})
    assert loaded(str(path)).preprocess.mean == HALF


def test_guess_is_for_as_many_channels_as_the_model_has(tmp_path: Path) -> None:
    config = MODELS["vit"].tiny()
    model = MODELS["vit"].build(config, 3, num_channels=1)
    params, model_state = model.shapes()
    spec = writing.save_safetensors(tmp_path / "deit_tiny_patch16_224.safetensors", ARRAYS)
    found = load(
        spec,
        family="vit",
        config=config,
        model_params=tree.map_named(lambda name, leaf: np.zeros(leaf.shape, np.float32), params),
        model_state=model_state,
        settings=Config(),
    )
    assert found.preprocess.num_channels == 1


def text_of(loaded: Any, **changes: Any) -> str:
    return seen.preprocess_text(INPUTS["image"], Preprocess(), loaded, Changes(**changes))


def test_guess_is_called_one_with_the_settings_that_change_it() -> None:
    brought = Loaded({}, {}, LoadReport("x", "y", ()), Preprocess(), None, "x", "")
    guessed = brought._replace(guessed="from the name 'deit'")
    unknown = brought._replace(preprocess=None)
    every = {"resize_px": 0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic"}
    assert text_of(None).endswith("(the family's own)")
    assert text_of(brought).endswith("(of the weights)")
    assert "(a guess, from the name 'deit'; to change it: preprocess.resize_px, preprocess.mean" in text_of(
        guessed
    )
    assert "(a guess, the family's own, as the weights came without any; to change it: " in text_of(unknown)
    assert "to change it: preprocess.interpolation)" in text_of(unknown, **{**every, "interpolation": None})
    assert text_of(unknown, **every).endswith("(as the settings say)")


def test_inspection_calls_it_a_guess(tmp_path: Path) -> None:
    found = inspect.inspect(writing.save_safetensors(tmp_path / "deit_tiny_patch16_224.safetensors", ARRAYS))
    line = next(line for line in inspect.text(found) if "pre-processing" in line)
    assert "a guess, from the name 'deit_tiny_patch16_224'" in line
    assert str(IMAGENET) in line
    guess = inspect.as_json(found)["preprocess_guess"]
    assert guess["mean"] == IMAGENET
    assert "deit" in guess["why"]
