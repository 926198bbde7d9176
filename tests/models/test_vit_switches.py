"""What the switches of a ViT change: tokens, pooling, the distilled head, and how weights are fitted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import vit
from jtl.weights import Config as WeightsConfig
from jtl.weights import fit
from jtl.weights.contract import Tensor
from jtl.weights.load import load
from jtl.weights.names.assign import assign, model_shapes
from jtl.weights.names.vit import NAMES
from tests.models.test_vit_variants import GOLDENS, draws
from tests.weights import writing

TINY = vit.tiny()
POSITIONS = "params/Transformer/posembed_input/pos_embedding"
APART = {"has_class_position": False}
SMALL = {"patch_px": 8, "dim": 128, "depth": 2, "heads": 2, "mlp_dim": 256}


def apply(num_outputs: int = 3, num_images: int = 2, **changes: Any) -> Any:
    """Return a tiny model's outputs and parameters, moved off the zeros and ones they begin with."""
    model = vit.build(replace(TINY, **changes), num_outputs)
    params, state = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    params = tree.map_named(lambda _, leaf: leaf + random.normal(0, 0.1, leaf.shape).astype("f4"), params)
    images = random.standard_normal((num_images, *model.preprocess.image_px, 3), np.float32)
    return jax.jit(lambda values: model.apply(values, state, images))(params), params


@pytest.mark.parametrize(
    ("changes", "added", "num_positions", "num_tokens"),
    [
        ({"is_distilled": True}, {"distillation"}, 6, 6),
        ({"pool": "distilled"}, {"distillation"}, 6, 6),
        ({"pool": "gap", "has_class_token": True}, set(), 5, 5),
        ({"pool": "cls_gap", "has_class_position": False}, set(), 4, 5),
        ({"num_registers": 2, "is_distilled": True}, {"registers", "distillation"}, 6, 8),
        ({"num_registers": 2, "has_register_position": True}, {"registers"}, 7, 7),
        ({"num_registers": 2, "has_class_position": False}, {"registers"}, 4, 7),
        ({"projection_dim": 8}, {"projection"}, 5, 5),
        ({"feature_norm": "pooled"}, {"feature_norm"}, 5, 5),
    ],
)
def test_switches_say_which_tokens_there_are_and_which_have_positions(
    changes: dict[str, Any], added: set[str], num_positions: int, num_tokens: int
) -> None:
    model = vit.build(replace(TINY, **changes), 3)
    params, state = model.shapes()
    assert params.keys() == {"cls", "embedding", "Transformer", "head"} | added
    assert params["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, num_positions, 16)
    images = np.zeros((2, 8, 8, 3), np.float32)
    outputs = jax.eval_shape(model.apply, params, state, images)
    assert outputs.intermediates["block0"].shape == (2, num_tokens, 16)
    tokens = np.zeros((2, num_tokens, 1), np.float32)
    tokens[:, -4:, 0] = [1, 2, 3, 4]
    np.testing.assert_array_equal(model.pool(jnp.asarray(tokens), images, "mean"), np.full((2, 1), 2.5))


def test_registers_follow_the_class_tokens_and_take_no_position() -> None:
    outputs, params = apply(num_registers=2, is_distilled=True)
    table = params["Transformer"]["posembed_input"]["pos_embedding"][0]
    first = outputs.intermediates["embedding"]
    for index, expected in enumerate(
        (params["cls"][0, 0] + table[0], params["distillation"][0, 0] + table[1], *params["registers"][0])
    ):
        np.testing.assert_allclose(first[:, index], np.stack([expected] * 2), rtol=1e-6)


def test_cls_gap_is_the_class_token_then_the_mean_of_the_grid() -> None:
    outputs, _ = apply(pool="cls_gap", num_registers=2)
    tokens = np.asarray(outputs.intermediates["encoder_norm"])
    expected = np.concatenate([tokens[:, 0], tokens[:, 3:].mean(1)], axis=-1)
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-5, atol=1e-6)


def test_distilled_logits_are_the_mean_of_two_heads_of_two_tokens() -> None:
    outputs, params = apply(pool="distilled")
    tokens, head = np.asarray(outputs.intermediates["encoder_norm"]), params["head"]
    first = tokens[:, 0] @ head["kernel"] + head["bias"][None]
    second = tokens[:, 1] @ head["distilled"]["kernel"] + head["distilled"]["bias"][None]
    np.testing.assert_allclose(outputs.logits, (first + second) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"head_widths": (6,)}, {"features": ("block0",)}])
def test_a_head_of_layers_or_of_other_features_is_one(changes: dict[str, Any]) -> None:
    params, _ = vit.build(replace(TINY, pool="distilled", **changes), 3).shapes()
    assert "distilled" not in params["head"]


def test_norm_behind_the_pooling_normalises_what_is_pooled() -> None:
    outputs, params = apply(pool="gap", feature_norm="pooled")
    assert "encoder_norm" not in outputs.intermediates
    assert "encoder_norm" not in params["Transformer"]
    pooled = np.asarray(outputs.intermediates["block1"]).mean(1)
    centred = pooled - pooled.mean(-1, keepdims=True)
    expected = centred / np.sqrt(pooled.var(-1, keepdims=True) + 1e-6)
    norm = params["feature_norm"]
    expected = expected * norm["scale"][None] + norm["bias"][None]
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-4, atol=1e-5)


def test_projected_features_can_be_of_length_one() -> None:
    projected, params = apply(0, projection_dim=8)
    units, _ = apply(0, projection_dim=8, has_unit_features=True)
    expected = np.asarray(projected.intermediates["encoder_norm"])[:, 0] @ params["projection"]["kernel"]
    np.testing.assert_allclose(projected.features, expected, rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(units.features, expected / lengths, rtol=1e-4, atol=1e-5)


def test_layer_scale_begins_so_small_that_blocks_change_little() -> None:
    model = vit.build(replace(TINY, has_layer_scale=True), 0)
    params, state = model.init(jax.random.key(0))
    outputs = jax.jit(model.apply)(params, state, np.ones((1, 8, 8, 3), np.float32)).intermediates
    np.testing.assert_allclose(outputs["block1"], outputs["embedding"], atol=1e-3)
    assert not np.array_equal(outputs["block1"], outputs["embedding"])


def test_every_switch_computes_in_the_dtype_asked_for() -> None:
    changes = {"has_layer_scale": True, "mlp": "swiglu", "has_pre_norm": True, "num_registers": 1}
    model = vit.build(replace(TINY, dtype="bfloat16", pool="distilled", **changes), 3)
    outputs = jax.eval_shape(model.apply, *model.shapes(), np.zeros((1, 8, 8, 3), np.float32))
    assert {value.dtype for name, value in outputs.intermediates.items() if name != "pre_head"} == {
        jnp.dtype("bfloat16")
    }
    assert outputs.logits.dtype == outputs.features.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp": "relu"}, "model.mlp is 'relu'; expected one of"),
        ({"feature_norm": "none"}, "model.feature_norm is 'none'; expected one of"),
        ({"projection_dim": -1}, "model.projection_dim is -1; expected 0 <= value"),
        ({"pool": "distilled", "projection_dim": 4}, "model.projection_dim is 4 and model.pool 'distilled'"),
        (
            {"has_register_position": True, "has_class_position": False},
            "model.has_register_position is True and model.has_class_position False; expected",
        ),
    ],
)
def test_switches_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vit.resolve(replace(TINY, **changes))


def fitted(
    tmp_path: Path, name: str, config: vit.Config, num_outputs: int, settings: WeightsConfig
) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what loading a golden's tensors gives, its leaves, and the tensors."""
    shapes = json.loads(str(GOLDENS[f"{name}/shapes"]))
    tensors = {each: draws.tensor(name, each, tuple(shape)) for each, shape in shapes.items()}
    spec = writing.save_safetensors(tmp_path / "model.safetensors", tensors)
    params, state = vit.build(config, num_outputs).init(jax.random.key(0))
    loaded = load(
        spec, family="vit", config=config, model_params=params, model_state=state, settings=settings
    )
    return loaded, tree.flatten({"params": loaded.params}), tensors


@pytest.mark.parametrize("image_px", [48, (16, 40)])
@pytest.mark.parametrize(
    ("name", "position", "num_prefix", "mode"),
    [
        ("timm_distilled", "pos_embed", 2, "bicubic"),
        ("timm_deit3", "pos_embed", 0, "bicubic"),
        ("hf_deit_teacher", "deit.embeddings.position_embeddings", 2, "bicubic_plain"),
        ("hf_dinov2_registers", "dinov2_with_registers.embeddings.position_embeddings", 1, "bicubic"),
    ],
)
def test_other_image_sizes_resample_positions_and_keep_the_tokens(
    tmp_path: Path, name: str, position: str, num_prefix: int, mode: str, image_px: Any
) -> None:
    switches: dict[str, dict[str, Any]] = {
        "timm_distilled": {"pool": "distilled"},
        "timm_deit3": {"has_layer_scale": True, "has_class_position": False},
        "hf_deit_teacher": {"pool": "distilled"},
        "hf_dinov2_registers": {"pool": "cls_gap", "has_layer_scale": True, "num_registers": 3},
    }
    config = vit.Config(**SMALL, **switches[name], image_px=image_px)
    _, leaves, tensors = fitted(tmp_path, name, config, 10, WeightsConfig(head="load"))
    expected = fit.resample(tensors[position], num_prefix, (4, 4), vit.grid(config), mode)
    assert expected.shape[1] == num_prefix + (36 if image_px == 48 else 10)
    np.testing.assert_array_equal(leaves[POSITIONS], expected)


def test_both_heads_take_the_rows_of_a_label_map(tmp_path: Path) -> None:
    config = vit.Config(**SMALL, pool="distilled", image_px=32)
    settings = WeightsConfig(head="map", label_map={"1": 7})
    _, leaves, tensors = fitted(tmp_path, "timm_distilled", config, 2, settings)
    for leaf, source in (("head", "head"), ("head/distilled", "head_dist")):
        kernel, bias = leaves[f"params/{leaf}/kernel"], leaves[f"params/{leaf}/bias"]
        np.testing.assert_array_equal(kernel[:, 1], tensors[f"{source}.weight"][7])
        np.testing.assert_array_equal(bias, [0, tensors[f"{source}.bias"][7]])
        assert not kernel[:, 0].any()


def test_a_label_map_needs_as_many_heads_on_both_sides(tmp_path: Path) -> None:
    config = vit.Config(**SMALL, is_distilled=True, image_px=32)
    settings = WeightsConfig(head="map", label_map={"1": 7})
    with pytest.raises(UserError, match=r"weights\.head 'map' needs a linear head on both sides"):
        fitted(tmp_path, "timm_distilled", config, 2, settings)


def test_dinos_teacher_is_its_backbone() -> None:
    shapes = json.loads(str(GOLDENS["timm_dino/shapes"]))
    head = {"head.mlp.0.weight": (8, 128), "head.mlp.4.bias": (8,), "head.last_layer.weight_g": (9, 1)}
    names = {f"backbone.{name}": tuple(shape) for name, shape in shapes.items()} | head
    found = assign(NAMES.origins["facebook_dino"], names)
    assert found.unknown == ()
    assert found.left_out.keys() == head.keys()
    files = {name: Tensor(shape, "float32", lambda: np.zeros(0)) for name, shape in names.items()}
    recognised = NAMES.recognise(model_shapes(found.filled, files))
    assert recognised is not None
    assert recognised[0] == {"size": "ti16", **SMALL, "image_px": 32}


@pytest.mark.parametrize(
    ("changes", "num_outputs", "num_parameters"),
    [
        ({"size": "s8"}, 0, 21_670_272),
        ({"size": "s14", "has_layer_scale": True}, 0, 22_056_192),
        ({"size": "b14", "has_layer_scale": True, **APART, "num_registers": 4}, 0, 86_582_016),
        pytest.param({"size": "g14", "has_layer_scale": True}, 0, 1_136_479_232, marks=pytest.mark.slow),
        ({"size": "b16", "pool": "distilled"}, 1000, 87_338_192),
        ({"size": "s16", "has_layer_scale": True, **APART}, 1000, 22_059_496),
    ],
    ids=["dino_s8", "dinov2_s14", "dinov2_b14_reg4", "dinov2_g14", "deit_b16_distilled", "deit3_s16"],
)  # fmt: skip
def test_sizes_have_timms_number_of_parameters(
    changes: dict[str, Any], num_outputs: int, num_parameters: int
) -> None:
    model = vit.build(vit.Config(**changes), num_outputs)
    assert tree.num_values(model.shapes()[0]) == num_parameters
