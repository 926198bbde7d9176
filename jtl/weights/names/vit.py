"""The ViT's tables of names: those of Google's vit_jax and big_vision here, PyTorch's by `vit_torch`."""

from jtl.models import vit
from jtl.weights.contract import FamilyNames, Grid, LeftOut, Origin, Row
from jtl.weights.names import clip, ops, vit_settings, vit_torch, vit_written
from jtl.weights.names.vit_torch import (
    ATTENTION,
    BLOCK,
    CLS,
    MAP_HEAD,
    MLP,
    NORM,
    POSITION_EMBEDDING,
    REGISTERS,
)


def _flax_layer(source: str, target: str, *leaves: str) -> tuple[Row, ...]:
    return tuple(Row(f"{source}/{leaf}", (f"{target}/{leaf}",), ops.SAME) for leaf in leaves)


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
    return Grid(vit.num_placed_tokens(config), *vit.grid(config))


NAMES = FamilyNames(
    origins={**vit_torch.ORIGINS, "google": GOOGLE, "big_vision": BIG_VISION, **clip.ORIGINS},
    marker=vit_settings.EMBEDDING_KERNEL,
    input_kernel=vit_settings.EMBEDDING_KERNEL,
    position_embedding=POSITION_EMBEDDING,
    grid=grid,
    recognise=vit_settings.recognise,
    of_config=vit_settings.of_config,
    additions=(vit_settings.PROMPTS,),
    writers=vit_written.WRITERS,
)
