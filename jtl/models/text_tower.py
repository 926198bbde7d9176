"""The text towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): token ids → an embedding.

A pre-norm transformer with the blocks of `vit_layers` and parameters named as a ViT's. Reference:
transformers 5.23, `CLIPTextModelWithProjection` and `SiglipTextModel`. The factor (and bias) that turn
cosines into logits belong to it: they are what image features are compared with texts by.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jtl.errors import UserError
from jtl.models import initial, layers, vit_layers
from jtl.models.attention import AUTO
from jtl.ranges import CountOr0, Depth, Fraction, WidthOr0, check

Ids = Int[Array, "batch tokens"]

CLIP = {
    "vocabulary": 49408,
    "num_tokens": 77,
    "is_causal": True,
    "pool": "largest_id",
    "loss": "softmax",
    "gelu": "quick",
    "layer_norm_epsilon": 1e-5,
}
SIGLIP = {
    "vocabulary": 32000,
    "num_tokens": 64,
    "is_causal": False,
    "pool": "last",
    "loss": "sigmoid",
    "gelu": "tanh",
    "layer_norm_epsilon": 1e-6,
}
SIZES: dict[str, dict[str, Any]] = {
    "clip_b": {**CLIP, "dim": 512, "depth": 12, "heads": 8, "mlp_dim": 2048, "projection_dim": 512},
    "clip_l": {**CLIP, "dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "projection_dim": 768},
    "siglip_b": {**SIGLIP, "dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "projection_dim": 768},
    "siglip_l": {**SIGLIP, "dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096, "projection_dim": 1024},
    "siglip_so400m": {
        **SIGLIP,
        "dim": 1152,
        "depth": 27,
        "heads": 16,
        "mlp_dim": 4304,
        "projection_dim": 1152,
    },
}

RULES: initial.Rules = (
    (r"^token_embedding/embedding$", initial.normal(0.02)),
    (r"/(query|key|value)/kernel$", initial.split_heads(initial.xavier_uniform)),
    (r"/out/kernel$", initial.joined_heads(initial.xavier_uniform)),
    (r"/kernel$", initial.xavier_uniform),
    (r"/pos_embedding$", initial.normal(0.01)),
    (r"(/scale|^logit_scale)$", initial.ones),
    (r"(/bias|^logit_bias)$", initial.zeros),
)


@dataclass(frozen=True)
class Config:
    """Settings of a text tower; 0, "" and None mean "as the size has it".

    `vocabulary` counts the ids, `num_tokens` those of one text, padding included. `pool` takes the token of
    the largest id ("largest_id", CLIP's end of text), the first of `eos_id` ("first_eos") or the last token
    ("last"). `loss` is what it was trained with: "softmax" (CLIP: a factor for cosines) or "sigmoid" (SigLIP:
    a factor and a bias, and a projection with a bias). `gelu` is "exact", "tanh" or "quick".
    """

    size: str = "clip_b"
    vocabulary: CountOr0 = 0
    num_tokens: WidthOr0 = 0
    dim: WidthOr0 = 0
    depth: Depth = 0
    heads: WidthOr0 = 0
    mlp_dim: WidthOr0 = 0
    projection_dim: WidthOr0 = 0
    is_causal: bool | None = None
    pool: str = ""
    eos_id: CountOr0 = 0
    loss: str = ""
    gelu: str = ""
    layer_norm_epsilon: Fraction = 0.0

    def __post_init__(self) -> None:
        check(self, "text")
        layers.check_choice("text.size", self.size, SIZES)
        layers.check_choice("text.pool", self.pool, ("", *POOLS))
        layers.check_choice("text.loss", self.loss, ("", *HAS_BIAS))
        layers.check_choice("text.gelu", self.gelu, ("", *layers.GELUS))


class TextOutputs(NamedTuple):
    """What a pass gives: `embeddings` [batch, projection_dim] of length 1, and each layer's output."""

    embeddings: Array
    intermediates: Mapping[str, Array]


class TextModel(NamedTuple):
    """A built text tower: pure functions over plain nested dicts.

    `init(key)` → params, on the host; `shapes()` is the same with nothing drawn. `apply(params, ids)` →
    TextOutputs, where ids [batch, num_tokens] are padded as the tokenizer pads. `similarity(params)` → the
    factor and the bias that make logits of cosines.
    """

    init: Callable[..., Any]
    apply: Callable[..., TextOutputs]
    shapes: Callable[[], Any]
    similarity: Callable[[Mapping[str, Any]], tuple[float, float]]
    num_tokens: int


class TextFamily(NamedTuple):
    """One family of text towers: as `contract.Family`, for token inputs."""

    Config: type
    build: Callable[[Any], TextModel]
    sizes: Mapping[str, Mapping[str, Any]]
    resolve: Callable[[Any], Any]
    tiny: Callable[[], Any]


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in.

    Raises:
        UserError: width and heads, or pooling and end of text, do not go together.
    """
    sized = SIZES[config.size]
    full = replace(
        config, **{name: value for name, value in sized.items() if getattr(config, name) in (0, "", None)}
    )
    # False is a choice, though Python calls it equal to 0.
    full = full if config.is_causal is None else replace(full, is_causal=config.is_causal)
    if full.dim % full.heads:
        raise UserError(f"text.dim is {full.dim}; expected a multiple of text.heads, {full.heads}")
    if full.pool == "first_eos" and not 0 < full.eos_id < full.vocabulary:
        raise UserError(
            f"text.eos_id is {full.eos_id} and text.pool 'first_eos'; expected an id of the vocabulary of "
            f"{full.vocabulary}, or text.pool='largest_id'"
        )
    return full


def build(config: Config) -> TextModel:
    """Build the tower."""
    full = resolve(config)
    module = _TextTower(full)

    def shapes() -> Any:
        ids = jax.ShapeDtypeStruct((1, full.num_tokens), jnp.int32)
        return dict(jax.eval_shape(module.init, jax.random.key(0), ids))["params"]

    def init(key: Array) -> Any:
        return initial.draw(key, shapes(), RULES)

    def apply(params: Mapping[str, Any], ids: Int[Array | np.ndarray, "batch tokens"]) -> TextOutputs:
        if ids.shape[1] != full.num_tokens:
            raise UserError(f"texts are {ids.shape[1]} tokens long; the text tower expects {full.num_tokens}")
        variables, tokens = jax.tree.map(jnp.asarray, ({"params": params}, ids))
        result: Any = module.apply(variables, tokens)
        return TextOutputs(*result)

    return TextModel(init, apply, shapes, _similarity, full.num_tokens)


def tiny() -> Config:
    """Return a tower of two blocks over 8 tokens, for tests."""
    return Config(vocabulary=64, num_tokens=8, dim=16, depth=2, heads=2, mlp_dim=32, projection_dim=16)


class _BlockSettings(NamedTuple):
    """What `vit_layers.Block` reads of a config."""

    heads: int
    mlp_dim: int
    gelu: str
    layer_norm_epsilon: float
    mlp: str = "gelu"
    has_qkv_bias: bool = True
    has_layer_scale: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    attention: str = AUTO


class _TextTower(nn.Module):
    """The whole tower; `config` is resolved. Computes in float32."""

    config: Config

    @nn.compact
    def __call__(self, ids: Ids) -> tuple[Float32[Array, "batch projected"], dict[str, Array]]:
        config = self.config
        embed = nn.Embed(
            config.vocabulary, config.dim, embedding_init=layers.declared, name="token_embedding"
        )
        tokens, intermediates = _Encoder(config, name="Transformer")(embed(ids))
        pooled = POOLS[config.pool](config, ids, tokens)
        has_bias = HAS_BIAS[config.loss]
        projected = layers.dense(config.projection_dim, use_bias=has_bias, name="projection")(pooled)
        for name in ("logit_scale", "logit_bias")[: 1 + has_bias]:
            self.param(name, layers.declared, (1,), jnp.float32)
        return projected / jnp.linalg.norm(projected, axis=-1, keepdims=True), intermediates


class _Encoder(nn.Module):
    """Position embedding, blocks and final norm."""

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens dim"]
    ) -> tuple[Float[Array, "batch tokens dim"], dict[str, Array]]:
        config = self.config
        settings = _BlockSettings(config.heads, config.mlp_dim, config.gelu, config.layer_norm_epsilon)
        x = vit_layers.PositionEmbedding(name="posembed_input")(x)
        intermediates = {"embedding": x}
        for index in range(config.depth):
            block = vit_layers.Block(
                settings, 0.0, False, is_causal=bool(config.is_causal), name=f"encoderblock_{index}"
            )
            x = intermediates[f"block{index}"] = block(x)
        x = intermediates["encoder_norm"] = vit_layers.layer_norm(settings, "encoder_norm")(x)
        return x, intermediates


def _similarity(params: Mapping[str, Any]) -> tuple[float, float]:
    """Return the factor, which is learned as its logarithm, and the bias."""
    bias = float(params["logit_bias"][0]) if "logit_bias" in params else 0.0
    return float(np.exp(np.float64(params["logit_scale"][0]))), bias


def _pool_last(
    config: Config, ids: Ids, tokens: Float[Array, "batch tokens dim"]
) -> Float[Array, "batch dim"]:
    del config, ids
    return tokens[:, -1]


def _pool_largest_id(
    config: Config, ids: Ids, tokens: Float[Array, "batch tokens dim"]
) -> Float[Array, "batch dim"]:
    del config
    return _taken(tokens, jnp.argmax(ids, axis=1))


def _pool_first_eos(
    config: Config, ids: Ids, tokens: Float[Array, "batch tokens dim"]
) -> Float[Array, "batch dim"]:
    return _taken(tokens, jnp.argmax(ids == config.eos_id, axis=1))


def _taken(
    tokens: Float[Array, "batch tokens dim"], places: Int[Array, " batch"]
) -> Float[Array, "batch dim"]:
    """Return each example's token at its place."""
    return jnp.take_along_axis(tokens, places.reshape(-1, 1, 1), axis=1)[:, 0]


POOLS: dict[str, Callable[..., Array]] = {
    "largest_id": _pool_largest_id,
    "first_eos": _pool_first_eos,
    "last": _pool_last,
}
# Whether towers trained with that loss have biases in projection and logits.
HAS_BIAS = {"softmax": False, "sigmoid": True}
FAMILY = TextFamily(Config, build, SIZES, resolve, tiny)
TEXT_MODELS: dict[str, TextFamily] = {"text_tower": FAMILY}
