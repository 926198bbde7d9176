"""Variants of ViTs as their libraries write them: recognised, equal layer by layer, and written back.

`tests/goldens/make_vit.py` says how `vit.npz` was made.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import Model, vit
from jtl.models.layers import layer_of
from jtl.weights import convert, fit
from jtl.weights.contract import Tensor
from jtl.weights.names import assign
from jtl.weights.names.vit import NAMES
from tests.goldens import draws

IMAGES = (2, 32, 32, 3)
SIZE = {"patch_px": 8, "dim": 128, "depth": 2, "heads": 2, "mlp_dim": 256, "image_px": 32}
BASE = {"size": "ti16", **SIZE}
FOUR_HEADS = {"heads": 4, "gelu": "exact", "layer_norm_epsilon": 1e-12}
DINOV2_HEADS = {**FOUR_HEADS, "layer_norm_epsilon": 1e-6}
SCALED, REGISTERS = {"has_layer_scale": True}, {"num_registers": 3}
NO_CLASS_POSITION = {"has_class_position": False}
# The origin each is of, what its shapes tell, and what its config.json adds; timm's begins with these names.
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "timm_dino": ("timm", {}, {}),
    "timm_distilled": ("timm", {"pool": "distilled"}, {}),
    "timm_deit3": ("timm", {**SCALED, **NO_CLASS_POSITION}, {}),
    "timm_dinov2": ("timm", SCALED, {}),
    "timm_dinov2_registers": (
        "timm_swiglu",
        {**SCALED, **NO_CLASS_POSITION, **REGISTERS, "mlp": "swiglu", "mlp_dim": 192},
        {},
    ),
    "timm_mae_tuned": ("timm", {"pool": "gap", "feature_norm": "pooled", "has_class_token": True}, {}),
    "timm_gap_registers": ("timm", {"pool": "gap", "feature_norm": "pooled", **REGISTERS}, {}),
    "timm_placed_registers": ("timm", {"pool": "gap", "has_register_position": True, **REGISTERS}, {}),
    "timm_map_registers": ("timm", {"size": "siglip_b16", **REGISTERS}, {"gelu": "exact"}),
    "timm_clip": ("timm", {"size": "clip_b32"}, {}),
    "facebook_dinov2": (
        "facebook_dinov2",
        {**SCALED, **REGISTERS, "mlp": "swiglu", "mlp_dim": 192},
        {},
    ),
    "facebook_deit3": ("facebook_deit3", {**SCALED, **NO_CLASS_POSITION}, {}),
    "facebook_mae": ("timm", {}, {}),
    "hf_vit": ("huggingface", {}, {**FOUR_HEADS, "gelu": "tanh"}),
    "hf_deit": ("huggingface_deit", {"is_distilled": True}, FOUR_HEADS),
    "hf_deit_teacher": ("huggingface_deit_teacher", {"pool": "distilled"}, FOUR_HEADS),
    "hf_dinov2": ("huggingface_dinov2", SCALED, DINOV2_HEADS),
    "hf_dinov2_swiglu": (
        "huggingface_dinov2",
        {**SCALED, "pool": "cls_gap", "mlp": "swiglu", "mlp_dim": 176},
        DINOV2_HEADS,
    ),
    "hf_dinov2_registers": (
        "huggingface_dinov2_registers",
        {**SCALED, **REGISTERS, "pool": "cls_gap"},
        DINOV2_HEADS,
    ),
    "hf_mae": ("huggingface", {}, FOUR_HEADS),
}
with np.load(Path(__file__).parents[1] / "goldens" / "vit.npz") as _file:
    GOLDENS: dict[str, np.ndarray] = {name: _file[name] for name in _file.files}


class Variant(NamedTuple):
    """A file's tensors, where they go, what they were recognised as, and the model filled with them."""

    tensors: dict[str, np.ndarray]
    key: str
    assignment: assign.Assignment
    fields: dict[str, Any]
    stated: dict[str, Any]
    model: Model
    leaves: dict[str, np.ndarray]


@cache
def variant(name: str) -> Variant:
    shapes = json.loads(str(GOLDENS[f"{name}/shapes"]))
    tensors = {each: draws.tensor(name, each, tuple(shape)) for each, shape in shapes.items()}
    files = {each: Tensor(array.shape, "float32", array.copy) for each, array in tensors.items()}
    best = assign.best_origin(NAMES.origins, files)
    assert best is not None
    key, assignment = best
    shapes_of_leaves = assign.model_shapes(assignment.filled, files)
    found = NAMES.recognise(shapes_of_leaves)
    assert found is not None
    stated = json.loads(str(GOLDENS.get(f"{name}/config", "{}"))) or timm_config(name)
    stated = NAMES.of_config(stated) or {}
    num_outputs = shapes_of_leaves.get("params/head/kernel", (0, 0))[-1]
    model = vit.build(vit.Config(**{**found[0], **stated}), num_outputs)
    expected = {f"params/{leaf}": each.shape for leaf, each in tree.flatten(model.shapes()[0]).items()}
    leaves: dict[str, np.ndarray] = {}
    for source, (row, targets) in assignment.filled.items():
        parts = row.op.forward(tensors[source], tuple(expected[target] for target in targets))
        leaves |= zip(targets, parts, strict=True)
    assert {leaf: value.shape for leaf, value in leaves.items()} == expected
    return Variant(tensors, key, assignment, found[0], stated, model, leaves)


def timm_config(name: str) -> dict[str, Any]:
    architectures = {"timm_clip": "vit_base_clip_quickgelu", "timm_map_registers": "vit_base_map"}
    return {"architecture": architectures[name]} if name in architectures else {}


def test_the_goldens_say_what_made_them() -> None:
    made_with = json.loads(str(GOLDENS["made_with"]))
    assert made_with["script"] == "tests/goldens/make_vit.py"
    assert (made_with["timm"], made_with["transformers"]) == ("1.0.31", "5.23.0")


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_recognised_with_every_tensor_in_its_place(name: str) -> None:
    key, fields, stated = VARIANTS[name]
    found = variant(name)
    assert found.key == key
    assert found.assignment.unknown == ()
    assert found.fields == {**BASE, **fields}
    assert {**found.stated, **stated} == found.stated


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_its_librarys_layer_by_layer(name: str) -> None:
    _, _, _, _, _, model, leaves = variant(name)
    outputs = jax.jit(model.apply)(tree.unflatten(leaves)["params"], {}, draws.images(name, IMAGES))
    prefix = f"{name}/layers/"
    layers = {key.removeprefix(prefix): value for key, value in GOLDENS.items() if key.startswith(prefix)}
    assert {"block0", "block1"} < layers.keys()
    for layer, golden in layers.items():
        found = draws.sampled(layer, outputs.intermediates[layer])
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max(), err_msg=layer)
    np.testing.assert_allclose(outputs.logits, GOLDENS[f"{name}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_written_back_bit_by_bit(name: str) -> None:
    found = variant(name)
    arrays, missing = convert.to_origin(NAMES.origins[found.key], found.leaves)
    assert missing == []
    # Without a head it is a bare backbone, whose names have no prefix.
    prefix = "" if "params/head/kernel" in found.leaves else NAMES.origins[found.key].prefix
    tensors = {
        each.removeprefix(prefix): array
        for each, array in found.tensors.items()
        if each not in found.assignment.left_out
    }
    assert arrays.keys() == tensors.keys()
    for each, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[each], err_msg=each)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_of_a_variant_is_in_one_layer(name: str) -> None:
    _, _, _, _, _, model, leaves = variant(name)
    layers = {leaf: layer_of(leaf.removeprefix("params/"), model.layers) for leaf in leaves}
    assert {index for leaf, index in layers.items() if "/block" not in leaf} <= {0, 1, 2, 3}
    assert all((index == 3) == leaf.startswith("params/head/") for leaf, index in layers.items())


def test_position_embeddings_are_resampled_as_each_library_does() -> None:
    compared = 0
    indices = {key.split("/")[1] for key in GOLDENS if key.startswith("positions/")}
    for index in sorted(indices):
        *grids, prefix = GOLDENS[f"positions/{index}/grids"].tolist()
        old, new = tuple(grids[:2]), tuple(grids[2:])
        table = draws.tensor("positions", index, (1, prefix + old[0] * old[1], 2))
        for mode in fit.RESAMPLERS:
            if f"positions/{index}/{mode}" not in GOLDENS:
                continue
            found = fit.resample(table, prefix, old, new, mode)
            np.testing.assert_array_equal(found[:, :prefix], table[:, :prefix])
            expected = GOLDENS[f"positions/{index}/{mode}"]
            np.testing.assert_allclose(found[:, prefix:], expected, rtol=0, atol=1e-5, err_msg=mode)
            compared += 1
    assert compared == 15


GELUS = {"GELU": "exact", "GELUTanh": "tanh", "QuickGELU": "quick", "SiLU": "exact"}


def test_every_vit_of_timm_has_the_heads_epsilon_and_gelu_it_was_trained_with() -> None:
    architectures = json.loads(str(GOLDENS["architectures"]))
    assert len(architectures) > 140
    for name, expected in architectures.items():
        patch_px, dim = expected["patch_px"], expected["dim"]
        shapes = {
            "params/embedding/kernel": (patch_px, patch_px, 3, dim),
            "params/Transformer/encoderblock_0/LayerNorm_2/scale": (dim,),
            "params/Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": (dim, 4 * dim),
        }
        found = NAMES.recognise(shapes)
        config = {"input_size": [3, expected["image_px"], expected["image_px"]]}
        stated = NAMES.of_config({"architecture": name, "pretrained_cfg": config})
        assert found is not None
        assert stated is not None, name
        full = vit.resolve(vit.Config(**{**found[0], **stated}))
        assert (full.heads, full.gelu) == (expected["heads"], GELUS[expected["gelu"]]), name
        assert full.layer_norm_epsilon == expected["epsilon"], name
        side = expected["image_px"] - expected["image_px"] % patch_px
        assert full.image_px == (side, side), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "vit", "hidden_act": "relu"}, "hidden_act 'relu' and layer_norm_eps 1e-12; expected"),
        ({"model_type": "deit", "layer_norm_eps": "small"}, "layer_norm_eps 'small'; expected one of"),
        ({"model_type": "dinov2", "num_attention_heads": 0}, "num_attention_heads 0; expected a positive"),
        ({"model_type": "vit_mae", "image_size": [224]}, r"image_size \[224\]; expected sides of 16 or more"),
        ({"model_type": "vit", "image_size": 15}, "image_size 15; expected sides of 16 or more"),
        ({"architecture": "vit_base_patch16_rpn_224"}, "'vit_base_patch16_rpn_224', whose blocks normalise"),
        (
            {"architecture": "vit_base_patch16_224", "input_size": [3, "x", 9]},
            "input_size .*; expected sides",
        ),
    ],
)
def test_a_config_of_no_vit_that_there_is_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NAMES.of_config(values)


@pytest.mark.parametrize("values", [{}, {"architecture": "resnet50"}, {"model_type": ["vit"]}])
def test_a_config_of_another_family_says_nothing(values: dict[str, Any]) -> None:
    assert NAMES.of_config(values) is None


def test_sides_of_a_config_are_whole_patches() -> None:
    values = {"model_type": "vit", "image_size": [230, 330], "patch_size": 16}
    assert NAMES.of_config(values) == {**FOUR_HEADS, "heads": 12, "image_px": (224, 320)}
    flat = {"architecture": "vit_large_patch14_clip_336", "input_size": [3, 340, 340]}
    expected = {"gelu": "exact", "layer_norm_epsilon": 1e-5, "image_px": 336}
    assert NAMES.of_config(flat) == expected


@pytest.mark.parametrize(
    ("name", "libraries", "message"),
    [
        ("hf_dinov2_registers", "timm", "timm's class tokens have no position beside registers, and this"),
        ("hf_dinov2_swiglu", "timm", "timm's heads do not read class token and grid together, as this"),
        ("hf_deit", "timm", "timm's ViTs with a distillation token have two heads, and this model has one"),
        (
            "timm_deit3",
            "huggingface",
            "transformers' ViTs have a class token with a position, and this model",
        ),
        ("facebook_dinov2", "huggingface", "their heads read class token and grid together, and this"),
    ],
)
def test_a_library_that_has_names_but_no_such_model_is_refused(
    name: str, libraries: str, message: str
) -> None:
    with pytest.raises(UserError, match=f"names have a place for every leaf, and yet {message}"):
        convert.named("vit", (libraries,), variant(name).leaves)


@pytest.mark.parametrize(
    ("name", "library", "title"),
    [
        ("hf_vit", "timm", "timm names"),
        ("hf_deit_teacher", "timm", "timm names"),
        ("timm_dino", "huggingface", "Hugging Face names"),
        ("timm_distilled", "huggingface", "Hugging Face distilled DeiT names"),
        ("timm_dinov2", "huggingface", "Hugging Face DINOv2 names"),
        ("hf_dinov2_registers", "huggingface", "Hugging Face DINOv2 with registers names"),
    ],
)
def test_weights_are_written_for_the_model_of_a_library_that_fits(
    name: str, library: str, title: str
) -> None:
    assert convert.named("vit", (library,), variant(name).leaves)[0] == title


def test_the_decoder_of_masked_training_is_left_out_under_its_older_names_too() -> None:
    block = "decoder.decoder_layers.7"
    names = ("decoder.mask_token", f"{block}.attention.attention.key.bias", f"{block}.layernorm_after.weight")
    found = assign.assign(NAMES.origins["huggingface"], names)
    assert found.left_out.keys() == set(names)
