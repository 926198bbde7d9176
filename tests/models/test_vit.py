"""What is particular to ViTs: names, grids, pools, registers, dropout and settings."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import vit

TINY = vit.tiny()


def _apply(config: vit.Config, seed: int = 0, **settings: Any) -> Any:
    model = vit.build(config, 3)
    params, state = model.init(jax.random.key(0))
    params = tree.map_named(lambda _, leaf: leaf + np.float32(0.01), params)
    images = np.random.default_rng(seed).standard_normal((64, *model.preprocess.image_px, 3), np.float32)
    return jax.jit(lambda values: model.apply(values, state, images, **settings))(params)


def test_names_are_the_public_flax_checkpoints() -> None:
    attention = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    expected = {
        "cls": (1, 1, 16),
        "embedding/kernel": (4, 4, 3, 16),
        "embedding/bias": (16,),
        "Transformer/posembed_input/pos_embedding": (1, 5, 16),
        "Transformer/encoderblock_0/LayerNorm_0/scale": (16,),
        "Transformer/encoderblock_0/LayerNorm_0/bias": (16,),
        **{f"{attention}/{name}/kernel": (16, 2, 8) for name in ("query", "key", "value")},
        **{f"{attention}/{name}/bias": (2, 8) for name in ("query", "key", "value")},
        f"{attention}/out/kernel": (2, 8, 16),
        f"{attention}/out/bias": (16,),
        "Transformer/encoderblock_0/LayerNorm_2/scale": (16,),
        "Transformer/encoderblock_0/LayerNorm_2/bias": (16,),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": (16, 32),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias": (32,),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_1/kernel": (32, 16),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_1/bias": (16,),
        "Transformer/encoder_norm/scale": (16,),
        "Transformer/encoder_norm/bias": (16,),
        "head/kernel": (16, 3),
        "head/bias": (3,),
    }
    params, _ = vit.build(replace(TINY, depth=1), 3).shapes()
    assert {name: leaf.shape for name, leaf in tree.flatten(params).items()} == expected


@pytest.mark.parametrize(
    ("changes", "added", "num_positions", "num_tokens"),
    [
        ({"image_px": (8, 12)}, {"cls"}, 7, 7),
        ({"image_px": (8, 12), "num_registers": 2}, {"cls", "registers"}, 7, 9),
        ({"image_px": (8, 12), "pool": "gap", "num_registers": 2}, {"registers"}, 6, 8),
        ({"image_px": (8, 12), "pool": "map", "patch_px": (2, 4)}, {"MAPHead_0"}, 12, 12),
    ],
)
def test_tokens_are_class_token_registers_and_grid(
    changes: dict[str, Any], added: set[str], num_positions: int, num_tokens: int
) -> None:
    config = replace(TINY, **changes)
    model = vit.build(config, 3)
    params, state = model.shapes()
    assert params.keys() == {"embedding", "Transformer", "head"} | added
    assert params["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, num_positions, 16)
    outputs = jax.eval_shape(
        model.apply, params, state, np.zeros((2, *model.preprocess.image_px, 3), np.float32)
    )
    assert outputs.intermediates["block0"].shape == (2, num_tokens, 16)


def test_gap_ignores_the_registers_own_outputs() -> None:
    outputs = _apply(replace(TINY, pool="gap", num_registers=2))
    grid_mean = np.asarray(outputs.intermediates["encoder_norm"])[:, 2:].mean(1)
    np.testing.assert_allclose(outputs.features, grid_mean, rtol=1e-5, atol=1e-6)


def test_query_key_and_value_can_be_without_bias() -> None:
    with_bias, without = (
        vit.build(replace(TINY, has_qkv_bias=bias), 3).shapes()[0] for bias in (True, False)
    )
    missing = tree.flatten(with_bias).keys() - tree.flatten(without).keys()
    assert {name.split("/", 2)[2] for name in missing} == {
        f"MultiHeadDotProductAttention_1/{name}/bias" for name in ("query", "key", "value")
    }


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"drop_path": 0.5}])
def test_dropout_is_a_function_of_the_key_in_training_alone(changes: dict[str, float]) -> None:
    config = replace(TINY, **changes)
    first, same, other = (_apply(config, train=True, key=jax.random.key(seed)).features for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(_apply(config).features, _apply(TINY).features)


def test_drop_path_grows_from_nothing_in_the_first_block() -> None:
    dropped = _apply(replace(TINY, drop_path=0.5), train=True, key=jax.random.key(0)).intermediates
    plain = _apply(TINY).intermediates
    np.testing.assert_allclose(dropped["block0"], plain["block0"], rtol=1e-5, atol=1e-6)
    is_kept = np.isclose(dropped["block1"], dropped["block0"], rtol=1e-6).all((1, 2))
    assert 0.1 < is_kept.mean() < 0.45  # both branches dropped: a quarter of 64 examples


def test_explicit_fields_override_the_sizes() -> None:
    full = vit.resolve(vit.Config(size="s16", image_px=384, depth=3))
    assert (full.dim, full.depth, full.image_px, full.patch_px) == (384, 3, (384, 384), (16, 16))


def test_pixels_that_are_0_in_both_directions_are_the_sizes_own() -> None:
    full = vit.resolve(vit.Config(size="s16", image_px=(0, 0), patch_px=(0, 0)))
    assert (full.image_px, full.patch_px) == ((224, 224), (16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_px": (8, 10)},
            r"model.image_px is \(8, 10\); expected multiples of model.patch_px, \(4, 4\)",
        ),
        ({"heads": 3}, "model.dim is 16; expected a multiple of model.heads, 3"),
        ({"pool": "mean"}, "model.pool is 'mean'; expected one of .*; nearest: "),
        ({"gelu": "erf"}, "model.gelu is 'erf'; expected one of"),
        ({"drop_path": 1.0}, "model.drop_path is 1.0; expected 0 <= value < 1"),
        ({"dropout": -0.1}, "model.dropout is -0.1; expected"),
        ({"depth": -1}, "model.depth is -1; expected 0 <= value"),
        ({"patch_px": (0, 4)}, r"model.patch_px is \(0, 4\); expected pixels"),
        ({"layer_norm_epsilon": -1.0}, "model.layer_norm_epsilon is -1.0; expected 0 <= value < 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vit.resolve(replace(TINY, **changes))
