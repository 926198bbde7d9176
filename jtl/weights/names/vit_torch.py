"""The ViT's leaves, and how PyTorch's libraries name the tensors that fill them.

timm 1.0.31 (AugReg, DeiT, DeiT-3, DINO, DINOv2, MAE, SigLIP); the files that Facebook published (DINO's and
MAE's names are timm's, DINOv2's and DeiT-3's their own); the hub's files of Hugging Face, which transformers
5.23 still writes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jtl.weights.contract import LeftOut, Op, Origin, Row
from jtl.weights.names import flax_hub, ops
from jtl.weights.names.towers import layer, norm, others

BLOCK = "params/Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"
MLP = f"{BLOCK}/MlpBlock_3"
SCALES = (f"{BLOCK}/LayerScale_1/gamma", f"{BLOCK}/LayerScale_3/gamma")
MAP_HEAD = "params/MAPHead_0"
MAP_ATTENTION = f"{MAP_HEAD}/MultiHeadDotProductAttention_0"
CLS, DISTILLATION, REGISTERS = "params/cls", "params/distillation", "params/registers"
EMBEDDING, PRE_NORM = "params/embedding", "params/Transformer/pre_norm"
POSITION_EMBEDDING = "params/Transformer/posembed_input/pos_embedding"
NORM, POOLED_NORM = "params/Transformer/encoder_norm", "params/feature_norm"
HEAD, DISTILLED_HEAD = "params/head", "params/head/distilled"
# How most of these resample positions; DINOv2 with registers antialiases, as timm does.
PLAIN = "bicubic_plain"
PRE_TRAINING_HEAD = "head of self-supervised training"
DECODER, POOLER = "decoder of masked pre-training", "pooler, which classification does not use"


def _parts(source: str, target: str, parts: tuple[str, ...], kernel: Op, bias: Op) -> tuple[Row, Row]:
    """Return the rows of a PyTorch layer that computes several of the model's at once."""
    return (
        Row(f"{source}.weight", tuple(f"{target}/{part}/kernel" for part in parts), kernel),
        Row(f"{source}.bias", tuple(f"{target}/{part}/bias" for part in parts), bias),
    )


def _gated(source_in: str, source_out: str) -> tuple[Row, ...]:
    """Return the rows of a SwiGLU whose gate and value are one layer."""
    return (
        *_parts(source_in, MLP, ("gate", "up"), ops.HALVES_KERNEL, ops.HALVES_BIAS),
        *layer(source_out, f"{MLP}/down"),
    )


def _timm_block(source: str) -> tuple[Row, ...]:
    """Return the rows of a block but for its MLP and scales."""
    return (
        *norm(f"{source}.norm1", f"{BLOCK}/LayerNorm_0"),
        *_parts(f"{source}.attn.qkv", ATTENTION, ("query", "key", "value"), ops.QKV_KERNEL, ops.QKV_BIAS),
        *layer(f"{source}.attn.proj", f"{ATTENTION}/out", ops.OUT_KERNEL),
        *norm(f"{source}.norm2", f"{BLOCK}/LayerNorm_2"),
    )


def _mlp(source_in: str, source_out: str) -> tuple[Row, ...]:
    return (*layer(source_in, f"{MLP}/Dense_0"), *layer(source_out, f"{MLP}/Dense_1"))


def _scales(*sources: str) -> tuple[Row, ...]:
    return tuple(Row(source, (scale,), ops.SAME) for source, scale in zip(sources, SCALES, strict=True))


TIMM_BLOCK = "blocks.{i}"
TIMM_MLP = _mlp(f"{TIMM_BLOCK}.mlp.fc1", f"{TIMM_BLOCK}.mlp.fc2")
TIMM_GATED_MLP = _gated(f"{TIMM_BLOCK}.mlp.fc1", f"{TIMM_BLOCK}.mlp.fc2")
TIMM_SCALES = _scales(f"{TIMM_BLOCK}.ls1.gamma", f"{TIMM_BLOCK}.ls2.gamma")
TIMM_BODY = (
    Row("cls_token", (CLS,), ops.SAME),
    Row("dist_token", (DISTILLATION,), ops.SAME),
    Row("pos_embed", (POSITION_EMBEDDING,), ops.SAME),
    *layer("patch_embed.proj", EMBEDDING, ops.CONV),
    *norm("norm_pre", PRE_NORM),
    *_timm_block(TIMM_BLOCK),
    *norm("norm", NORM),
    *norm("fc_norm", POOLED_NORM),
    *layer("head", HEAD),
    *layer("head_dist", DISTILLED_HEAD),
)
TIMM_MAP_HEAD = (
    Row("attn_pool.latent", (f"{MAP_HEAD}/probe",), ops.SAME),
    *layer("attn_pool.q", f"{MAP_ATTENTION}/query", ops.HEADS_KERNEL, ops.HEADS_BIAS),
    *_parts("attn_pool.kv", MAP_ATTENTION, ("key", "value"), ops.KV_KERNEL, ops.KV_BIAS),
    *layer("attn_pool.proj", f"{MAP_ATTENTION}/out", ops.OUT_KERNEL),
    *norm("attn_pool.norm", f"{MAP_HEAD}/LayerNorm_0"),
    *layer("attn_pool.mlp.fc1", f"{MAP_HEAD}/MlpBlock_0/Dense_0"),
    *layer("attn_pool.mlp.fc2", f"{MAP_HEAD}/MlpBlock_0/Dense_1"),
)
MASK_TOKEN = LeftOut("mask_token", "token of masked pre-training")
LEFT_OUT = (
    MASK_TOKEN,
    LeftOut("decoder_pos_embed", DECODER),
    *others(
        (
            *layer("decoder_embed", ""),
            *_timm_block("decoder_blocks.{i}"),
            *_mlp("decoder_blocks.{i}.mlp.fc1", "decoder_blocks.{i}.mlp.fc2"),
            *norm("decoder_norm", ""),
            *layer("decoder_pred", ""),
        ),
        DECODER,
    ),
    *(
        LeftOut(f"pre_logits.fc.{leaf}", "layer before the source's head", of_head=True)
        for leaf in ("weight", "bias")
    ),
)


def _is_gated(tensors: Mapping[str, Any]) -> bool:
    """Return whether the first layer of timm's MLP makes twice of what the second reads: SwiGLU."""
    first, second = (tensors.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is None or second is None or len(first.shape) != 2 or len(second.shape) != 2:
        return False
    return first.shape[0] == 2 * second.shape[1]


def _is_plain(tensors: Mapping[str, Any]) -> bool:
    return not _is_gated(tensors)


def _reads_both(leaves: Mapping[str, Any]) -> bool:
    """Return whether the head reads class token and grid together."""
    kernel = leaves.get(f"{HEAD}/kernel")
    return kernel is not None and kernel.shape[0] == 2 * leaves[f"{EMBEDDING}/kernel"].shape[-1]


def _has_class_position(leaves: Mapping[str, Any]) -> bool:
    """Return whether the table has positions beside those of a square grid."""
    num_positions = leaves[POSITION_EMBEDDING].shape[1]
    return CLS in leaves and math.isqrt(num_positions) ** 2 != num_positions


def _not_in_timm(leaves: Mapping[str, Any]) -> str:
    """Return why timm has no ViT with these leaves."""
    if REGISTERS in leaves and _has_class_position(leaves):
        return "timm's class tokens have no position beside registers, and this model's has one"
    if _reads_both(leaves):
        return "timm's heads do not read class token and grid together, as this model's does"
    if DISTILLATION in leaves and f"{HEAD}/kernel" in leaves and f"{DISTILLED_HEAD}/kernel" not in leaves:
        return "timm's ViTs with a distillation token have two heads, and this model has one"
    return ""


def _not_in_transformers(has_joint_head: bool) -> Callable[[Mapping[str, Any]], str]:
    """Return the function that says why transformers has no ViT with given leaves."""

    def refuses(leaves: Mapping[str, Any]) -> str:
        if not _has_class_position(leaves):
            return "transformers' ViTs have a class token with a position, and this model has none"
        if f"{HEAD}/kernel" in leaves and _reads_both(leaves) != has_joint_head:
            reads = "class token and grid together" if has_joint_head else "the class token alone"
            return f"their heads read {reads}, and this model's does not"
        return ""

    return refuses


TIMM_REGISTERS = Row("reg_token", (REGISTERS,), ops.SAME)
TIMM_ROWS = (*TIMM_BODY, TIMM_REGISTERS, *TIMM_SCALES, *TIMM_MAP_HEAD)
FACEBOOK_REGISTERS = Row("register_tokens", (REGISTERS,), ops.SAME)
W12, W3 = f"{TIMM_BLOCK}.mlp.w12", f"{TIMM_BLOCK}.mlp.w3"
GAMMAS = _scales(f"{TIMM_BLOCK}.gamma_1", f"{TIMM_BLOCK}.gamma_2")

HUGGING_FACE_BLOCK = "encoder.layer.{i}"
HUGGING_FACE_BODY = (
    Row("embeddings.cls_token", (CLS,), ops.SAME),
    Row("embeddings.position_embeddings", (POSITION_EMBEDDING,), ops.SAME),
    *layer("embeddings.patch_embeddings.projection", EMBEDDING, ops.CONV),
    *norm("layernorm", NORM),
)
HUGGING_FACE_LEFT_OUT = (
    LeftOut("embeddings.mask_token", "token of masked pre-training"),
    LeftOut("embeddings.position_ids", "counter, not learned"),
    *others(layer("pooler.dense", ""), POOLER),
)


def _hugging_face_attention(block: str) -> tuple[Row, ...]:
    return (
        *(
            row
            for part in ("query", "key", "value")
            for row in layer(
                f"{block}.attention.attention.{part}",
                f"{ATTENTION}/{part}",
                ops.HEADS_KERNEL,
                ops.HEADS_BIAS,
            )
        ),
        *layer(f"{block}.attention.output.dense", f"{ATTENTION}/out", ops.OUT_KERNEL),
    )


def _hugging_face_block(block: str) -> tuple[Row, ...]:
    """Return the rows of a block of `ViTModel`, `DeiTModel` or `ViTMAEModel`."""
    return (
        *norm(f"{block}.layernorm_before", f"{BLOCK}/LayerNorm_0"),
        *_hugging_face_attention(block),
        *norm(f"{block}.layernorm_after", f"{BLOCK}/LayerNorm_2"),
        *_mlp(f"{block}.intermediate.dense", f"{block}.output.dense"),
    )


HUGGING_FACE_DECODER = (
    *(LeftOut(f"decoder.{name}", DECODER) for name in ("mask_token", "decoder_pos_embed")),
    *others(
        (
            *layer("decoder.decoder_embed", ""),
            *_hugging_face_block("decoder.decoder_layers.{i}"),
            *_hugging_face_block("decoder.decoder_encoder.layer.{i}"),
            *norm("decoder.decoder_norm", ""),
            *layer("decoder.decoder_pred", ""),
        ),
        DECODER,
    ),
)


def _hugging_face(
    kind: str,
    prefix: str,
    *rows: Row,
    left_out: tuple[LeftOut, ...] = (),
    position_embedding: str = PLAIN,
) -> Origin:
    return Origin(
        title=f"Hugging Face {kind}names",
        prefix=prefix,
        rows=(*HUGGING_FACE_BODY, *rows),
        left_out=(*HUGGING_FACE_LEFT_OUT, *left_out),
        position_embedding=position_embedding,
        refuses=_not_in_transformers(has_joint_head="dinov2" in prefix),
    )


DEIT = (
    Row("embeddings.distillation_token", (DISTILLATION,), ops.SAME),
    *_hugging_face_block(HUGGING_FACE_BLOCK),
)
DINOV2 = (
    *norm(f"{HUGGING_FACE_BLOCK}.norm1", f"{BLOCK}/LayerNorm_0"),
    *_hugging_face_attention(HUGGING_FACE_BLOCK),
    *norm(f"{HUGGING_FACE_BLOCK}.norm2", f"{BLOCK}/LayerNorm_2"),
    *_mlp(f"{HUGGING_FACE_BLOCK}.mlp.fc1", f"{HUGGING_FACE_BLOCK}.mlp.fc2"),
    *_gated(f"{HUGGING_FACE_BLOCK}.mlp.weights_in", f"{HUGGING_FACE_BLOCK}.mlp.weights_out"),
    *_scales(f"{HUGGING_FACE_BLOCK}.layer_scale1.lambda1", f"{HUGGING_FACE_BLOCK}.layer_scale2.lambda1"),
    *layer("classifier", HEAD),
)
DINO_HEADS = (
    *others(layer("head.mlp.{i}", ""), PRE_TRAINING_HEAD),
    *(LeftOut(f"head.last_layer.weight_{leaf}", PRE_TRAINING_HEAD) for leaf in "gv"),
)

# Where two origins know a file's names equally well, the first is taken.
ORIGINS: dict[str, Origin] = {
    "timm": Origin("timm names", (*TIMM_ROWS, *TIMM_MLP), LEFT_OUT, is_of=_is_plain, refuses=_not_in_timm),
    "timm_swiglu": Origin(
        "timm names", (*TIMM_ROWS, *TIMM_GATED_MLP), LEFT_OUT, is_of=_is_gated, refuses=_not_in_timm
    ),
    "huggingface": _hugging_face(
        "",
        "vit.",
        *_hugging_face_block(HUGGING_FACE_BLOCK),
        *layer("classifier", HEAD),
        left_out=HUGGING_FACE_DECODER,
    ),
    "huggingface_deit": _hugging_face("DeiT ", "deit.", *DEIT, *layer("classifier", HEAD)),
    "huggingface_deit_teacher": _hugging_face(
        "distilled DeiT ",
        "deit.",
        *DEIT,
        *layer("cls_classifier", HEAD),
        *layer("distillation_classifier", DISTILLED_HEAD),
    ),
    "huggingface_dinov2": _hugging_face("DINOv2 ", "dinov2.", *DINOV2),
    "huggingface_dinov2_registers": _hugging_face(
        "DINOv2 with registers ",
        "dinov2_with_registers.",
        *DINOV2,
        Row("embeddings.register_tokens", (REGISTERS,), ops.SAME),
        position_embedding="bicubic",
    ),
    "facebook_dino": Origin(
        "DINO names", (*TIMM_BODY, *TIMM_MLP), DINO_HEADS, prefix="backbone.", position_embedding=PLAIN
    ),
    "facebook_dinov2": Origin(
        "DINOv2 names",
        (*TIMM_BODY, FACEBOOK_REGISTERS, *TIMM_SCALES, *TIMM_MLP, *_gated(W12, W3)),
        (MASK_TOKEN,),
    ),
    "facebook_deit3": Origin(
        "DeiT-3 names", (*TIMM_BODY, *GAMMAS, *TIMM_MLP), LEFT_OUT, position_embedding=PLAIN
    ),
}
ORIGINS |= {
    "flax_vit": flax_hub.origin(ORIGINS["huggingface"]),
    "flax_dinov2": flax_hub.origin(ORIGINS["huggingface_dinov2"], "DINOv2 "),
}
