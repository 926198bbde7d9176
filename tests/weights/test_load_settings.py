"""Settings of loading, and those of a model that its tensors do not tell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jtl.errors import UserError
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config, Loaded
from jtl.weights.load import load
from tests.weights import writing
from tests.weights.test_load import load_into


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "old"}, "weights.head is 'old'; expected one of 'new', 'load', 'map'"),
        ({"position_embedding": "nearest"}, "weights.position_embedding"),
        ({"channels": "sum"}, "weights.channels"),
        ({"sha256": "abc"}, "expected 64 hexadecimal digits"),
        ({"head": "map"}, "expected a map with head 'map'"),
        ({"label_map": {"a": 1}}, "expected a map with head 'map', and none without"),
    ],
)
def test_settings_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**fields)


def test_settings_that_no_tensor_tells_must_be_those_of_the_weights(tmp_path: Path) -> None:
    """Keras pads MobileNetV2 as TensorFlow does: its tensors fit, and would give other activations."""
    leaves = writing.leaves_of("mobilenet_v2")
    arrays = writing.named(FAMILIES["mobilenet_v2"].origins["keras"], leaves)
    spec = writing.save_safetensors(tmp_path / "keras.safetensors", arrays)
    tiny = MODELS["mobilenet_v2"].tiny()
    params, model_state = writing.trees_of(leaves)

    def loaded(config: Any) -> Loaded:
        return load(
            spec,
            family="mobilenet_v2",
            config=config,
            model_params=params,
            model_state=model_state,
            settings=Config(head="load"),
        )

    with pytest.raises(UserError, match=r"made with model.padding='same', .*; found model.padding='torch'"):
        loaded(tiny)
    loaded(replace(tiny, padding="same", norm_epsilon=1e-3))


def test_no_setting_is_advised_that_the_model_has_already(tmp_path: Path) -> None:
    origin = FAMILIES["cifar_resnet"].origins["pytorch_resnet_cifar10"]
    arrays = writing.named(origin, writing.leaves_of("cifar_resnet"))
    del arrays["layer1.0.bn1.bias"]
    with pytest.raises(UserError, match=r"1 leaves of the model are not filled: .*bn1/bias") as refused:
        load_into(writing.save_safetensors(tmp_path / "x.safetensors", arrays), "cifar_resnet")
    assert "(set " not in str(refused.value)
