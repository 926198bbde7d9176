"""Where transformers attend, by names of their layers, and which tokens their features are made of.

What explanations read of a model (`contract.Inside`); `config` is a resolved `vit.Config` or `bert.Config`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.models.contract import Attending, AttentionLayer, Inside, TokenGrid

Seen = Bool[Array, "batch tokens"]
Shares = Float[Array, "batch tokens"]
VIT_ATTENTION = "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1"
VIT_POOLING = "MAPHead_0/MultiHeadDotProductAttention_0"
BERT_ATTENTION, BERT_OUT = "encoder/layer/{}/attention/self", "encoder/layer/{}/attention/output/dense"
BERT_EMBEDDING = "embeddings/word_embeddings"


def of_vit(config: Any, grid: TokenGrid) -> Inside:
    """Return how a ViT attends."""
    layers = [_vit_layer(VIT_ATTENTION.format(index)) for index in range(_depth(config))]
    pool = config.feature_pool if config.features else config.pool
    read = partial(READS[pool], grid.prefix)
    num_tokens = grid.prefix + grid.rows * grid.columns

    def seen(images: Any) -> Seen:
        return jnp.ones((len(images), num_tokens), bool)

    pooling = _vit_layer(VIT_POOLING) if pool == "map" else None
    return Inside(attention=Attending(tuple(layers), seen, read, grid, pooling))


def of_bert(config: Any) -> Inside:
    """Return how a text encoder attends, and which layer embeds its tokens."""
    layers = [_layer(BERT_ATTENTION.format(index), BERT_OUT.format(index)) for index in range(_depth(config))]
    pool = config.feature_pool if config.features else config.pool
    read = partial(READS[pool], 0)
    return Inside(attention=Attending(tuple(layers), _mask, read), embedding=BERT_EMBEDDING)


def _depth(config: Any) -> int:
    """Return how many blocks the features come through: all, or up to the last one they are named of."""
    blocks = {f"block{index}": index + 1 for index in range(config.depth)}
    read = [blocks[name] for name in config.features if name in blocks]
    return max(read, default=0 if "embedding" in config.features else config.depth)


def _vit_layer(name: str) -> AttentionLayer:
    return _layer(name, f"{name}/out")


def _layer(name: str, out: str) -> AttentionLayer:
    return AttentionLayer(f"{name}/query", f"{name}/key", f"{name}/value", out)


def _mask(inputs: Any) -> Seen:
    return jnp.asarray(inputs["mask"])


def _first(prefix: int, seen: Seen) -> Shares:
    del prefix
    return jnp.broadcast_to(jax.nn.one_hot(0, seen.shape[1]), seen.shape)


def _first_two(prefix: int, seen: Seen) -> Shares:
    del prefix
    return jnp.broadcast_to(jax.nn.one_hot(jnp.arange(2), seen.shape[1]).mean(0), seen.shape)


def _grid(prefix: int, seen: Seen) -> Shares:
    """Return equal shares of the tokens behind the prefix that are seen."""
    counted = (seen & (jnp.arange(seen.shape[1]) >= prefix).reshape(1, -1)).astype(jnp.float32)
    return counted / jnp.maximum(jnp.sum(counted, axis=1, keepdims=True), 1.0)


def _first_and_grid(prefix: int, seen: Seen) -> Shares:
    return (_first(prefix, seen) + _grid(prefix, seen)) / 2


# By the names of pools, those of the families' own features and those of `head.TOKEN_POOLS`.
READS: dict[str, Callable[[int, Seen], Shares]] = {
    "cls": _first,
    "pooler": _first,
    "distilled": _first_two,
    "gap": _grid,
    "mean": _grid,
    "map": _grid,
    "cls_gap": _first_and_grid,
    "cls_mean": _first_and_grid,
}
