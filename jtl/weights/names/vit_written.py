"""The `config.json` of a ViT, for timm and for transformers' ViT, DeiT and DINOv2."""

from collections.abc import Mapping
from typing import Any

from jtl.models import layers, vit
from jtl.weights.names.written import GELUS, TIMM_GELUS, Values, Writer, one_or_two, only
from jtl.weights.names.written import timm as of_timm
from jtl.weights.names.written import transformers as of_transformers

TIMM, TRANSFORMERS = "timm", "transformers"
# The architecture of that name tells timm the epsilon, and `of_config` too; arguments say all else.
TIMM_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
TIMM_DISTILLED = "deit_base_distilled_patch16_224"
TIMM_POOLS = {"cls": "token", "gap": "avg", "map": "map", "distilled": "token"}
NO_EXTRAS = {"num_prompts": 0, "projection_dim": 0, "has_unit_features": False, "has_qkv_bias": True}
PLAIN_BLOCKS = {
    **NO_EXTRAS,
    "mlp": "gelu",
    "has_pre_norm": False,
    "has_patch_bias": True,
    "feature_norm": "tokens",
    "has_class_position": True,
}


def timm(config: vit.Config) -> Values:
    """Return timm's file."""
    epsilon = config.layer_norm_epsilon
    expected = {"num_prompts": 0, "projection_dim": 0, "has_unit_features": False, "mlp": "gelu"}
    only(config, TIMM, {**expected, "has_patch_bias": not config.has_pre_norm})
    is_distilled = config.pool == "distilled"
    if is_distilled or epsilon not in TIMM_ARCHITECTURES:
        only(config, TIMM, {"layer_norm_epsilon": 1e-6})
    if config.pool not in TIMM_POOLS:
        only(config, TIMM, {"pool": "cls"})
    assert config.dim, "the settings are resolved"
    return of_timm(
        TIMM_DISTILLED if is_distilled else TIMM_ARCHITECTURES[epsilon],
        img_size=list(layers.pair(config.image_px)),
        patch_size=one_or_two(config.patch_px),
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_dim / config.dim,
        qkv_bias=config.has_qkv_bias,
        init_values=1e-5 if config.has_layer_scale else None,
        pre_norm=bool(config.has_pre_norm),
        act_layer=TIMM_GELUS[config.gelu],
        **({} if is_distilled else _timm_tokens(config)),
    )


def _timm_tokens(config: vit.Config) -> Values:
    return {
        "class_token": config.has_class_token,
        "reg_tokens": config.num_registers,
        "no_embed_class": not (config.has_class_position and config.has_class_token)
        or bool(config.num_registers and not config.has_register_position),
        "global_pool": TIMM_POOLS[config.pool],
        "fc_norm": config.feature_norm == "pooled",
    }


def _shape(config: vit.Config) -> Values:
    """Return what transformers' classes call the model's shape."""
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": GELUS[config.gelu],
        "layer_norm_eps": config.layer_norm_epsilon,
        "image_size": one_or_two(config.image_px),
        "patch_size": one_or_two(config.patch_px),
        "qkv_bias": config.has_qkv_bias,
    }


def huggingface(config: vit.Config) -> Values:
    """Return the file of a `ViTForImageClassification`."""
    only(config, TRANSFORMERS, {**PLAIN_BLOCKS, "pool": "cls", "num_registers": 0, "has_layer_scale": False})
    kind = "ViTForImageClassification"
    return of_transformers("vit", kind, **_shape(config), intermediate_size=config.mlp_dim)


def deit_teacher(config: vit.Config) -> Values:
    """Return the file of a `DeiTForImageClassificationWithTeacher`, whose two heads are averaged."""
    only(config, TRANSFORMERS, {**PLAIN_BLOCKS, "pool": "distilled", "has_layer_scale": False})
    kind = "DeiTForImageClassificationWithTeacher"
    return of_transformers("deit", kind, **_shape(config), intermediate_size=config.mlp_dim)


def dinov2(config: vit.Config) -> Values:
    """Return the file of a `Dinov2ForImageClassification`, whose head reads class token and grid."""
    return _dinov2(config, "dinov2", "Dinov2ForImageClassification", num_registers=0)


def dinov2_registers(config: vit.Config) -> Values:
    """Return the file of a `Dinov2WithRegistersForImageClassification`."""
    num_registers = config.num_registers
    kind = "Dinov2WithRegistersForImageClassification"
    values = _dinov2(config, "dinov2_with_registers", kind, num_registers=num_registers)
    return {**values, "num_register_tokens": num_registers}


def _dinov2(config: vit.Config, model_type: str, kind: str, *, num_registers: int) -> Values:
    expected: Mapping[str, Any] = {**PLAIN_BLOCKS, "pool": "cls_gap", "has_layer_scale": True}
    only(config, TRANSFORMERS, {**expected, "num_registers": num_registers, "has_register_position": False})
    assert config.dim, "the settings are resolved"
    return of_transformers(
        model_type, kind, **_shape(config), mlp_ratio=config.mlp_dim / config.dim, use_swiglu_ffn=False
    )


WRITERS: dict[str, Writer] = {
    "timm": timm,
    "huggingface": huggingface,
    "huggingface_deit_teacher": deit_teacher,
    "huggingface_dinov2": dinov2,
    "huggingface_dinov2_registers": dinov2_registers,
}
