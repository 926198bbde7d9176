"""How the libraries name the two towers of CLIP and SigLIP: rows that read one tower, by library.

Each tower of a file is read by one model and left out by the other, so both tables are made from these rows.
`IMAGE` fills a ViT's leaves, `TEXT` a text tower's; blocks have the same names in both.
"""

from collections.abc import Iterable

import numpy as np

from jtl.weights.contract import LeftOut, Op, Row
from jtl.weights.names import ops

BLOCK = "params/Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"
MAP_HEAD = "params/MAPHead_0"
MAP_ATTENTION = f"{MAP_HEAD}/MultiHeadDotProductAttention_0"
POSITION_EMBEDDING = "params/Transformer/posembed_input/pos_embedding"
TOKEN_EMBEDDING = "params/token_embedding/embedding"
NORM, PRE_NORM = "params/Transformer/encoder_norm", "params/Transformer/pre_norm"
PROJECTION = "params/projection"
LOGIT_SCALE, LOGIT_BIAS = "params/logit_scale", "params/logit_bias"
NO_PROJECTION = "projection of the features; model.projection_dim is 0"
NO_POOL = "attention pooling; model.pool is another"


def _reshaped(num_new: int) -> Op:
    """Return the Op that puts dimensions of 1 in front, as many as told."""
    return Op(
        lambda array, shapes: (array.reshape((1,) * num_new + array.shape),),
        lambda arrays: arrays[0].reshape(arrays[0].shape[num_new:]),
    )


def _to_one(array: np.ndarray) -> np.ndarray:
    return array.reshape(1)


# A number [] ↔ [1]; a table of positions [tokens, dim] ↔ [1, tokens, dim]; a token [dim] ↔ [1, 1, dim].
SCALAR = Op(lambda array, shapes: (_to_one(array),), lambda arrays: arrays[0].reshape(()))
TABLE, TOKEN = _reshaped(1), _reshaped(2)


def layer(source: str, target: str, kernel: Op = ops.DENSE, bias: Op = ops.SAME) -> tuple[Row, Row]:
    """Return the rows of a PyTorch layer's weight and bias."""
    return (
        Row(f"{source}.weight", (f"{target}/kernel",), kernel),
        Row(f"{source}.bias", (f"{target}/bias",), bias),
    )


def norm(source: str, target: str) -> tuple[Row, Row]:
    """Return the rows of a PyTorch layer normalisation."""
    return (
        Row(f"{source}.weight", (f"{target}/scale",), ops.SAME),
        Row(f"{source}.bias", (f"{target}/bias",), ops.SAME),
    )


def fused(source: str, attention: str) -> tuple[Row, Row]:
    """Return the rows of PyTorch's fused query, key and value, as `nn.MultiheadAttention` names them."""
    kernels, biases = (
        tuple(f"{attention}/{part}/{leaf}" for part in ("query", "key", "value"))
        for leaf in ("kernel", "bias")
    )
    return (
        Row(f"{source}.in_proj_weight", kernels, ops.QKV_KERNEL),
        Row(f"{source}.in_proj_bias", biases, ops.QKV_BIAS),
    )


def plain(source: str, target: str, *leaves: str) -> tuple[Row, ...]:
    """Return the rows of a Flax module whose layout is the model's."""
    return tuple(Row(f"{source}/{leaf}", (f"{target}/{leaf}",), ops.SAME) for leaf in leaves)


def unneeded(rows: Iterable[Row], reason: str) -> tuple[Row, ...]:
    """Return rows whose sources are left out where the model has no such leaves."""
    return tuple(row._replace(unneeded=reason) for row in rows)


def others(rows: Iterable[Row], reason: str) -> tuple[LeftOut, ...]:
    """Return the sources of rows as left out: they are for another model."""
    return tuple(LeftOut(row.source, reason) for row in rows)


def hugging_face_blocks(prefix: str) -> tuple[Row, ...]:
    """Return the rows of the blocks and the embedding of positions of `CLIPEncoder` or `SiglipEncoder`."""
    source = f"{prefix}encoder.layers.{{i}}"
    heads = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
    return (
        Row(f"{prefix}embeddings.position_embedding.weight", (POSITION_EMBEDDING,), TABLE),
        *norm(f"{source}.layer_norm1", f"{BLOCK}/LayerNorm_0"),
        *(
            row
            for name, part in heads
            for row in layer(
                f"{source}.self_attn.{name}", f"{ATTENTION}/{part}", ops.HEADS_KERNEL, ops.HEADS_BIAS
            )
        ),
        *layer(f"{source}.self_attn.out_proj", f"{ATTENTION}/out", ops.OUT_KERNEL),
        *norm(f"{source}.layer_norm2", f"{BLOCK}/LayerNorm_2"),
        *layer(f"{source}.mlp.fc1", f"{BLOCK}/MlpBlock_3/Dense_0"),
        *layer(f"{source}.mlp.fc2", f"{BLOCK}/MlpBlock_3/Dense_1"),
    )


def hugging_face_clip_image(prefix: str) -> tuple[Row, ...]:
    """Return the rows of `CLIPVisionModel`."""
    return (
        Row(f"{prefix}embeddings.class_embedding", ("params/cls",), TOKEN),
        Row(f"{prefix}embeddings.patch_embedding.weight", ("params/embedding/kernel",), ops.CONV),
        *norm(f"{prefix}pre_layrnorm", PRE_NORM),
        *hugging_face_blocks(prefix),
        *norm(f"{prefix}post_layernorm", NORM),
    )


def hugging_face_siglip_image(prefix: str) -> tuple[Row, ...]:
    """Return the rows of `SiglipVisionModel`."""
    head = f"{prefix}head"
    return (
        *layer(f"{prefix}embeddings.patch_embedding", "params/embedding", ops.CONV),
        *hugging_face_blocks(prefix),
        *norm(f"{prefix}post_layernorm", NORM),
        *unneeded(
            (
                Row(f"{head}.probe", (f"{MAP_HEAD}/probe",), ops.SAME),
                *fused(f"{head}.attention", MAP_ATTENTION),
                *layer(f"{head}.attention.out_proj", f"{MAP_ATTENTION}/out", ops.OUT_KERNEL),
                *norm(f"{head}.layernorm", f"{MAP_HEAD}/LayerNorm_0"),
                *layer(f"{head}.mlp.fc1", f"{MAP_HEAD}/MlpBlock_0/Dense_0"),
                *layer(f"{head}.mlp.fc2", f"{MAP_HEAD}/MlpBlock_0/Dense_1"),
            ),
            NO_POOL,
        ),
    )


def openai_blocks(prefix: str) -> tuple[Row, ...]:
    """Return the rows of the blocks of OpenAI's `Transformer`."""
    source = f"{prefix}transformer.resblocks.{{i}}"
    return (
        Row(f"{prefix}positional_embedding", (POSITION_EMBEDDING,), TABLE),
        *norm(f"{source}.ln_1", f"{BLOCK}/LayerNorm_0"),
        *fused(f"{source}.attn", ATTENTION),
        *layer(f"{source}.attn.out_proj", f"{ATTENTION}/out", ops.OUT_KERNEL),
        *norm(f"{source}.ln_2", f"{BLOCK}/LayerNorm_2"),
        *layer(f"{source}.mlp.c_fc", f"{BLOCK}/MlpBlock_3/Dense_0"),
        *layer(f"{source}.mlp.c_proj", f"{BLOCK}/MlpBlock_3/Dense_1"),
    )


def big_vision_blocks(tower: str, encoder: str) -> tuple[Row, ...]:
    """Return the rows of the blocks, final norm and positions of one tower of big_vision's `two_towers`."""
    source = f"{tower}/{encoder}/encoderblock_{{i}}"
    return (
        Row(f"{tower}/pos_embedding", (POSITION_EMBEDDING,), ops.SAME),
        *plain(f"{source}/LayerNorm_0", f"{BLOCK}/LayerNorm_0", "scale", "bias"),
        *(
            row
            for part in ("query", "key", "value", "out")
            for row in plain(
                f"{source}/MultiHeadDotProductAttention_0/{part}", f"{ATTENTION}/{part}", "kernel", "bias"
            )
        ),
        *plain(f"{source}/LayerNorm_1", f"{BLOCK}/LayerNorm_2", "scale", "bias"),
        *plain(f"{source}/MlpBlock_0/Dense_0", f"{BLOCK}/MlpBlock_3/Dense_0", "kernel", "bias"),
        *plain(f"{source}/MlpBlock_0/Dense_1", f"{BLOCK}/MlpBlock_3/Dense_1", "kernel", "bias"),
        *plain(f"{tower}/{encoder}/encoder_norm", NORM, "scale", "bias"),
    )


def big_vision_pool(source: str) -> tuple[Row, ...]:
    """Return the rows of big_vision's attention pooling."""
    attention = f"{source}/MultiHeadDotProductAttention_0"
    return (
        *plain(source, MAP_HEAD, "probe"),
        *(
            row
            for part in ("query", "key", "value", "out")
            for row in plain(f"{attention}/{part}", f"{MAP_ATTENTION}/{part}", "kernel", "bias")
        ),
        *plain(f"{source}/LayerNorm_0", f"{MAP_HEAD}/LayerNorm_0", "scale", "bias"),
        *plain(f"{source}/MlpBlock_0/Dense_0", f"{MAP_HEAD}/MlpBlock_0/Dense_0", "kernel", "bias"),
        *plain(f"{source}/MlpBlock_0/Dense_1", f"{MAP_HEAD}/MlpBlock_0/Dense_1", "kernel", "bias"),
    )


HUGGING_FACE_CLIP_IMAGE = (
    *hugging_face_clip_image("vision_model."),
    Row("visual_projection.weight", (f"{PROJECTION}/kernel",), ops.DENSE, NO_PROJECTION),
)
HUGGING_FACE_CLIP_TEXT = (
    Row("text_model.embeddings.token_embedding.weight", (TOKEN_EMBEDDING,), ops.SAME),
    *hugging_face_blocks("text_model."),
    *norm("text_model.final_layer_norm", NORM),
    Row("text_projection.weight", (f"{PROJECTION}/kernel",), ops.DENSE),
    Row("logit_scale", (LOGIT_SCALE,), SCALAR),
)
HUGGING_FACE_SIGLIP_IMAGE = hugging_face_siglip_image("vision_model.")
HUGGING_FACE_SIGLIP_TEXT = (
    Row("text_model.embeddings.token_embedding.weight", (TOKEN_EMBEDDING,), ops.SAME),
    *hugging_face_blocks("text_model."),
    *norm("text_model.final_layer_norm", NORM),
    *layer("text_model.head", PROJECTION),
    Row("logit_scale", (LOGIT_SCALE,), ops.SAME),
    Row("logit_bias", (LOGIT_BIAS,), ops.SAME),
)
HUGGING_FACE_COUNTERS = tuple(
    LeftOut(f"{tower}.embeddings.position_ids", "counter, not learned")
    for tower in ("vision_model", "text_model")
)

OPENAI_IMAGE = (
    Row("visual.class_embedding", ("params/cls",), TOKEN),
    Row("visual.conv1.weight", ("params/embedding/kernel",), ops.CONV),
    *norm("visual.ln_pre", PRE_NORM),
    *openai_blocks("visual."),
    *norm("visual.ln_post", NORM),
    Row("visual.proj", (f"{PROJECTION}/kernel",), ops.SAME, NO_PROJECTION),
)
OPENAI_TEXT = (
    Row("token_embedding.weight", (TOKEN_EMBEDDING,), ops.SAME),
    *openai_blocks(""),
    *norm("ln_final", NORM),
    Row("text_projection", (f"{PROJECTION}/kernel",), ops.SAME),
    Row("logit_scale", (LOGIT_SCALE,), SCALAR),
)
OPENAI_COUNTERS = tuple(
    LeftOut(name, "size, not learned") for name in ("input_resolution", "context_length", "vocab_size")
)

BIG_VISION_IMAGE = (
    *plain("img/embedding", "params/embedding", "kernel", "bias"),
    *big_vision_blocks("img", "Transformer"),
    *unneeded(big_vision_pool("img/MAPHead_0"), NO_POOL),
)
BIG_VISION_TEXT = (
    Row("txt/Embed_0/embedding", (TOKEN_EMBEDDING,), ops.SAME),
    *big_vision_blocks("txt", "Encoder_0"),
    *plain("txt/head", PROJECTION, "kernel", "bias"),
    Row("t", (LOGIT_SCALE,), ops.SAME),
    Row("b", (LOGIT_BIAS,), ops.SAME),
)
