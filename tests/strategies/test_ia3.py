"""IA3: the factors by hand, merged equals unmerged, what trains, and what is refused."""

from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.training import step
from tests import tiny

# Every linear layer, on both sides.
ALL = {
    "vit": ("/kernel$",),
    "resnet": ("conv1/kernel$", "conv2/kernel$", "conv_root/kernel$"),
    "mobilenet_v2": ("/kernel$",),
}
BLOCK = "Transformer/encoderblock_1"


def _perturbed(params: Any) -> Any:
    """Return the parameters with factors that are no longer 1, and biases that are not 0."""
    random = np.random.default_rng(0)

    def change(name: str, leaf: Any) -> Any:
        is_changed = name.startswith("extra/ia3/") or name.endswith("/bias")
        return leaf + random.normal(scale=0.3, size=leaf.shape).astype(np.float32) if is_changed else leaf

    return tree.map_named(change, params)


def _images(parts: step.Parts) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, *parts.preprocess.image_px, 3))


@pytest.mark.parametrize("model", ALL)
def test_merged_equals_unmerged(model: str) -> None:
    parts, params, model_state = tiny.make_parts(model, "ia3", outputs=ALL[model], inputs=ALL[model])
    params = _perturbed(params)
    apply = jax.jit(parts.model.apply)
    plain = apply(parts.strategy.merged(params), model_state, _images(parts))
    found = jax.jit(lambda params: step.forward_normalised(parts, params, model_state, _images(parts)))(
        params
    )
    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    unscaled = apply(own, model_state, _images(parts))
    assert np.abs(np.asarray(found.logits) - np.asarray(unscaled.logits)).max() > 1e-3
    np.testing.assert_allclose(found.logits, plain.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.features, plain.features, rtol=1e-5, atol=1e-5)


def test_factors_scale_keys_values_and_the_hidden_activations() -> None:
    """As the paper has it: l ⊙ (x W + b) is x (W l) + b l, and (l ⊙ h) W + b is h (l W) + b."""
    parts, params, _ = tiny.make_parts("vit", "ia3")
    params = _perturbed(params)
    flat, merged = tree.flatten(params), tree.flatten(parts.strategy.merged(params))
    scaled = {name for name in merged if not np.array_equal(merged[name], flat[name])}
    for kind in ("key", "value"):
        name = f"{BLOCK}/MultiHeadDotProductAttention_1/{kind}"
        factors = flat[f"extra/ia3/{name}/kernel/outputs"]
        assert factors.shape == (2, 8)
        expected = np.einsum("dhk,hk->dhk", flat[f"{name}/kernel"], factors)
        np.testing.assert_allclose(merged[f"{name}/kernel"], expected, rtol=1e-6)
        np.testing.assert_allclose(merged[f"{name}/bias"], flat[f"{name}/bias"] * factors, rtol=1e-6)
        scaled -= {
            f"{name}/{leaf}".replace("_1/M", f"_{block}/M") for block in (0, 1) for leaf in ("kernel", "bias")
        }
    name = f"{BLOCK}/MlpBlock_3/Dense_1/kernel"
    factors = flat[f"extra/ia3/{name}/inputs"]
    np.testing.assert_allclose(merged[name], np.diag(factors) @ flat[name], rtol=1e-6)
    assert scaled == {name, name.replace("block_1", "block_0")}
    assert "extra" not in parts.strategy.merged(params)


def test_a_convolutions_factors_are_one_a_channel() -> None:
    names = ("block2/unit1/conv2/kernel$",)
    parts, params, _ = tiny.make_parts("resnet", "ia3", outputs=names, inputs=names)
    params = _perturbed(params)
    flat, merged = tree.flatten(params), tree.flatten(parts.strategy.merged(params))
    name = "block2/unit1/conv2/kernel"
    one, other = (flat[f"extra/ia3/{name}/{side}"] for side in ("inputs", "outputs"))
    assert (one.shape, other.shape) == ((1, 1, 8), (8,))
    expected = np.einsum("hwio,i,o->hwio", flat[name], one.ravel(), other)
    np.testing.assert_allclose(merged[name], expected, rtol=1e-6)


def test_factors_and_head_train_and_nothing_else() -> None:
    parts, params, _ = tiny.make_parts("vit", "ia3")
    trained = {name for name, group in parts.groups.items() if not group.is_frozen}
    factors = {name for name in tree.flatten(params) if name.startswith("extra/ia3/")}
    assert len(factors) == 6
    assert trained == {"head/kernel", "head/bias", *factors}


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("vit", {"outputs": (), "inputs": ()}, r"strategy.outputs and strategy.inputs are both empty"),
        ("vit", {"inputs": ("mlp/fc2",)}, r"strategy.inputs 'mlp/fc2' matches no parameter; nearest: "),
        ("resnet", {"inputs": ()}, r"strategy.outputs '/\(key\|value\)/kernel\$' matches no parameter"),
    ],
)
def test_what_cannot_be_is_refused(model: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts(model, "ia3", **fields)
