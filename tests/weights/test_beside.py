"""What lies beside weights tells the model's settings, classes and pre-processing, or is a clear error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config
from jtl.weights.hub import beside, processors
from jtl.weights.load import load
from jtl.weights.names import clip, hub_config
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from tests.weights import writing

GOLDEN = Path(__file__).parents[1] / "goldens" / "beside.npz"
PROCESSORS = (*("vit", "vit_oblong", "deit", "clip", "siglip", "bit", "mobilenet_v2", "convnext", "scaled"),)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", **IMAGENET}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "id2label": {"0": "ant", "1": "bee", "2": "cat"},
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_are_those_of_transformers(golden: dict[str, np.ndarray], name: str) -> None:
    preprocess = processors.huggingface_preprocess(json.loads(str(golden[f"{name}/file"])), "file")
    pixels = image.transform(preprocess, None)(golden["picture"], None).astype(np.float32) / 255
    found = (pixels - np.float32(preprocess.mean)) / np.float32(preprocess.std)
    np.testing.assert_allclose(found.transpose(2, 0, 1), golden[f"{name}/output"], rtol=1e-6, atol=1e-6)


def test_every_golden_processor_is_compared(golden: dict[str, np.ndarray]) -> None:
    assert {name.removesuffix("/file") for name in golden if name.endswith("/file")} == set(PROCESSORS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32}, ((32, 32), 0, False)),
        ({"image_processor_type": "ViTImageProcessorFast", "size": [32, 48]}, ((32, 48), 0, False)),
        ({"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 32}, ((32, 32), 40, False)),
        ({"image_processor_type": "CLIPImageProcessor"}, ((224, 224), 224, False)),
        ({"image_processor_type": "BitImageProcessor", "size": 40, "crop_size": 32}, ((32, 32), 40, False)),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": 32},
            ((32, 32), 40, True),
        ),
        ({"image_processor_type": "DeiTImageProcessor"}, ((224, 224), 256, True)),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224}, ((224, 224), 256, False)),
        ({"image_processor_type": "ConvNextImageProcessor"}, ((384, 384), 0, False)),
        ({"image_processor_type": "SiglipImageProcessor"}, ((224, 224), 0, False)),
        ({"image_processor_type": "MobileNetV2ImageProcessor"}, ((224, 224), 256, False)),
    ],
)
def test_sizes_mean_what_the_kind_of_processor_says(
    values: dict[str, Any], expected: tuple[tuple[int, int], int, bool]
) -> None:
    found = processors.huggingface_preprocess(values, "file")
    assert (found.image_px, found.resize_px, found.is_squashed) == expected


def test_processor_without_a_name_is_that_of_its_model() -> None:
    values = {"size": 224, "crop_pct": 0.875}
    assert processors.huggingface_preprocess(values, "file", "ConvNext").resize_px == 256
    with pytest.raises(UserError, match=r"kind ''.* does not say resample; give the file of weights itself"):
        processors.huggingface_preprocess(values, "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": {"shortest_edge": 8}},
            "resizes the short side to 8 px and crops nothing; expected one size",
        ),
        ({"size": {"shortest_edge": 8, "longest_edge": 9}}, "a size of shortest_edge, longest_edge"),
        ({"size": "large"}, "size 'large'; expected the sides it is of"),
        ({"size": {"height": 0, "width": 8}}, r"an input of \(0, 8\) px"),
        ({"resample": 1}, "resizes by 'lanczos'; expected one of bilinear, bicubic"),
        ({"resample": 9}, "KeyError: 9"),
        ({"do_resize": False}, "does not resize images"),
        ({"do_center_crop": True}, "KeyError: 'crop_size'"),
        ({"do_center_crop": True, "crop_size": 12}, r"resizes to \(8, 8\) px and crops \(12, 12\)"),
        ({"do_center_crop": True, "crop_size": {"height": 4, "width": 6}}, "expected a square crop"),
        ({"image_std": [0.5, 0.0, 0.5]}, "ValueError: mean"),
        ({"image_mean": [0.5]}, "ValueError: mean"),
        ({"image_mean": [float("nan")] * 3}, "ValueError: mean"),
        ({"image_mean": 0.5}, "TypeError"),
        ({"rescale_factor": 0}, "ZeroDivisionError"),
    ],
)
def test_processor_that_jtl_cannot_follow_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        processors.huggingface_preprocess({**PROCESSOR, **changes}, "folder/preprocessor_config.json")
    assert "give the file of weights itself to load without preprocessor_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Preprocess((224, 224), 248)),
        ({"crop_pct": 1.0}, Preprocess((224, 224), 224)),
        (
            {"crop_pct": None, "interpolation": "bilinear"},
            Preprocess((224, 224), 256, interpolation="bilinear"),
        ),
        ({"crop_mode": "squash"}, Preprocess((224, 224), 248, is_squashed=True)),
        ({"crop_mode": "squash", "crop_pct": 1.0}, Preprocess((224, 224), 0)),
        ({"input_size": [3, 192, 256]}, Preprocess((192, 256), 213)),
    ],
)
@pytest.mark.parametrize("is_nested", [True, False])
def test_pre_processing_of_timm(changes: dict[str, Any], expected: Preprocess, is_nested: bool) -> None:
    values = {**TIMM, **changes}
    config = {"architecture": "any", **({"pretrained_cfg": values} if is_nested else values)}
    statistics = {name: tuple(each) for name, each in IMAGENET.items()}
    assert processors.timm_preprocess(config, "file") == replace(expected, **statistics)
    assert processors.timm_preprocess({"model_type": "vit"}, "file") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_mode": "border"}, "has crop_mode 'border'; expected 'center' or 'squash'"),
        ({"interpolation": "random"}, "resizes by 'random'"),
        ({"input_size": [224, 224]}, "ValueError"),
        ({"mean": None}, "TypeError"),
    ],
)
def test_timm_that_jtl_cannot_follow_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processors.timm_preprocess({"pretrained_cfg": {**TIMM, **changes}}, "config.json")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"id2label": {"1": "bee", "0": "ant"}}, ("ant", "bee")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({"id2label": {str(index): str(index) for index in range(12)}}, tuple(map(str, range(12)))),
        ({"architecture": "x", "num_classes": 2, "label_names": ["ant", "bee"]}, ("ant", "bee")),
        ({"num_classes": 2, "pretrained_cfg": {"label_names": ["ant", "bee"]}}, ("ant", "bee")),
        ({"architecture": "x", "num_classes": 2}, None),
        ({"architecture": "x", "num_classes": 0, "label_names": ["ant"]}, None),
    ],
)
def test_names_of_classes(config: dict[str, Any], expected: tuple[str, ...] | None) -> None:
    assert beside.label_names(config, "file") == expected


@pytest.mark.parametrize(
    "read",
    [lambda values: clip.number(values, "a"), lambda values: hub_config.refuse_others(values, {"a": 1}, "a")],
)
def test_long_values_are_cut_in_messages(read: Any) -> None:
    with pytest.raises(UserError, match=r"config.json has a 'xxx.*xxx… \(100,000 characters\)") as error:
        read({"a": "x" * 100_000})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "ant", "2": "bee"}}, "does not count from 0 to 1"),
        (
            {"architecture": "x", "num_classes": 3, "label_names": ["ant"]},
            "names 1 classes and has num_classes 3",
        ),
    ],
)
def test_classes_counted_wrong_are_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        beside.label_names(config, "config.json")


def hub_folder(folder: Path, config: Any, processor: Any = PROCESSOR, **names: str) -> str:
    """Write a tiny ViT as transformers names it, with what the hub keeps beside it, and return the folder."""
    leaves = writing.leaves_of("vit")
    arrays = writing.named(FAMILIES["vit"].origins["huggingface"], leaves)
    writing.save_safetensors(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
    if processor:
        (folder / names.get("name", "preprocessor_config.json")).write_text(json.dumps(processor))
    return str(folder)


def test_folder_tells_the_whole_model(tmp_path: Path) -> None:
    found = recognise(hub_folder(tmp_path, VIT))
    assert (found.family, found.num_outputs, found.label_names) == ("vit", 3, ("ant", "bee", "cat"))
    # Shapes cannot tell heads and epsilon; the file of weights alone says what they can.
    assert (found.config_fields["heads"], found.config_fields["layer_norm_epsilon"]) == (4, 1e-12)
    alone = recognise(str(tmp_path / "model.safetensors"))
    assert (alone.config_fields["heads"], alone.label_names) == (1, None)
    assert "layer_norm_epsilon" not in alone.config_fields


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_load_brings_classes_and_pre_processing(tmp_path: Path, name: str) -> None:
    processor = PROCESSOR if name.startswith("pre") else {"image_processor": PROCESSOR}
    spec = hub_folder(tmp_path, VIT, processor, name=name)
    config = MODELS["vit"].Config(**recognise(spec).config_fields)
    params, model_state = writing.trees_of(writing.leaves_of("vit", config, seed=1))
    loaded = load(
        spec,
        family="vit",
        config=config,
        model_params=params,
        model_state=model_state,
        settings=Config(head="load"),
    )
    assert loaded.label_names == ("ant", "bee", "cat")
    assert loaded.preprocess == Preprocess((8, 8), resize_px=0, interpolation="bilinear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": 12},
            r"says image_px=12, and the tensors beside it are of image_px=8; get both again",
        ),
        ({"num_hidden_layers": 3}, "says depth=3, and the tensors beside it are of depth=2; get both again"),
        ({"hidden_size": 24}, "says dim=24, and the tensors beside it are of dim=16"),
        ({"id2label": {"0": "ant", "1": "bee"}}, "names 2 classes, and the weights have 3 outputs"),
    ],
)
def test_config_of_another_model_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"config.json in .* {message}") as caught:
        recognise(hub_folder(tmp_path, {**VIT, **changes}))
    assert "\n" not in str(caught.value)


def test_config_of_an_unknown_model_leaves_the_tensors_to_tell(tmp_path: Path) -> None:
    config = {"model_type": "unheard_of", "id2label": VIT["id2label"]}
    found = recognise(hub_folder(tmp_path, config, None))
    assert (found.family, found.config_fields["heads"]) == ("vit", 1)
    note = "says model_type 'unheard_of', which jtl does not know: its settings are not read"
    assert found.title.endswith(f"(config.json beside {note})")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "resnet"}, "model_type 'resnet'"),
        ({"architecture": "resnetv2_50x1_bit"}, "architecture 'resnetv2_50x1_bit'"),
    ],
)
def test_config_of_another_family_is_one_line(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(
        UserError,
        match=f"config.json in .* says {says}, and the tensors beside it look like a ViT .*get both",
    ) as caught:
        recognise(hub_folder(tmp_path, config, None))
    assert "\n" not in str(caught.value)


def test_config_of_another_family_is_refused_where_the_model_is_named(tmp_path: Path) -> None:
    """Tensors of the model that was asked for do not hide it."""
    spec, config = hub_folder(tmp_path, {"model_type": "resnet"}, None), MODELS["vit"].tiny()
    params, model_state = writing.trees_of(writing.leaves_of("vit", config, seed=1))
    with pytest.raises(UserError, match=r"config.json in .* says model_type 'resnet'"):
        load(
            spec,
            family="vit",
            config=config,
            model_params=params,
            model_state=model_state,
            settings=Config(head="load"),
        )


def test_config_beside_tensors_of_no_family_is_named(tmp_path: Path) -> None:
    writing.save_safetensors(tmp_path / "model.safetensors", {"a": np.ones(2, np.float32)})
    for name in ("resnet", "llama"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        with pytest.raises(UserError, match=rf"no model jtl knows \(config.json beside says .* '{name}'\)"):
            recognise(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be understood .JSONDecodeError"),
        ("[1]", "a list; expected an object"),
        ("[" * 100_000, "RecursionError"),
        (b"\xff\xfe".decode("latin-1"), "cannot be understood"),
    ],
)
def test_damaged_config_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recognise(hub_folder(tmp_path, text))
    assert "give the file of weights itself to load without config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_config_is_not_read(tmp_path: Path) -> None:
    spec = hub_folder(tmp_path, VIT)
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(1 << 32)
    with pytest.raises(UserError, match="4294967296 bytes; expected at most"):
        recognise(spec)


@pytest.mark.parametrize("config", [None, {"model_type": "unheard_of"}], ids=str)
@pytest.mark.parametrize(
    "processor", [{"sampling_rate": 16000, "feature_size": 1}, {"processor_class": "OtherProcessor"}, {}]
)
def test_processor_that_is_of_no_images_is_no_reason_to_refuse(
    tmp_path: Path, config: Any, processor: dict[str, Any]
) -> None:
    spec = hub_folder(tmp_path, config or {})
    if config is None:
        (tmp_path / "config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert recognise(spec).family == "vit"
    assert open_path(tmp_path).preprocess is None


def test_processor_of_images_beside_texts_is_not_asked(tmp_path: Path) -> None:
    arrays = writing.named(next(iter(FAMILIES["bert"].origins.values())), writing.leaves_of("bert"))
    writing.save_safetensors(tmp_path / "model.safetensors", arrays)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Odd", "size": 3}))
    assert recognise(str(tmp_path)).family == "bert"


@pytest.mark.parametrize("processor", [[1], "text", 3])
def test_processor_that_is_no_object_is_one_line_or_none(tmp_path: Path, processor: Any) -> None:
    hub_folder(tmp_path, VIT)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    assert open_path(tmp_path).preprocess is None
