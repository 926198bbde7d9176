"""The ViT's tables of names: timm, Hugging Face, Google's vit_jax and big_vision; how to recognise one."""

import math
from collections.abc import Mapping
from typing import Any

from jtl.models import vit
from jtl.weights.contract import FamilyNames, Grid, LeftOut, Op, Origin, Row
from jtl.weights.names import ops

BLOCK = "params/Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"
MLP = f"{BLOCK}/MlpBlock_3"
MAP_HEAD = "params/MAPHead_0"
CLS, REGISTERS = "params/cls", "params/registers"
INPUT_KERNEL = "params/embedding/kernel"
POSITION_EMBEDDING = "params/Transformer/posembed_input/pos_embedding"
NORM = "params/Transformer/encoder_norm"
HEAD_DIM = 64


def _torch_layer(source: str, target: str, kernel: Op, bias: Op = ops.SAME) -> tuple[Row, Row]:
    """Return the rows of a PyTorch layer's weight and bias."""
    return Row(f"{source}.weight", (f"{target}/kernel",), kernel), Row(
        f"{source}.bias", (f"{target}/bias",), bias
    )


def _torch_norm(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}.weight", (f"{target}/scale",), ops.SAME), Row(
        f"{source}.bias", (f"{target}/bias",), ops.SAME
    )


def _flax_layer(source: str, target: str, *leaves: str) -> tuple[Row, ...]:
    return tuple(Row(f"{source}/{leaf}", (f"{target}/{leaf}",), ops.SAME) for leaf in leaves)


def _qkv(leaf: str) -> tuple[str, str, str]:
    return f"{ATTENTION}/query/{leaf}", f"{ATTENTION}/key/{leaf}", f"{ATTENTION}/value/{leaf}"


TIMM = Origin(
    title="timm names",
    rows=(
        Row("cls_token", (CLS,), ops.SAME),
        Row("reg_token", (REGISTERS,), ops.SAME),
        Row("pos_embed", (POSITION_EMBEDDING,), ops.SAME),
        *_torch_layer("patch_embed.proj", "params/embedding", ops.CONV),
        *_torch_norm("blocks.{i}.norm1", f"{BLOCK}/LayerNorm_0"),
        Row("blocks.{i}.attn.qkv.weight", _qkv("kernel"), ops.QKV_KERNEL),
        Row("blocks.{i}.attn.qkv.bias", _qkv("bias"), ops.QKV_BIAS),
        *_torch_layer("blocks.{i}.attn.proj", f"{ATTENTION}/out", ops.OUT_KERNEL),
        *_torch_norm("blocks.{i}.norm2", f"{BLOCK}/LayerNorm_2"),
        *_torch_layer("blocks.{i}.mlp.fc1", f"{MLP}/Dense_0", ops.DENSE),
        *_torch_layer("blocks.{i}.mlp.fc2", f"{MLP}/Dense_1", ops.DENSE),
        *_torch_norm("norm", NORM),
        *_torch_layer("head", "params/head", ops.DENSE),
    ),
    left_out=(
        LeftOut("pre_logits.fc.weight", "layer before the source's head", of_head=True),
        LeftOut("pre_logits.fc.bias", "layer before the source's head", of_head=True),
    ),
)

HUGGING_FACE_LAYER = "encoder.layer.{i}"
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="vit.",
    rows=(
        Row("embeddings.cls_token", (CLS,), ops.SAME),
        Row("embeddings.position_embeddings", (POSITION_EMBEDDING,), ops.SAME),
        *_torch_layer("embeddings.patch_embeddings.projection", "params/embedding", ops.CONV),
        *_torch_norm(f"{HUGGING_FACE_LAYER}.layernorm_before", f"{BLOCK}/LayerNorm_0"),
        *(
            row
            for name in ("query", "key", "value")
            for row in _torch_layer(
                f"{HUGGING_FACE_LAYER}.attention.attention.{name}",
                f"{ATTENTION}/{name}",
                ops.HEADS_KERNEL,
                ops.HEADS_BIAS,
            )
        ),
        *_torch_layer(f"{HUGGING_FACE_LAYER}.attention.output.dense", f"{ATTENTION}/out", ops.OUT_KERNEL),
        *_torch_norm(f"{HUGGING_FACE_LAYER}.layernorm_after", f"{BLOCK}/LayerNorm_2"),
        *_torch_layer(f"{HUGGING_FACE_LAYER}.intermediate.dense", f"{MLP}/Dense_0", ops.DENSE),
        *_torch_layer(f"{HUGGING_FACE_LAYER}.output.dense", f"{MLP}/Dense_1", ops.DENSE),
        *_torch_norm("layernorm", NORM),
        *_torch_layer("classifier", "params/head", ops.DENSE),
    ),
    left_out=(
        LeftOut("pooler.dense.weight", "pooler, which classification does not use"),
        LeftOut("pooler.dense.bias", "pooler, which classification does not use"),
        LeftOut("embeddings.mask_token", "token of masked pre-training"),
        LeftOut("embeddings.position_ids", "counter, not learned"),
    ),
)


def _flax_rows(position_embedding: str, numbers: tuple[int, int, int, int]) -> tuple[Row, ...]:
    """Return the rows of a Flax ViT whose blocks number norm, attention, norm and MLP like this."""
    norm0, attention, norm1, mlp = numbers
    block = "Transformer/encoderblock_{i}"
    source_attention, source_mlp = (
        f"{block}/MultiHeadDotProductAttention_{attention}",
        f"{block}/MlpBlock_{mlp}",
    )
    return (
        Row("cls", (CLS,), ops.SAME),
        Row("registers", (REGISTERS,), ops.SAME),
        Row(position_embedding, (POSITION_EMBEDDING,), ops.SAME),
        *_flax_layer("embedding", "params/embedding", "kernel", "bias"),
        *_flax_layer(f"{block}/LayerNorm_{norm0}", f"{BLOCK}/LayerNorm_0", "scale", "bias"),
        *(
            row
            for name in ("query", "key", "value", "out")
            for row in _flax_layer(f"{source_attention}/{name}", f"{ATTENTION}/{name}", "kernel", "bias")
        ),
        *_flax_layer(f"{block}/LayerNorm_{norm1}", f"{BLOCK}/LayerNorm_2", "scale", "bias"),
        *_flax_layer(f"{source_mlp}/Dense_0", f"{MLP}/Dense_0", "kernel", "bias"),
        *_flax_layer(f"{source_mlp}/Dense_1", f"{MLP}/Dense_1", "kernel", "bias"),
        *_flax_layer("Transformer/encoder_norm", NORM, "scale", "bias"),
        *_flax_layer("MAPHead_0", MAP_HEAD, "probe"),
        *(
            row
            for name in ("query", "key", "value", "out")
            for row in _flax_layer(
                f"MAPHead_0/MultiHeadDotProductAttention_0/{name}",
                f"{MAP_HEAD}/MultiHeadDotProductAttention_0/{name}",
                "kernel",
                "bias",
            )
        ),
        *_flax_layer("MAPHead_0/LayerNorm_0", f"{MAP_HEAD}/LayerNorm_0", "scale", "bias"),
        *_flax_layer("MAPHead_0/MlpBlock_0/Dense_0", f"{MAP_HEAD}/MlpBlock_0/Dense_0", "kernel", "bias"),
        *_flax_layer("MAPHead_0/MlpBlock_0/Dense_1", f"{MAP_HEAD}/MlpBlock_0/Dense_1", "kernel", "bias"),
        *_flax_layer("head", "params/head", "kernel", "bias"),
    )


PRE_LOGITS = tuple(
    LeftOut(f"pre_logits/{leaf}", "layer before the source's head", of_head=True)
    for leaf in ("kernel", "bias")
)
GOOGLE = Origin(
    title="vit_jax names",
    rows=_flax_rows("Transformer/posembed_input/pos_embedding", (0, 1, 2, 3)),
    left_out=PRE_LOGITS,
    position_embedding="bilinear",
)
BIG_VISION = Origin(
    title="big_vision names",
    rows=_flax_rows("pos_embedding", (0, 0, 1, 0)),
    left_out=PRE_LOGITS,
    position_embedding="bilinear",
)


def grid(config: vit.Config) -> Grid:
    """Return what the model's position embedding is a table of."""
    return Grid(vit.num_class_tokens(config), *vit.grid(config))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return the settings and a title of the ViT with these leaves; None where they are none of a ViT's.

    Heads cannot be told from PyTorch's shapes: unless the size is a known one, they are taken as 64 wide.
    """
    if INPUT_KERNEL not in shapes or f"{MLP.format(i=0)}/Dense_0/kernel" not in shapes:
        return None
    rows_px, columns_px, _, dim = shapes[INPUT_KERNEL]
    depth = sum(name.endswith("/LayerNorm_0/scale") and "encoderblock" in name for name in shapes)
    mlp_dim = shapes[f"{MLP.format(i=0)}/Dense_0/kernel"][-1]
    query = shapes.get(f"{ATTENTION.format(i=0)}/query/kernel", (dim, 1, dim))
    heads = query[1] if query[1] > 1 else max(dim // HEAD_DIM, 1)
    fields: dict[str, Any] = {"dim": dim, "depth": depth, "heads": heads, "mlp_dim": mlp_dim}
    patch_px = rows_px if rows_px == columns_px else (rows_px, columns_px)
    known = [
        name for name, size in vit.SIZES.items() if {**fields, "patch_px": patch_px}.items() <= size.items()
    ]
    fields = {"size": known[0]} if known else {"size": "ti16", **fields, "patch_px": patch_px}
    pool = "cls" if CLS in shapes else "map" if f"{MAP_HEAD}/probe" in shapes else "gap"
    fields |= {"pool": pool} if pool != "cls" else {}
    fields |= {"num_registers": shapes[REGISTERS][1]} if REGISTERS in shapes else {}
    fields |= {} if f"{ATTENTION.format(i=0)}/query/bias" in shapes else {"has_qkv_bias": False}
    side = math.isqrt(max(shapes.get(POSITION_EMBEDDING, (1, 0))[1] - int(pool == "cls"), 0))
    if side and rows_px == columns_px:
        fields["image_px"] = side * rows_px
    title = f"ViT {known[0]}" if known else f"ViT of width {dim}, depth {depth} and patches of {patch_px} px"
    return fields, f"{title} at {fields['image_px']} px" if "image_px" in fields else title


NAMES = FamilyNames(
    origins={"timm": TIMM, "huggingface": HUGGING_FACE, "google": GOOGLE, "big_vision": BIG_VISION},
    input_kernel=INPUT_KERNEL,
    position_embedding=POSITION_EMBEDDING,
    grid=grid,
    recognise=recognise,
)
