"""The read-out: chosen layers, their pooling, adapters on them, and what they cost."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jtl import rng, tree
from jtl.errors import UserError
from jtl.models import MODELS, Model, head, vit
from tests import tiny

VIT = vit.tiny()
RESNET = MODELS["resnet"].tiny()


def _images(model: Model) -> np.ndarray:
    shape = (2, *model.preprocess.image_px, model.preprocess.num_channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _outputs(config: Any, num_outputs: int = 3) -> Any:
    model = MODELS[config.name].build(config, num_outputs)
    params, model_state = model.init(rng.key(0, "init"))
    return model.apply(params, model_state, _images(model), train=False)


def test_features_are_the_chosen_layers_pooled_one_behind_the_other() -> None:
    plain = _outputs(VIT).intermediates
    found = _outputs(replace(VIT, features=("block0", "block1")))
    means = [np.asarray(plain[name])[:, 1:].mean(1) for name in ("block0", "block1")]
    np.testing.assert_allclose(found.features, np.concatenate(means, -1), rtol=1e-5, atol=1e-6)
    assert found.logits.shape == (2, 3)


@pytest.mark.parametrize(("pool", "width"), [("mean", 16), ("cls", 16), ("cls_mean", 32)])
def test_tokens_pool_to_the_class_token_the_mean_or_both(pool: str, width: int) -> None:
    found = _outputs(replace(VIT, features=("block0",), feature_pool=pool))
    tokens = np.asarray(found.intermediates["block0"])
    expected = {"mean": [tokens[:, 1:].mean(1)], "cls": [tokens[:, 0]]}
    expected["cls_mean"] = [*expected["cls"], *expected["mean"]]
    assert found.features.shape == (2, width)
    np.testing.assert_allclose(found.features, np.concatenate(expected[pool], -1), rtol=1e-5, atol=1e-6)


def test_maps_are_averaged_over_space() -> None:
    found = _outputs(replace(RESNET, features=("stage1",)))
    stage = np.asarray(found.intermediates["stage1"])
    np.testing.assert_allclose(found.features, stage.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["tokens", "maps"])
@pytest.mark.parametrize("adapter", list(head.ADAPTERS))
def test_adapters_are_part_of_the_head_and_start_with_its_logits_at_zero(adapter: str, config: Any) -> None:
    layer = "block0" if config is VIT else "stage1"
    changed = replace(config, features=(layer,), adapter=adapter, adapter_width=5)
    model = MODELS[config.name].build(changed, 3)
    params, model_state = model.init(rng.key(0, "init"))
    assert tree.flatten(params["head"])["adapter0/kernel"].shape[-1] == 5
    assert params["head"]["kernel"].shape == (5, 3)
    outputs = model.apply(params, model_state, _images(model), train=False)
    assert not np.asarray(outputs.logits).any()
    without = MODELS[config.name].build(replace(config, features=(layer,)), 3)
    expected = without.apply(
        {**params, "head": without.init(rng.key(0, "init"))[0]["head"]},
        model_state,
        _images(model),
        train=False,
    )
    np.testing.assert_array_equal(outputs.features, expected.features)


def test_a_convolution_on_tokens_sees_their_grid_without_the_prefix() -> None:
    config = replace(VIT, features=("block0",), adapter="conv", adapter_width=1, head_activation="relu")
    model = MODELS["vit"].build(config, 1)
    params, model_state = model.init(rng.key(0, "init"))
    params["head"]["adapter0"]["kernel"] = np.zeros((3, 3, 16, 1), np.float32)
    params["head"]["adapter0"]["kernel"][0, 1, 0, 0] = 1.0  # the first channel of the patch above
    params["head"]["kernel"] = np.ones((1, 1), np.float32)
    outputs = model.apply(params, model_state, _images(model), train=False)
    grid = np.asarray(outputs.intermediates["block0"])[:, 1:, 0].reshape(2, 2, 2)
    above = np.maximum(grid[:, :1], 0).sum((1, 2)) / 4
    np.testing.assert_allclose(outputs.logits[:, 0], above, rtol=1e-5, atol=1e-6)


def test_training_an_adapter_keeps_the_backbone_and_moves_every_leaf_of_the_head() -> None:
    config = replace(VIT, features=("block0",), adapter="mlp", adapter_width=4)
    parts, params, model_state = tiny.make_parts("vit", "probe", model_config=config)
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(2)]
    state, _ = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), batches)
    for name, leaf in tree.flatten(jax.device_get(state.trainable)).items():
        assert name.startswith("head/")
        assert not np.array_equal(leaf, tree.flatten(params)[name]), name
    for name, leaf in tree.flatten(jax.device_get(state.frozen)).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[name], err_msg=name)


def test_a_probe_on_a_low_layer_does_not_compute_the_layers_above() -> None:
    flops = {}
    for layer in ("block0", "block1"):
        config = replace(VIT, features=(layer,))
        parts, params, model_state = tiny.make_parts("vit", "probe", model_config=config)
        built = tiny.compiled(parts, tiny.make_batch(parts), params, model_state)
        flops[layer] = built.cost_analysis()["flops"]
    assert flops["block0"] < 0.65 * flops["block1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("block7",)}, "model.features names 'block7', which is no layer; nearest: 'block1'"),
        ({"adapter": "mlp"}, "model.features names no layer"),
        ({"adapter": "lstm", "features": ("block0",)}, "model.adapter is 'lstm'"),
        ({"feature_pool": "max"}, "model.feature_pool is 'max'"),
        ({"adapter_width": 0}, "model.adapter_width is 0; expected 1 <= value"),
        ({"features": ("pre_head",), "adapter": "conv"}, "'conv' on a layer of shape"),
        ({"features": ("block0",), "feature_pool": "cls", "pool": "gap"}, "has no class token"),
    ],
)
def test_settings_that_fit_no_layer_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _outputs(replace(VIT, **changes))
