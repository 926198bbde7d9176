"""The modules a BERT is made of: embeddings, attention, post-norm blocks, pooler, vocabulary head.

`config` is a resolved `bert.Config`. Parameters are named as in transformers' Flax classes (version 4), but
for the head; query, key and value kernels are [dim, heads, head_dim], as a ViT's. Reference: transformers
5.24, `BertModel`, `RobertaModel` and `DistilBertModel`.

A token whose mask is False is padding: its share of the attention is exactly zero, so that what stands there
is read by nothing, to the bit. How much padding there is is not without a trace: a longer sequence is another
shape, for which XLA's products and sums add in another order, exact zeros among them. By that rounding logits
moved by at most 7e-7 of the largest (float32, 3 blocks, 1 to 11 tokens of padding).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jtl.models import layers
from jtl.models.attention import attention

Tokens: TypeAlias = Float[Array, "batch tokens dim"]
Wide: TypeAlias = Float[Array, "batch tokens width"]
Ids: TypeAlias = Int[Array, "batch tokens"]
Mask: TypeAlias = Bool[Array, "batch tokens"]
Table: TypeAlias = Float[Array, "vocabulary dim"]


class Embeddings(nn.Module):
    """Word, position and segment embeddings, added and normalised.

    Positions count the tokens that are no padding, from `config.position_offset` on.
    """

    config: Any
    train: bool

    @nn.compact
    def __call__(self, ids: Ids, segments: Ids, mask: Mask) -> tuple[Tokens, Table]:
        """Return the embedded tokens in the compute dtype, and the table of words as it is kept."""
        config = self.config
        words = _embed(config, config.vocabulary, "word_embeddings")
        places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0) + config.position_offset
        x = words(ids) + _embed(config, config.num_positions, "position_embeddings")(places)
        if config.num_segments:
            x = x + _embed(config, config.num_segments, "token_type_embeddings")(segments)
        x = _norm(config)(x)
        return nn.Dropout(config.dropout, deterministic=not self.train)(x), words.embedding


class Block(nn.Module):
    """One post-norm encoder block."""

    config: Any
    drop_path: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        """Return the tokens after attention and MLP, each normalised behind its residual."""
        x = _Attention(self.config, self.drop_path, self.train, name="attention")(x, mask)
        y = _Intermediate(self.config, name="intermediate")(x)
        return _Output(self.config, self.drop_path, self.train, name="output")(y, x)


class Pooler(nn.Module):
    """A dense layer on the first token, and `config.pooler`'s activation; float32."""

    config: Any

    @nn.compact
    def __call__(self, first: Float[Array, "batch dim"]) -> Float32[Array, "batch dim"]:
        """Return one vector an example."""
        return POOLERS[self.config.pooler](layers.dense(self.config.dim, name="dense")(first))


class VocabularyHead(nn.Module):
    """Tokens → logits of the words that stand there: each transformed, times the table of words; float32."""

    config: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch places dim"], table: Table
    ) -> Float32[Array, "batch places vocabulary"]:
        """Return a logit for every word at every place."""
        y = _Transform(self.config, name="transform")(x.astype(jnp.float32))
        return _Decoder(name="decoder")(y, table)


class _Attention(nn.Module):
    """Self-attention, its output projected, and the norm behind the residual."""

    config: Any
    drop_path: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        mixed = _SelfAttention(self.config, self.train, name="self")(x, mask)
        return _Output(self.config, self.drop_path, self.train, name="output")(mixed, x)


class _SelfAttention(nn.Module):
    """What every token gathers of those that are no padding; the softmax is float32 in any compute dtype."""

    config: Any
    train: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        config, dim = self.config, x.shape[-1]
        head_dim = dim // config.heads
        query, key, value = (
            layers.dense_general((config.heads, head_dim), dtype=x.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        is_dropped = self.train and config.attention_dropout > 0
        mixed = attention(
            query,
            key,
            value,
            mask=mask,
            drop=nn.Dropout(config.attention_dropout, deterministic=False) if is_dropped else None,
            implementation=config.attention,
        )
        return mixed.reshape(x.shape)


class _Intermediate(nn.Module):
    """The MLP's first layer and its GELU."""

    config: Any

    @nn.compact
    def __call__(self, x: Tokens) -> Wide:
        return layers.GELUS[self.config.gelu](
            layers.dense(self.config.mlp_dim, dtype=x.dtype, name="dense")(x)
        )


class _Output(nn.Module):
    """A branch's last layer, and the norm of what comes in beside it and the branch."""

    config: Any
    drop_path: float
    train: bool

    @nn.compact
    def __call__(self, y: Wide, x: Tokens) -> Tokens:
        y = layers.dense(self.config.dim, dtype=x.dtype, name="dense")(y)
        y = nn.Dropout(self.config.dropout, deterministic=not self.train)(y)
        return _norm(self.config)(x + layers.DropPath(self.drop_path, self.train)(y))


class _Transform(nn.Module):
    """What the vocabulary head makes of a token before it compares it with words."""

    config: Any

    @nn.compact
    def __call__(self, x: Float32[Array, "batch places dim"]) -> Float32[Array, "batch places dim"]:
        y = layers.GELUS[self.config.gelu](layers.dense(self.config.dim, name="dense")(x))
        return nn.LayerNorm(self.config.layer_norm_epsilon, name="LayerNorm")(y)


class _Decoder(nn.Module):
    """A logit for every word: the word's row of the table, which is not its own, and a bias."""

    @nn.compact
    def __call__(
        self, x: Float32[Array, "batch places dim"], table: Table
    ) -> Float32[Array, "batch places vocabulary"]:
        bias = self.param("bias", layers.declared, table.shape[:1], jnp.float32)
        return x @ table.astype(jnp.float32).T + bias.astype(jnp.float32).reshape(1, 1, -1)


def _norm(config: Any) -> nn.LayerNorm:
    return nn.LayerNorm(config.layer_norm_epsilon, layers.compute_dtype(config.dtype), name="LayerNorm")


def _embed(config: Any, num_rows: int, name: str) -> nn.Embed:
    # Float32 in any compute dtype: thousands of tokens add to the gradient of one row, and in bfloat16 a sum
    # of ones ends at 256.
    return nn.Embed(num_rows, config.dim, dtype=jnp.float32, embedding_init=layers.declared, name=name)


POOLERS: dict[str, Callable[..., Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}
