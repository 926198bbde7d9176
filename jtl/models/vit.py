"""Vision Transformer (Dosovitskiy et al. 2021) with parameters named as in the public Flax checkpoints.

Names follow google-research/vision_transformer; the attention-pooling head (Zhai et al. 2022) is named as in
big_vision. Registers (Darcet et al. 2024), the distillation token (Touvron et al. 2021) and what DeiT-3,
DINOv2 and CLIP change are switches. Tokens = prefix (class token, distillation token, registers) + grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import attending, head, image, initial, layers, rematerialise, vit_layers
from jtl.models.attention import AUTO, IMPLEMENTATIONS
from jtl.models.contract import Family, Model, TokenGrid
from jtl.models.vit_layers import Tokens
from jtl.ranges import Depth, Fraction, ReadIf, WidthOr0

AllTokens: TypeAlias = Float[Array, "batch all_tokens dim"]
Pool: TypeAlias = Callable[..., Float[Array, "batch pooled"]]

TI = {"dim": 192, "depth": 12, "heads": 3, "mlp_dim": 768}
S = {"dim": 384, "depth": 12, "heads": 6, "mlp_dim": 1536}
B = {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
L = {"dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096}
SO400M = {"dim": 1152, "depth": 27, "heads": 16, "mlp_dim": 4304}
# OpenAI's; LAION's have gelu "exact".
CLIP = {"has_pre_norm": True, "has_patch_bias": False, "gelu": "quick", "layer_norm_epsilon": 1e-5}
SIGLIP = {"pool": "map", "gelu": "tanh"}
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"patch_px": 4, "dim": 96, "depth": 6, "heads": 3, "mlp_dim": 384},
    "ti16": {"patch_px": 16, **TI},
    "s8": {"patch_px": 8, **S},
    "s14": {"patch_px": 14, **S},
    "s16": {"patch_px": 16, **S},
    "s32": {"patch_px": 32, **S},
    "b8": {"patch_px": 8, **B},
    "b14": {"patch_px": 14, **B},
    "b16": {"patch_px": 16, **B},
    "b32": {"patch_px": 32, **B},
    "l14": {"patch_px": 14, **L},
    "l16": {"patch_px": 16, **L},
    "l32": {"patch_px": 32, **L},
    "h14": {"patch_px": 14, "dim": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
    "g14": {"patch_px": 14, "dim": 1536, "depth": 40, "heads": 24, "mlp_dim": 4096, "mlp": "swiglu"},
    "clip_b32": {"patch_px": 32, **B, **CLIP},
    "clip_b16": {"patch_px": 16, **B, **CLIP},
    "clip_l14": {"patch_px": 14, **L, **CLIP},
    "siglip_b16": {"patch_px": 16, **B, **SIGLIP},
    "siglip_l16": {"patch_px": 16, **L, **SIGLIP},
    "siglip_so400m14": {"patch_px": 14, **SO400M, **SIGLIP},
}
PROMPTS = "Transformer/prompts"
DEFAULTS = {
    **{"mlp": "gelu", "gelu": "exact", "pool": "cls", "layer_norm_epsilon": 1e-6},
    **{"has_pre_norm": False, "has_patch_bias": True},
}

# The AugReg checkpoints' own (timm 1.0.31: crop ratio 0.9, bicubic), DINOv2's and CLIP's (crop ratio 1), and
# SigLIP's (the whole image, squashed).
AUGREG = Preprocess((224, 224), resize_px=248)
DINOV2 = Preprocess((518, 518), resize_px=518, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OPENAI = Preprocess(
    (224, 224), 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
PREPROCESS = {
    **dict.fromkeys(SIZES, AUGREG),
    "mini": Preprocess((32, 32), resize_px=32),
    **dict.fromkeys(("s14", "b14", "l14", "g14"), DINOV2),
    **dict.fromkeys(("clip_b32", "clip_b16", "clip_l14"), OPENAI),
    **dict.fromkeys(("siglip_b16", "siglip_l16", "siglip_so400m14"), Preprocess((224, 224), resize_px=0)),
}

# As google-research/vision_transformer begins, but for the MLP's biases: 0 instead of N(0, 1e-12). LayerScale
# as DINOv2 begins.
RULES: initial.Rules = (
    *head.RULES,
    (r"^embedding/kernel$", initial.lecun_normal),
    (r"/(query|key|value)/kernel$", initial.split_heads(initial.xavier_uniform)),
    (r"/out/kernel$", initial.joined_heads(initial.xavier_uniform)),
    (r"/(kernel|probe)$", initial.xavier_uniform),
    (r"(^|/)(pos_embedding|registers|distillation|prompts)$", initial.normal(0.02)),
    (r"/scale$", initial.ones),
    (r"/gamma$", initial.constant(1e-5)),
    (r"(^|/)(bias|cls)$", initial.zeros),
)


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a ViT beside those of every family; None, 0 and "" mean "as the size has it".

    `patch_px` is one number or (height, width). `pool` makes features of the tokens: "cls" (class token),
    "gap" (mean over the grid), "cls_gap" (both, one behind the other), "map" (attention pooling of the grid)
    or "distilled" (class and distillation token, each with a linear head of its own, averaged). There is a
    class token where `pool` reads one or `has_class_token`, behind it a distillation token where
    `is_distilled` or `pool` says so, then `num_registers` tokens; `has_class_position` is whether the first
    two have positions, `has_register_position` whether all have. `feature_norm` is where the final norm
    stands: on "tokens", or behind the pooling ("pooled"). `projection_dim` > 0 projects the features to that
    width without bias; `has_unit_features` scales them to length 1. `dropout` acts on embeddings and both
    residual branches; `drop_path` is the last block's rate of stochastic depth, growing linearly from 0 at
    the first. `mlp` is "gelu" or "swiglu" (`mlp_dim` wide after the gate), `gelu` "exact", "tanh" or "quick";
    `has_qkv_bias` gives query, key and value a bias, `has_patch_bias` the embedding; `has_layer_scale` scales
    every residual branch by learned factors; `has_pre_norm` normalises before the first block. `num_prompts`
    learned tokens stand behind the others in the blocks (Jia et al. 2022): in each block its own in place of
    what the one before made of them (eq. 5), or where not `has_deep_prompts` the same that entered the first
    (eq. 4). No weights bring any; the strategy vpt trains them alone. `attention` is the code it is computed
    by: "xla", "cudnn" (NVIDIA's fused kernels) or "auto" (cuDNN's where they take it).
    """

    name: str = "vit"
    size: str = "ti16"
    patch_px: image.Pixels | tuple[image.Pixels, image.Pixels] = 0
    dim: WidthOr0 = 0
    depth: Depth = 0
    heads: WidthOr0 = 0
    mlp_dim: WidthOr0 = 0
    mlp: str = ""
    gelu: str = ""
    pool: str = ""
    num_registers: WidthOr0 = 0
    num_prompts: WidthOr0 = 0
    has_deep_prompts: Annotated[bool, ReadIf("num_prompts")] = True
    has_class_token: bool = False
    is_distilled: bool = False
    has_class_position: bool = True
    has_register_position: bool = False
    has_patch_bias: bool | None = None
    has_pre_norm: bool | None = None
    has_qkv_bias: bool = True
    has_layer_scale: bool = False
    feature_norm: str = "tokens"
    projection_dim: WidthOr0 = 0
    has_unit_features: bool = False
    layer_norm_epsilon: Fraction = 0.0
    attention: str = AUTO
    dropout: Fraction = 0.0
    drop_path: Fraction = 0.0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        layers.check_choice("model.feature_norm", self.feature_norm, FEATURE_NORMS)
        layers.check_choice("model.attention", self.attention, IMPLEMENTATIONS)
        for name, known in {"pool": POOLS, "gelu": layers.GELUS, "mlp": vit_layers.MLPS}.items():
            if getattr(self, name):
                layers.check_choice(f"model.{name}", getattr(self, name), known)
        image.check(self)
        layers.check_pixels("model.patch_px", self.patch_px)
        if self.has_register_position and not self.has_class_position:
            raise UserError(
                "model.has_register_position is True and model.has_class_position False; expected registers "
                "with positions only where class tokens have them; set one of the two otherwise"
            )
        if self.pool == "distilled" and self.projection_dim:
            raise UserError(
                f"model.projection_dim is {self.projection_dim} and model.pool 'distilled', whose tokens "
                f"have a head each; set model.projection_dim=0 or another model.pool"
            )


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in, pixels as (height, width), and its tokens."""
    full = layers.fill(config, SIZES, DEFAULTS)
    image_px = layers.pair(full.image_px)
    image_px = image_px if any(image_px) else PREPROCESS[full.size].image_px
    patch_px = layers.pair(full.patch_px)
    if full.dim % full.heads:
        raise UserError(f"model.dim is {full.dim}; expected a multiple of model.heads, {full.heads}")
    if any(image % patch for image, patch in zip(image_px, patch_px, strict=True)):
        raise UserError(f"model.image_px is {image_px}; expected multiples of model.patch_px, {patch_px}")
    is_distilled = full.is_distilled or POOLS[full.pool].num_class_tokens == 2
    return replace(
        full,
        image_px=image_px,
        patch_px=patch_px,
        is_distilled=is_distilled,
        has_class_token=full.has_class_token or is_distilled or POOLS[full.pool].num_class_tokens > 0,
    )


def grid(config: Config) -> tuple[int, int]:
    """Return the number of patches down and across.

    >>> grid(Config(size="b32", image_px=(224, 448)))
    (7, 14)
    """
    full = resolve(config)
    (height, width), (patch_height, patch_width) = layers.pair(full.image_px), layers.pair(full.patch_px)
    return height // patch_height, width // patch_width


def num_placed_tokens(config: Config) -> int:
    """Return how many tokens before the grid have positions: the first ones.

    >>> num_placed_tokens(Config(pool="gap")), num_placed_tokens(Config(is_distilled=True))
    (0, 2)
    """
    full = resolve(config)
    num_class = full.has_class_position * (full.has_class_token + full.is_distilled)
    return num_class + full.has_register_position * full.num_registers


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)
    blocks = [f"Transformer/encoderblock_{index}" for index in range(full.depth)]

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        assert not frozen_stats, "a ViT keeps no running statistics"
        return _ViT(full, num_outputs, train)

    # What follows the last block goes with it: then a block's distance to the head is what published recipes
    # for layer-wise decay count.
    names = (
        _embedding_names(full),
        *((block,) for block in blocks[:-1]),
        (blocks[-1], *_last_names(full)),
        ("head",),
    )
    preprocess = PREPROCESS[full.size].at(layers.pair(full.image_px)).with_channels(num_channels)
    lie = _token_grid(full)
    return image.as_model(make_module, RULES, names, preprocess, lie, attending.of_vit(full, lie))


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
    ) -> tuple[Float32[Array, "batch features"], Float32[Array, "batch outputs"], dict[str, Array]]:
        config = self.config
        patch_px, dtype = layers.pair(config.patch_px), layers.compute_dtype(config.dtype)
        embed = vit_layers.PatchEmbedding(
            config.dim, patch_px, bool(config.has_patch_bias), dtype, name="embedding"
        )
        encoder = _Encoder(config, self.train, name="Transformer")
        x, intermediates = encoder(embed(images), self._prefix())
        features = POOLS[config.pool].reduce(config, x)
        if config.feature_norm == "pooled":
            features = vit_layers.layer_norm(config, "feature_norm")(features)
        features = features.astype(jnp.float32)
        if config.projection_dim:
            features = layers.dense(config.projection_dim, use_bias=False, name="projection")(features)
        if config.has_unit_features:
            features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        lie = _token_grid(config)
        is_distilled = config.pool == "distilled"
        return head.read_out(
            config, self.num_outputs, self.train, features, intermediates, grid=lie, is_distilled=is_distilled
        )

    def _prefix(self) -> Float[Array, "1 extra dim"]:
        """Return the learned tokens before the grid, in order."""
        dim = self.config.dim
        shapes = {name: (1, count, dim) for name, count in _num_extra(self.config).items() if count}
        tokens = [self.param(name, layers.declared, shape, jnp.float32) for name, shape in shapes.items()]
        return jnp.concatenate([jnp.zeros((1, 0, dim)), *tokens], axis=1)


class _Encoder(nn.Module):
    """Prefix tokens, position embedding, blocks and final norm; gives the tokens and every layer's output."""

    config: Config
    train: bool

    @nn.compact
    def __call__(self, x: Tokens, prefix: Float[Array, "1 extra dim"]) -> tuple[AllTokens, dict[str, Array]]:
        config = self.config
        prefix, num_placed = vit_layers.tiled(prefix, x), num_placed_tokens(config)
        x = jnp.concatenate([prefix[:, :num_placed], x], axis=1)
        x = vit_layers.PositionEmbedding(name="posembed_input")(x)
        x = jnp.concatenate([x[:, :num_placed], prefix[:, num_placed:], x[:, num_placed:]], axis=1)
        x = nn.Dropout(config.dropout, deterministic=not self.train)(x)
        if config.has_pre_norm:
            x = vit_layers.layer_norm(config, "pre_norm")(x)
        intermediates, num_tokens, prompts = {"embedding": x}, x.shape[1], self._prompts()
        block_type = rematerialise.of_blocks(vit_layers.Block, config.remat)
        for index in range(config.depth):
            drop_path = config.drop_path * index / max(config.depth - 1, 1)
            if index < len(prompts):
                x = jnp.concatenate([x[:, :num_tokens], vit_layers.tiled(prompts[index], x)], axis=1)
            x = block_type(config, drop_path, self.train, name=f"encoderblock_{index}")(x)
            intermediates[f"block{index}"] = x[:, :num_tokens]
        x = x[:, :num_tokens]
        if config.feature_norm == "tokens":
            x = intermediates["encoder_norm"] = vit_layers.layer_norm(config, "encoder_norm")(x)
        return x, intermediates

    def _prompts(self) -> list[Float[Array, "1 prompts dim"]]:
        """Return the prompts that enter the first blocks, one set a block; none where there are none."""
        config = self.config
        if not config.num_prompts:
            return []
        shape = (config.depth if config.has_deep_prompts else 1, config.num_prompts, config.dim)
        return jnp.split(self.param("prompts", layers.declared, shape, jnp.float32), shape[0])


class Pooling(NamedTuple):
    """A way to make features of all tokens: how, how many class tokens it reads, its parameters' prefixes."""

    reduce: Pool
    num_class_tokens: int
    names: tuple[str, ...] = ()


def _pool_cls(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    del config
    return x[:, 0]


def _pool_gap(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    return jnp.mean(x[:, _num_prefix(config) :], axis=1)


def _pool_cls_gap(config: Config, x: Tokens) -> Float[Array, "batch pooled"]:
    return jnp.concatenate([_pool_cls(config, x), _pool_gap(config, x)], axis=-1)


def _pool_map(config: Config, x: Tokens) -> Float[Array, "batch dim"]:
    return vit_layers.AttentionPool(config, name="MAPHead_0")(x[:, _num_prefix(config) :])


def _pool_distilled(config: Config, x: Tokens) -> Float[Array, "batch pooled"]:
    del config
    return x[:, :2].reshape(x.shape[0], -1)


def _token_grid(config: Config) -> TokenGrid:
    return TokenGrid(_num_prefix(config), *grid(config))


def _num_prefix(config: Config) -> int:
    return sum(_num_extra(config).values())


def _num_extra(config: Config) -> dict[str, int]:
    """Return how many learned tokens a resolved config has under each of their names, in their order."""
    return {
        "cls": int(config.has_class_token),
        "distillation": int(config.is_distilled),
        "registers": config.num_registers,
    }


def _embedding_names(config: Config) -> tuple[str, ...]:
    present = [name for name, count in _num_extra(config).items() if count]
    pre_norm = ("Transformer/pre_norm",) if config.has_pre_norm else ()
    return (*present, "embedding", "Transformer/posembed_input", *pre_norm)


def _last_names(config: Config) -> tuple[str, ...]:
    """Return the names of what goes with the last block: what follows it, and the prompts.

    Prompts are as new as the head, so layer-wise decay leaves them nearly its learning rate.
    """
    projection = ("projection",) if config.projection_dim else ()
    prompts = (PROMPTS,) if config.num_prompts else ()
    return (FEATURE_NORMS[config.feature_norm], *POOLS[config.pool].names, *projection, *prompts)


FEATURE_NORMS = {"tokens": "Transformer/encoder_norm", "pooled": "feature_norm"}
POOLS: dict[str, Pooling] = {
    "cls": Pooling(_pool_cls, 1),
    "gap": Pooling(_pool_gap, 0),
    "cls_gap": Pooling(_pool_cls_gap, 1),
    "map": Pooling(_pool_map, 0, ("MAPHead_0",)),
    "distilled": Pooling(_pool_distilled, 2),
}
FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
