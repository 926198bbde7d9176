"""LoRA and BitFit: identities, what trains, and what a step costs beside full fine-tuning (IA3's too)."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.training import step
from tests import tiny

ALL_LINEAR = {
    "vit": ("/kernel$",),
    "resnet": ("conv1/kernel$", "conv2/kernel$", "conv3/kernel$", "conv_root/kernel$"),
    "mobilenet_v2": ("/kernel$",),
}


def _perturbed(params: Any) -> Any:
    """Return the parameters with adapters that are no longer the identity."""
    random = np.random.default_rng(0)

    def change(name: str, leaf: Any) -> Any:
        is_up = name.startswith("extra/lora/") and name.endswith("/up")
        return random.normal(scale=0.3, size=leaf.shape).astype(np.float32) if is_up else leaf

    return tree.map_named(change, params)


def _images(parts: step.Parts) -> jax.Array:
    return jax.random.normal(
        jax.random.key(1), (2, *parts.preprocess.image_px, parts.preprocess.num_channels)
    )


@pytest.mark.parametrize("model", ALL_LINEAR)
def test_merged_equals_unmerged(model: str) -> None:
    parts, params, model_state = tiny.make_parts(model, "lora", targets=ALL_LINEAR[model], rank=2)
    params = _perturbed(params)
    plain = parts.model.apply(
        parts.strategy.merged(params), model_state, _images(parts), train=False, key=None
    )
    found = step.forward_normalised(parts, params, model_state, _images(parts))
    before = step.forward_normalised(parts, tree.map_named(_without_up, params), model_state, _images(parts))
    assert np.abs(np.asarray(found.logits) - np.asarray(before.logits)).max() > 1e-3
    np.testing.assert_allclose(found.logits, plain.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.features, plain.features, rtol=1e-5, atol=1e-5)


def _without_up(name: str, leaf: Any) -> Any:
    return np.zeros_like(leaf) if name.endswith("/up") else leaf


def test_update_is_alpha_over_rank_times_down_up() -> None:
    parts, params, _ = tiny.make_parts("vit", "lora", rank=4, alpha=12.0)
    params = _perturbed(params)
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/value/kernel"
    flat, merged = tree.flatten(params), tree.flatten(parts.strategy.merged(params))
    down, up = (flat[f"extra/lora/{name}/{part}"] for part in ("down", "up"))
    assert down.shape == (16, 4)
    assert up.shape == (4, 2, 8)
    expected = flat[name] + 3.0 * np.einsum("dr,rhk->dhk", down, up)
    np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-6)
    key_kernel = name.replace("value", "key")
    np.testing.assert_array_equal(merged[key_kernel], flat[key_kernel])
    assert not any(each.startswith("extra/") for each in merged)


def test_gradient_reaches_the_adapters_through_recomputed_blocks() -> None:
    """With `remat` the step gives the same loss and the same next adapters."""
    states = []
    for remat in ("none", "full"):
        config = replace(MODELS["vit"].tiny(), remat=remat)
        parts, params, model_state = tiny.make_parts("vit", "lora", model_config=config)
        state, _ = tiny.Trainer(parts).train(
            tiny.make_state(parts, _perturbed(params), model_state), [tiny.make_batch(parts)]
        )
        states.append(tree.flatten(jax.device_get(state.trainable)))
    for name, leaf in states[0].items():
        np.testing.assert_allclose(states[1][name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("train", "ending"), [("bias", ("bias",)), ("norm", ("scale", "bias"))])
def test_bitfit_trains_the_vectors_it_says_and_the_head(train: str, ending: tuple[str, ...]) -> None:
    parts, _, _ = tiny.make_parts("vit", "bitfit", train=train)
    trained = [name for name, group in parts.groups.items() if not group.is_frozen]
    body = [name for name in trained if not name.startswith("head/")]
    assert {"head/kernel", "head/bias"} <= set(trained)
    assert body
    assert all(name.rpartition("/")[2] in ending for name in body)
    assert all("norm" in name.lower() for name in body) == (train == "norm")


@pytest.mark.slow
def test_cost_of_a_step_falls_and_no_full_gradient_is_made() -> None:
    """LoRA, BitFit and IA3 hold gradients of their own leaves alone, and skip the kernels' products."""
    config = replace(MODELS["vit"].tiny(), dim=64, heads=4, mlp_dim=256, image_px=32)
    costs, gradients = {}, {}
    for strategy in ("full", "lora", "bitfit", "ia3"):
        parts, params, model_state = tiny.make_parts("vit", strategy, model_config=config)
        compiled = tiny.compiled(parts, tiny.make_batch(parts), params, model_state)
        costs[strategy] = compiled.cost_analysis()["flops"]
        gradients[strategy] = _products_as_large_as_a_kernel(compiled.as_text())
    assert costs["lora"] < 0.8 * costs["full"]
    assert costs["bitfit"] < 0.75 * costs["full"]
    assert costs["ia3"] < 0.75 * costs["full"]
    assert gradients["full"]
    assert not gradients["lora"]
    assert not gradients["bitfit"]
    assert not gradients["ia3"]


def _products_as_large_as_a_kernel(text: str) -> list[str]:
    """Return the matrix products of a compiled step whose result has an attention kernel's 64 x 64 values."""
    products = [line.partition(" = ")[2] for line in text.splitlines() if " dot(" in line or "matmul" in line]
    return [line for line in products if line.startswith(("f32[64,64]", "f32[64,4,16]"))]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("attn/q",)}, r"strategy.targets 'attn/q' matches no parameter; nearest"),
        ({"rank": 0}, "strategy.rank is 0; expected 1 or more"),
        (
            {"rank": 10**6},
            "strategy.rank is 1000000; expected at most 16, the full rank of",
        ),
        ({"alpha": -1.0}, "strategy.alpha is -1.0"),
        ({"targets": ()}, "at least one regular expression"),
    ],
)
def test_lora_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", "lora", **fields)
