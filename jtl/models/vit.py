"""Vision Transformer (Dosovitskiy et al. 2021) with parameters named as in the public Flax checkpoints.

Names follow google-research/vision_transformer; registers (Darcet et al. 2024) and the attention-pooling head
(Zhai et al. 2022) are additions, the latter named as in big_vision. Dimensions: heads x head_dim = dim;
tokens = prefix (class token, registers) + grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.models import head, initial, layers, linen
from jtl.models.contract import Family, Model
from jtl.preprocess import Preprocess

Tokens: TypeAlias = Float[Array, "batch tokens dim"]
AllTokens: TypeAlias = Float[Array, "batch all_tokens dim"]
Pool: TypeAlias = Callable[..., Float[Array, "batch dim"]]

SIZES: dict[str, dict[str, Any]] = {
    "mini": {"patch_px": 4, "dim": 96, "depth": 6, "heads": 3, "mlp_dim": 384},
    "ti16": {"patch_px": 16, "dim": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "s16": {"patch_px": 16, "dim": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "s32": {"patch_px": 32, "dim": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "b16": {"patch_px": 16, "dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "b32": {"patch_px": 32, "dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "l16": {"patch_px": 16, "dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "l32": {"patch_px": 32, "dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "h14": {"patch_px": 14, "dim": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
}

# The AugReg checkpoints' own (timm 1.0.31: crop ratio 0.9, bicubic).
AUGREG = Preprocess((224, 224), resize_px=248)
PREPROCESS = {**dict.fromkeys(SIZES, AUGREG), "mini": Preprocess((32, 32), resize_px=32)}

# As google-research/vision_transformer begins, but for the MLP's biases: 0 instead of N(0, 1e-12).
RULES: initial.Rules = (
    *head.RULES,
    (r"^embedding/kernel$", initial.lecun_normal),
    (r"/(query|key|value)/kernel$", initial.split_heads(initial.xavier_uniform)),
    (r"/out/kernel$", initial.joined_heads(initial.xavier_uniform)),
    (r"/(kernel|probe)$", initial.xavier_uniform),
    (r"(^|/)(pos_embedding|registers)$", initial.normal(0.02)),
    (r"/scale$", initial.ones),
    (r"(^|/)(bias|cls)$", initial.zeros),
)


@dataclass(frozen=True)
class Config(head.Settings):
    """Settings of a ViT beside those of every family; 0 means "as the size has it".

    `patch_px` is one number or (height, width). `pool` makes features of the tokens: "cls" (a class token),
    "gap" (mean over the grid) or "map" (attention pooling). `num_registers` tokens without position follow
    the class token. `dropout` acts on embeddings and both residual branches; `drop_path` is the last block's
    rate of stochastic depth, growing linearly from 0 at the first. `gelu` is "exact" or "tanh";
    `has_qkv_bias` gives query, key and value a bias.
    """

    name: str = "vit"
    size: str = "ti16"
    patch_px: int | tuple[int, int] = 0
    dim: int = 0
    depth: int = 0
    heads: int = 0
    mlp_dim: int = 0
    pool: str = "cls"
    num_registers: int = 0
    has_qkv_bias: bool = True
    gelu: str = "exact"
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        layers.check_choice("model.pool", self.pool, POOLS)
        layers.check_choice("model.gelu", self.gelu, layers.GELUS)
        layers.check_fraction("model.dropout", self.dropout)
        layers.check_fraction("model.drop_path", self.drop_path)
        head.check(self)
        layers.check_pixels("model.patch_px", self.patch_px)
        for name in ("dim", "depth", "heads", "mlp_dim", "num_registers"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name} is {getattr(self, name)}; expected 0 or more")
        if self.layer_norm_epsilon <= 0:
            raise UserError(
                f"model.layer_norm_epsilon is {self.layer_norm_epsilon}; expected a small positive number"
            )


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    full = layers.fill(config, SIZES)
    image_px = layers.pair(full.image_px)
    image_px = image_px if any(image_px) else PREPROCESS[full.size].image_px
    patch_px = layers.pair(full.patch_px)
    if full.dim % full.heads:
        raise UserError(f"model.dim is {full.dim}; expected a multiple of model.heads, {full.heads}")
    if any(image % patch for image, patch in zip(image_px, patch_px, strict=True)):
        raise UserError(f"model.image_px is {image_px}; expected multiples of model.patch_px, {patch_px}")
    return replace(full, image_px=image_px, patch_px=patch_px)


def grid(config: Config) -> tuple[int, int]:
    """Return the number of patches down and across.

    >>> grid(Config(size="b32", image_px=(224, 448)))
    (7, 14)
    """
    full = resolve(config)
    (height, width), (patch_height, patch_width) = layers.pair(full.image_px), layers.pair(full.patch_px)
    return height // patch_height, width // patch_width


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)
    blocks = [f"Transformer/encoderblock_{index}" for index in range(full.depth)]

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        assert not frozen_stats, "a ViT keeps no running statistics"
        return _ViT(full, num_outputs, train)

    # The final norm goes with the last block: then a block's distance to the head is what published recipes
    # for layer-wise decay count.
    names = (
        _embedding_names(full),
        *((block,) for block in blocks[:-1]),
        (blocks[-1], "Transformer/encoder_norm", *POOL_NAMES[full.pool]),
        ("head",),
    )
    preprocess = PREPROCESS[full.size].at(layers.pair(full.image_px)).with_channels(num_channels)
    return linen.as_model(make_module, RULES, names, preprocess)


def tiny() -> Config:
    """Return a model of two blocks over 2 x 2 patches, for tests."""
    return Config(size="mini", image_px=8, dim=16, depth=2, heads=2, mlp_dim=32)


class _ViT(nn.Module):
    """The whole model; `config` is resolved."""

    config: Config
    num_outputs: int
    train: bool

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        config = self.config
        dtype = layers.DTYPES[config.dtype]
        x = _PatchEmbedding(config.dim, layers.pair(config.patch_px), dtype, name="embedding")(images)
        if config.pool == "cls":
            cls = self.param("cls", layers.declared, (1, 1, config.dim), jnp.float32)
            x = jnp.concatenate([_tiled(cls, x), x], axis=1)
        encoder = _Encoder(config, self.train, name="Transformer")
        registers = jnp.zeros((1, 0, config.dim))
        if config.num_registers:
            shape = (1, config.num_registers, config.dim)
            registers = self.param("registers", layers.declared, shape, jnp.float32)
        x, intermediates = encoder(x, registers)
        features = POOLS[config.pool](config, x).astype(jnp.float32)
        num_prefix = int(config.pool == "cls") + config.num_registers
        lie = head.TokenGrid(num_prefix, *grid(config))
        return head.read_out(config, self.num_outputs, self.train, features, intermediates, grid=lie)


class _Encoder(nn.Module):
    """Position embedding, blocks and final norm; gives the tokens and every layer's output by name."""

    config: Config
    train: bool

    @nn.compact
    def __call__(
        self, x: Tokens, registers: Float[Array, "1 registers dim"]
    ) -> tuple[AllTokens, dict[str, Array]]:
        config = self.config
        x = _PositionEmbedding(name="posembed_input")(x)
        num_cls = int(config.pool == "cls")
        x = jnp.concatenate([x[:, :num_cls], _tiled(registers, x), x[:, num_cls:]], axis=1)
        x = nn.Dropout(config.dropout, deterministic=not self.train)(x)
        intermediates = {"embedding": x}
        block_type = nn.remat(_Block) if config.remat else _Block
        for index in range(config.depth):
            drop_path = config.drop_path * index / max(config.depth - 1, 1)
            x = block_type(config, drop_path, self.train, name=f"encoderblock_{index}")(x)
            intermediates[f"block{index}"] = x
        x = _layer_norm(config, "encoder_norm")(x)
        return x, {**intermediates, "encoder_norm": x}


class _Block(nn.Module):
    """One pre-norm encoder block."""

    config: Config
    drop_path: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        config = self.config
        y = _layer_norm(config, "LayerNorm_0")(x)
        y = _Attention(config.heads, config.has_qkv_bias, name="MultiHeadDotProductAttention_1")(y, y)
        y = nn.Dropout(config.dropout, deterministic=not self.train)(y)
        x = x + layers.DropPath(self.drop_path, self.train)(y)
        y = _layer_norm(config, "LayerNorm_2")(x)
        y = _Mlp(config.mlp_dim, config.gelu, config.dropout, self.train, name="MlpBlock_3")(y)
        return x + layers.DropPath(self.drop_path, self.train)(y)


class _PatchEmbedding(nn.Module):
    """The convolution whose stride is its kernel, as the matrix product it is (faster on CPU)."""

    dim: int
    patch_px: tuple[int, int]
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"]) -> Tokens:
        (rows_px, columns_px), channels = self.patch_px, images.shape[-1]
        shape = (rows_px, columns_px, channels, self.dim)
        kernel = self.param("kernel", layers.declared, shape, jnp.float32)
        bias = self.param("bias", layers.declared, (self.dim,), jnp.float32)
        batch, height, width, _ = images.shape
        patches = images.reshape(batch, height // rows_px, rows_px, width // columns_px, columns_px, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, rows_px * columns_px * channels)
        matrix = kernel.reshape(-1, self.dim).astype(self.dtype)
        return patches.astype(self.dtype) @ matrix + bias.astype(self.dtype).reshape(1, 1, -1)


class _PositionEmbedding(nn.Module):
    """Learned positions of the class token (where there is one) and the grid, row by row."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        table = self.param("pos_embedding", layers.declared, (1, *x.shape[1:]), jnp.float32)
        return x + table.astype(x.dtype)


class _Attention(nn.Module):
    """Multi-head attention of `queries` to `values`; the softmax is float32 in any compute dtype."""

    heads: int
    has_bias: bool

    @nn.compact
    def __call__(self, queries: Tokens, values: Float[Array, "batch sources dim"]) -> Tokens:
        dim, dtype = queries.shape[-1], queries.dtype
        project = partial(
            nn.DenseGeneral,
            features=(self.heads, dim // self.heads),
            use_bias=self.has_bias,
            kernel_init=layers.declared,
            bias_init=layers.declared,
            dtype=dtype,
        )
        query, key, value = (
            project(name="query")(queries),
            project(name="key")(values),
            project(name="value")(values),
        )
        mixed = jax.nn.dot_product_attention(query, key, value)
        return project(features=dim, axis=(-2, -1), use_bias=True, name="out")(mixed)


class _Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    width: int
    gelu: str
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        y = layers.GELUS[self.gelu](layers.dense(self.width, dtype=x.dtype, name="Dense_0")(x))
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = layers.dense(x.shape[-1], dtype=x.dtype, name="Dense_1")(y)
        return nn.Dropout(self.dropout, deterministic=not self.train)(y)


class _AttentionPool(nn.Module):
    """A learned query attends to the tokens, then an MLP with a residual (Zhai et al. 2022, appendix A)."""

    config: Config

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "batch dim"]:
        config = self.config
        probe = self.param("probe", layers.declared, (1, 1, config.dim), jnp.float32)
        attention = _Attention(config.heads, config.has_qkv_bias, name="MultiHeadDotProductAttention_0")
        pooled = attention(_tiled(probe, x), x)
        y = _layer_norm(config, "LayerNorm_0")(pooled)
        y = _Mlp(config.mlp_dim, config.gelu, 0.0, False, name="MlpBlock_0")(y)
        return (pooled + y)[:, 0]


def _layer_norm(config: Config, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(config.layer_norm_epsilon, layers.DTYPES[config.dtype], name=name)


def _tiled(tokens: Float[Array, "1 extra dim"], x: Tokens) -> Float[Array, "batch extra dim"]:
    """Return the tokens once for every example of x, in its dtype."""
    return jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape[1:]))


def _pool_cls(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    del config
    return x[:, 0]


def _pool_gap(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    return jnp.mean(x[:, config.num_registers :], axis=1)


def _pool_map(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    return _AttentionPool(config, name="MAPHead_0")(x)


def _embedding_names(config: Config) -> tuple[str, ...]:
    optional = {"cls": config.pool == "cls", "registers": config.num_registers > 0}
    present = [name for name, is_present in optional.items() if is_present]
    return (*present, "embedding", "Transformer/posembed_input")


POOLS: dict[str, Pool] = {"cls": _pool_cls, "gap": _pool_gap, "map": _pool_map}
POOL_NAMES: dict[str, tuple[str, ...]] = {"cls": (), "gap": (), "map": ("MAPHead_0",)}
FAMILY = Family(Config, build, SIZES, resolve, tiny)
