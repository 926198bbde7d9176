"""What is written for other libraries says what it was made of: read again, it is the same."""

from dataclasses import replace
from typing import Any

import pytest

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.weights import FAMILIES
from jtl.weights.hub import processors, processors_written
from tests.weights import writing

# What a library's models have beside what the tiny model of the origin has.
FIELDS: dict[tuple[str, str], dict[str, Any]] = {
    ("vit", "huggingface_dinov2"): {"mlp": "gelu"},
    ("vit", "huggingface_dinov2_registers"): {"mlp": "gelu", "pool": "cls_gap"},
    ("resnet", "torchvision"): {"size": "18", "unit": "basic", "width": 64, "units": (2, 2, 2, 2)},
    ("resnet", "torchvision_d"): {"size": "18d", "unit": "basic", "width": 64, "units": (2, 2, 2, 2)},
    ("bit", "timm"): {"units": (3, 4, 6, 3), "width": 64, "num_groups": 32},
    ("mobilenet_v2", "timm"): {"size": "100", "units": (), "final_channels": 0},
    ("mobilenet_v2", "huggingface"): {"size": "100", "units": (), "final_channels": 0},
    ("convnext", "huggingface_v2"): {"version": 2},
    ("bert", "huggingface_bert"): {"pool": "pooler"},
    ("bert", "huggingface_roberta_classifier"): {"pool": "pooler"},
}
WRITERS = [(family, key) for family, names in FAMILIES.items() for key in names.writers]
# What a file does not say, as tensors do.
UNTOLD = {"size", "name", "weights"}
SHOWN = (
    Preprocess((224, 224), 248),
    Preprocess((224, 224), 256, interpolation="bilinear"),
    Preprocess((384, 384), 384, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    Preprocess((32, 32), 0),
    Preprocess((224, 224), 256, is_squashed=True),
)


def resolved(family: str, key: str) -> Any:
    config = writing.model_of(family, key)["config"]
    return MODELS[family].resolve(replace(config, **FIELDS.get((family, key), {})))


@pytest.mark.parametrize(("family", "key"), WRITERS)
def test_settings_that_a_file_states_come_back(family: str, key: str) -> None:
    config = resolved(family, key)
    written = {**FAMILIES[family].writers[key](config), "pretrained_cfg": {}}
    if key.startswith(("timm", "torchvision")):
        values, _ = processors_written.timm(Preprocess(config.image_px, min(config.image_px)))
        written["pretrained_cfg"] = values
    stated = FAMILIES[family].of_config(written)
    assert stated is not None, "the library's file is known as the family's own"
    full = MODELS[family].resolve(replace(config, **stated))
    differing = {name for name in stated if getattr(full, name) != getattr(config, name)}
    assert differing <= UNTOLD


@pytest.mark.parametrize(("family", "key"), WRITERS)
def test_models_that_a_library_has_not_got_are_refused(family: str, key: str) -> None:
    config = replace(resolved(family, key), features=("pre_head",))
    with pytest.raises(
        UserError, match=r"model.features is \('pre_head',\); .* with \(\) only; choose another"
    ):
        FAMILIES[family].writers[key](config)


@pytest.mark.parametrize("preprocess", SHOWN)
def test_pre_processing_comes_back_from_both_libraries(preprocess: Preprocess) -> None:
    values, _ = processors_written.huggingface(preprocess)
    assert processors.huggingface_preprocess(values, "x") == preprocess
    values, _ = processors_written.timm(preprocess)
    assert processors.timm_preprocess({"pretrained_cfg": values}, "x") == preprocess


def test_every_size_to_resize_to_comes_back() -> None:
    for side in (32, 224, 288, 384, 518):
        for resize_px in range(side, 2 * side + 1, 7):
            preprocess = Preprocess((side, side), resize_px)
            values, _ = processors_written.timm(preprocess)
            assert processors.timm_preprocess({"pretrained_cfg": values}, "x") == preprocess


def test_what_a_file_cannot_say_is_told() -> None:
    preprocess = Preprocess((32, 32), 0, white_level=4095.0, background=128)
    for write in (processors_written.huggingface, processors_written.timm):
        assert write(preprocess)[1] == [processors_written.NO_WHITE, processors_written.NO_GROUND]
