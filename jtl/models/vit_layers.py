"""The modules a Vision Transformer is made of: embeddings, attention, MLPs, blocks, attention pooling.

`config` is any settings with the fields they read (`vit.Config` has all of them), resolved. Parameters are
named as in google-research/vision_transformer; LayerScale is Touvron et al. 2021 (CaiT), SwiGLU Shazeer 2020
as in DINOv2. Dimensions: heads x head_dim = dim.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.models import layers
from jtl.models.attention import AUTO, attention
from jtl.models.product import product

Tokens: TypeAlias = Float[Array, "batch tokens dim"]


class PatchEmbedding(nn.Module):
    """The convolution whose stride is its kernel, as the matrix product it is (faster on CPU)."""

    dim: int
    patch_px: tuple[int, int]
    has_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"]) -> Tokens:
        """Return one token for every patch, row by row."""
        (rows_px, columns_px), channels = self.patch_px, images.shape[-1]
        shape = (rows_px, columns_px, channels, self.dim)
        kernel = self.param("kernel", layers.declared, shape, jnp.float32)
        batch, height, width, _ = images.shape
        patches = images.reshape(batch, height // rows_px, rows_px, width // columns_px, columns_px, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows_px * columns_px * channels)
        matrix = kernel.reshape(-1, self.dim).astype(self.dtype)
        tokens = product(patches.astype(self.dtype), matrix).reshape(batch, -1, self.dim)
        if not self.has_bias:
            return tokens
        bias = self.param("bias", layers.declared, (self.dim,), jnp.float32)
        return tokens + bias.astype(self.dtype).reshape(1, 1, -1)


class PositionEmbedding(nn.Module):
    """Learned positions of the tokens it is given, in their order."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Return the tokens with their positions added."""
        table = self.param("pos_embedding", layers.declared, (1, *x.shape[1:]), jnp.float32)
        return x + table.astype(x.dtype)


class Block(nn.Module):
    """One pre-norm encoder block."""

    config: Any
    drop_path: float
    train: bool
    is_causal: bool = False

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Return the tokens after attention and MLP, each a residual branch."""
        config = self.config
        y = layer_norm(config, "LayerNorm_0")(x)
        attend = Attention(
            config.heads,
            config.has_qkv_bias,
            self.is_causal,
            config.attention,
            name="MultiHeadDotProductAttention_1",
        )
        y = attend(y, y)
        y = nn.Dropout(config.dropout, deterministic=not self.train)(y)
        x = x + self._branch(y, "LayerScale_1")
        y = layer_norm(config, "LayerNorm_2")(x)
        y = MLPS[config.mlp](config.mlp_dim, config.gelu, config.dropout, self.train, name="MlpBlock_3")(y)
        return x + self._branch(y, "LayerScale_3")

    def _branch(self, y: Tokens, scale_name: str) -> Tokens:
        """Return a residual branch scaled, where there are scales, and dropped, in training."""
        y = LayerScale(name=scale_name)(y) if self.config.has_layer_scale else y
        return layers.DropPath(self.drop_path, self.train)(y)


class Attention(nn.Module):
    """Multi-head attention of `queries` to `values`; the softmax is float32 in any compute dtype.

    Where `is_causal`, a token attends to itself and to those before it. `implementation` is as `attention`
    has it.
    """

    heads: int
    has_bias: bool
    is_causal: bool = False
    implementation: str = AUTO

    @nn.compact
    def __call__(self, queries: Tokens, values: Float[Array, "batch sources dim"]) -> Tokens:
        """Return what each query gathers, projected."""
        dim, dtype = queries.shape[-1], queries.dtype
        project = partial(
            layers.dense_general,
            features=(self.heads, dim // self.heads),
            use_bias=self.has_bias,
            dtype=dtype,
        )
        query, key, value = (
            project(name="query")(queries),
            project(name="key")(values),
            project(name="value")(values),
        )
        mixed = attention(query, key, value, is_causal=self.is_causal, implementation=self.implementation)
        return project(features=dim, axis=(-2, -1), use_bias=True, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    width: int
    gelu: str
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Return each token's own transformation."""
        y = layers.GELUS[self.gelu](layers.dense(self.width, dtype=x.dtype, name="Dense_0")(x))
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = layers.dense(x.shape[-1], dtype=x.dtype, name="Dense_1")(y)
        return nn.Dropout(self.dropout, deterministic=not self.train)(y)


class SwiGlu(nn.Module):
    """SiLU of one dense layer times another, and a dense layer back; `gelu` is there as `Mlp` has it."""

    width: int
    gelu: str
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Return each token's own transformation."""
        gate = layers.dense(self.width, dtype=x.dtype, name="gate")(x)
        y = jax.nn.silu(gate) * layers.dense(self.width, dtype=x.dtype, name="up")(x)
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = layers.dense(x.shape[-1], dtype=x.dtype, name="down")(y)
        return nn.Dropout(self.dropout, deterministic=not self.train)(y)


class LayerScale(nn.Module):
    """A learned factor for every dimension of a residual branch."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Return the branch scaled."""
        gamma = self.param("gamma", layers.declared, x.shape[-1:], jnp.float32)
        return x * gamma.astype(x.dtype).reshape(1, 1, -1)


class AttentionPool(nn.Module):
    """A learned query attends to the tokens, then an MLP with a residual (Zhai et al. 2022, appendix A)."""

    config: Any

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "batch dim"]:
        """Return one vector for each example."""
        config = self.config
        probe = self.param("probe", layers.declared, (1, 1, config.dim), jnp.float32)
        attend = Attention(
            config.heads,
            config.has_qkv_bias,
            implementation=config.attention,
            name="MultiHeadDotProductAttention_0",
        )
        pooled = attend(tiled(probe, x), x)
        y = layer_norm(config, "LayerNorm_0")(pooled)
        y = Mlp(config.mlp_dim, config.gelu, 0.0, False, name="MlpBlock_0")(y)
        return (pooled + y)[:, 0]


def layer_norm(config: Any, name: str) -> nn.LayerNorm:
    """Return the layer normalisation of that name, with the config's epsilon and dtype."""
    return nn.LayerNorm(config.layer_norm_epsilon, layers.compute_dtype(config.dtype), name=name)


def tiled(tokens: Float[Array, "1 extra dim"], x: Tokens) -> Float[Array, "batch extra dim"]:
    """Return the tokens once for every example of x, in its dtype."""
    return jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape[1:]))


MLPS: dict[str, Callable[..., nn.Module]] = {"gelu": Mlp, "swiglu": SwiGlu}
