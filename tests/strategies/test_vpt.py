"""Visual prompt tuning: the forward pass by hand, as the paper has it; what trains; how weights load."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import ndtr, softmax

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS, vit
from jtl.weights.contract import Config
from jtl.weights.load import load
from jtl.weights.recognise import recognise
from tests import tiny

NUM_PROMPTS = 3


def _model(**changes: Any) -> tuple[vit.Config, Any, Any]:
    """Return a tiny prompted ViT with biases that are not zero: settings, model, parameters."""
    config = replace(vit.tiny(), **{"num_prompts": NUM_PROMPTS, **changes})
    model = vit.build(config, 3)
    params, _ = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    noisy = tree.map_named(
        lambda _, leaf: (leaf + 0.2 * random.normal(size=leaf.shape)).astype(np.float32), params
    )
    return config, model, noisy


def _by_hand(params: Any, images: np.ndarray, *, is_deep: bool) -> np.ndarray:
    """Return the features: prompts stand behind the class token, as in eq. 4 and 5."""
    leaves = {name: np.float64(leaf) for name, leaf in tree.flatten(params).items()}
    patches = images.reshape(-1, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 48)
    tokens = patches @ leaves["embedding/kernel"].reshape(48, 16) + leaves["embedding/bias"].reshape(1, 1, -1)
    cls = np.broadcast_to(leaves["cls"], (len(images), 1, 16))
    x = np.concatenate([cls, tokens], 1) + leaves["Transformer/posembed_input/pos_embedding"]
    cls, patch = x[:, :1], x[:, 1:]
    for index in range(2):
        if index == 0 or is_deep:
            own = leaves["Transformer/prompts"][index]
            prompts = np.broadcast_to(own, (len(images), *own.shape))
        x = _block(leaves, f"Transformer/encoderblock_{index}", np.concatenate([cls, prompts, patch], 1))
        cls, prompts, patch = x[:, :1], x[:, 1 : 1 + NUM_PROMPTS], x[:, 1 + NUM_PROMPTS :]
    return _norm(leaves, "Transformer/encoder_norm", cls)[:, 0]


def _norm(leaves: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    return scaled * leaves[f"{name}/scale"].reshape(1, 1, -1) + leaves[f"{name}/bias"].reshape(1, 1, -1)


def _dense(leaves: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ leaves[f"{name}/kernel"] + leaves[f"{name}/bias"].reshape(1, 1, -1)


def _block(leaves: dict[str, np.ndarray], block: str, x: np.ndarray) -> np.ndarray:
    attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
    y = _norm(leaves, f"{block}/LayerNorm_0", x)
    query, key, value = (
        np.einsum("btd,dhk->bhtk", y, leaves[f"{attention}/{each}/kernel"])
        + leaves[f"{attention}/{each}/bias"][None, :, None]
        for each in ("query", "key", "value")
    )
    mixed = softmax(query @ key.swapaxes(-1, -2) / math.sqrt(8), axis=-1) @ value
    x = x + np.einsum("bhtk,hkd->btd", mixed, leaves[f"{attention}/out/kernel"])
    x = x + leaves[f"{attention}/out/bias"].reshape(1, 1, -1)
    y = _dense(leaves, f"{mlp}/Dense_0", _norm(leaves, f"{block}/LayerNorm_2", x))
    return x + _dense(leaves, f"{mlp}/Dense_1", y * ndtr(y))  # y ndtr(y) is the exact GELU


@pytest.mark.parametrize("is_deep", [True, False])
def test_features_are_the_papers(is_deep: bool) -> None:
    _, model, params = _model(has_deep_prompts=is_deep)
    assert params["Transformer"]["prompts"].shape == (2 if is_deep else 1, NUM_PROMPTS, 16)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    found = jax.jit(model.apply)(params, {}, images)
    np.testing.assert_allclose(found.features, _by_hand(params, images, is_deep=is_deep), atol=2e-5)
    shapes = {name: leaf.shape for name, leaf in found.intermediates.items()}
    assert shapes == {
        **dict.fromkeys(("embedding", "block0", "block1", "encoder_norm"), (2, 5, 16)),
        "pre_head": (2, 16),
    }


def test_prompts_and_head_train_and_nothing_else() -> None:
    parts, params, _ = tiny.make_parts("vit", "vpt")
    trained = {name for name, group in parts.groups.items() if not group.is_frozen}
    assert trained == {"Transformer/prompts", "head/kernel", "head/bias"}
    assert tree.flatten(parts.strategy.merged(params)) == tree.flatten(params)


def test_a_model_without_prompts_is_refused() -> None:
    for model in ("vit", "resnet"):
        with pytest.raises(
            UserError, match=r"strategy 'vpt' trains prompts and this model has none; set model"
        ):
            tiny.make_parts(model, "vpt", model_config=MODELS[model].tiny())


def test_prompts_stay_fresh_from_other_weights_and_are_read_from_a_runs(tmp_path: Path) -> None:
    config, _, params = _model()
    own = tree.flatten({"params": params})
    fresh = tree.map_named(lambda _, leaf: np.zeros_like(leaf), params)
    for name in ("prompted", "plain"):
        kept = {key: leaf for key, leaf in own.items() if name == "prompted" or not key.endswith("prompts")}
        save_file(kept, tmp_path / f"{name}.safetensors")
        loaded = load(
            str(tmp_path / f"{name}.safetensors"),
            family="vit",
            config=config,
            model_params=fresh,
            model_state={},
            settings=Config(head="load"),
        )
        expected = {**tree.flatten(params), **({} if name == "prompted" else {"Transformer/prompts": 0.0})}
        for key, leaf in tree.flatten(loaded.params).items():
            np.testing.assert_array_equal(leaf, np.broadcast_to(expected[key], leaf.shape), err_msg=key)
        new = [row.targets for row in loaded.report.of("re-initialised")]
        assert new == ([] if name == "prompted" else [("params/Transformer/prompts",)])


@pytest.mark.parametrize("is_deep", [True, False])
def test_prompts_of_a_file_are_recognised(is_deep: bool, tmp_path: Path) -> None:
    _, _, params = _model(has_deep_prompts=is_deep)
    save_file(tree.flatten({"params": params}), tmp_path / "prompted.safetensors")
    found = vit.Config(**recognise(str(tmp_path / "prompted.safetensors")).config_fields)
    assert (found.num_prompts, found.has_deep_prompts) == (NUM_PROMPTS, is_deep)


def test_weights_with_prompts_are_not_read_without_them(tmp_path: Path) -> None:
    config, _, params = _model()
    save_file(tree.flatten({"params": params}), tmp_path / "prompted.safetensors")
    plain, _ = vit.build(replace(config, num_prompts=0), 3).init(jax.random.key(0))
    with pytest.raises(UserError, match="params/Transformer/prompts"):
        load(
            str(tmp_path / "prompted.safetensors"),
            family="vit",
            config=replace(config, num_prompts=0),
            model_params=plain,
            model_state={},
            settings=Config(head="load"),
        )
