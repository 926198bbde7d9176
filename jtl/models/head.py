"""The read-out every family ends in: chosen layers, adapters on them, pooling, and the head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jtl import ranges
from jtl.errors import UserError, nearest
from jtl.models import initial, layers, rematerialise
from jtl.models.contract import TokenGrid
from jtl.ranges import Fraction, ReadIf, Width

Features: TypeAlias = Float32[Array, "batch features"]
Pooled: TypeAlias = Float[Array, "batch pooled"]
Mask: TypeAlias = Bool[Array, "batch tokens"]

RULES: initial.Rules = (
    (r"^head/(hidden|adapter)\d+/kernel$", initial.lecun_normal),
    (r"^head/(out/|distilled/)?kernel$", initial.zeros),
)
NO_ADAPTER = "none"


@dataclass(frozen=True)
class Settings:
    """The settings every family has; its own Config adds to them.

    `weights` says what it starts from: a spec as `jtl.weights` reads it, or "none". `features` name the
    layers ("block6", "stage3") whose pooled outputs, one behind the other, are the features; () takes the
    model's own. Of tokens, `feature_pool` "mean" averages those of a grid, or those of a text that are no
    padding, "cls" takes the first token, "cls_mean" both. `adapter` puts new layers on each of `features`:
    "mlp" (dense on what is pooled) or "conv" (3x3 convolution before pooling), of `adapter_width` outputs.
    `head_widths` are the hidden layers of the head. `dtype` is what it computes in ("auto": bfloat16 on GPU
    and TPU, float32 on CPU); parameters, running statistics, features and logits stay float32. `remat` says
    what of a block the backward pass computes again instead of keeping it: nothing ("none"), all but the
    results of matrix products and convolutions ("dots"), or all ("full").
    """

    name: str = ""
    size: str = ""
    weights: str = "none"
    features: tuple[str, ...] = ()
    feature_pool: Annotated[str, ReadIf("features")] = "mean"
    adapter: str = NO_ADAPTER
    adapter_width: Annotated[Width, ReadIf("adapter", ("mlp", "conv"))] = 256
    head_widths: tuple[Width, ...] = ()
    head_dropout: Fraction = 0.0
    head_activation: Annotated[str, ReadIf("head_widths"), ReadIf("adapter", ("mlp", "conv"))] = "gelu"
    dtype: str = layers.AUTO
    remat: str = rematerialise.NONE


def check(config: Any) -> None:
    """Raise UserError unless the settings are in range, and those every family has fit together."""
    ranges.check(config, "model")
    layers.check_choice("model.dtype", config.dtype, (layers.AUTO, *layers.DTYPES))
    layers.check_choice("model.remat", config.remat, rematerialise.POLICIES)
    layers.check_choice("model.head_activation", config.head_activation, layers.ACTIVATIONS)
    layers.check_choice("model.feature_pool", config.feature_pool, TOKEN_POOLS)
    layers.check_choice("model.adapter", config.adapter, (NO_ADAPTER, *ADAPTERS))
    if config.adapter != NO_ADAPTER and not config.features:
        raise UserError(
            f"model.adapter is {config.adapter!r} and model.features names no layer; expected one, such as "
            f"('block6',)"
        )


def read_out(
    config: Settings,
    num_outputs: int,
    train: bool,
    features: Float[Array, "batch dim"],
    intermediates: Mapping[str, Array],
    *,
    grid: TokenGrid | None = None,
    mask: Mask | None = None,
    is_distilled: bool = False,
) -> tuple[Features, Float32[Array, "batch outputs"], dict[str, Array]]:
    """Return features, logits and all intermediates, from the model's own features and its layers' outputs.

    To call inside the model's module: the head's parameters are "head/…". `grid` says how the layers' tokens
    lie, None for maps [batch, height, width, channels] and for sequences, of which `mask` says what is no
    padding. Without outputs the logits are the features. Where `is_distilled`, the model's own features are
    of two halves, and a linear head is one for each, averaged.

    Raises:
        UserError: `config.features` names no layer.
    """
    known = {**intermediates, "pre_head": features.astype(jnp.float32)}
    for name in config.features:
        if name not in known:
            raise UserError(
                f"model.features names {name!r}, which is no layer; nearest: {nearest(name, known)}"
            )
    maps = tuple(known[name] for name in config.features)
    pooled = [pool(each, grid, config.feature_pool, mask) for each in maps] or [known["pre_head"]]
    joined = jnp.concatenate(pooled, axis=-1)
    if num_outputs == 0:
        return joined, joined, known
    is_distilled = is_distilled and not config.features and not config.head_widths
    logits = Head(config, num_outputs, train, grid, is_distilled, name="head")(joined, maps, mask)
    return joined, logits, known


def pool(activations: Array, grid: TokenGrid | None, how: str, mask: Mask | None = None) -> Pooled:
    """Return a layer's output as one float32 vector an example: maps averaged, tokens as `how` says.

    Tokens lie in a grid, or in sequences that begin with a class token and are padded where not `mask`.

    Raises:
        UserError: a class token is asked for and there is none.
    """
    x = activations.astype(jnp.float32)
    if x.ndim == 2:
        return x
    if x.ndim == 4:
        return jnp.mean(x, (1, 2))
    assert (grid is None) != (mask is None), "tokens lie in a grid or in sequences"
    return TOKEN_POOLS[how](x, grid, mask)


class Head(nn.Module):
    """Features → outputs: adapters, hidden layers of the given widths, a linear layer that starts at zero.

    Without hidden layers its parameters are `kernel` and `bias` themselves, as in public checkpoints; with
    them `hidden0/…`, `hidden1/…`, `out/…`; adapters are `adapter0/…`, one for each of `config.features`.
    Where `is_distilled`, `distilled/…` is a second linear head, of the features' second half (DeiT, Touvron
    et al. 2021, sec. 4), and the logits are the mean of both.
    Dropout comes before every linear layer of the head. Computes in float32.
    """

    config: Any
    num_outputs: int
    train: bool = False
    grid: TokenGrid | None = None
    is_distilled: bool = False

    @nn.compact
    def __call__(
        self, features: Float32[Array, "batch dim"], maps: tuple[Array, ...] = (), mask: Mask | None = None
    ) -> Float32[Array, "batch outputs"]:
        """Return the logits of features, or where there are adapters, of what they make of `maps`."""
        config, x = self.config, features
        if config.adapter != NO_ADAPTER:
            adapt = ADAPTERS[config.adapter]
            adapted = [
                adapt(config, each, self.grid, mask, f"adapter{index}") for index, each in enumerate(maps)
            ]
            x = jnp.concatenate(adapted, axis=-1)
        for index, width in enumerate(config.head_widths):
            x = nn.Dropout(config.head_dropout, deterministic=not self.train)(x)
            x = layers.ACTIVATIONS[config.head_activation](layers.dense(width, name=f"hidden{index}")(x))
        x = nn.Dropout(config.head_dropout, deterministic=not self.train)(x)
        if config.head_widths:
            return layers.dense(self.num_outputs, name="out")(x)
        x, *distilled = jnp.split(x, 2, axis=-1) if self.is_distilled else (x,)
        kernel = self.param("kernel", layers.declared, (x.shape[-1], self.num_outputs), jnp.float32)
        bias = self.param("bias", layers.declared, (self.num_outputs,), jnp.float32)
        logits = x @ kernel.astype(jnp.float32) + bias.astype(jnp.float32).reshape(1, -1)
        for second in distilled:
            logits = (logits + layers.dense(self.num_outputs, name="distilled")(second)) / 2
        return logits


def _mlp(
    config: Settings, activations: Array, grid: TokenGrid | None, mask: Mask | None, name: str
) -> Pooled:
    pooled = pool(activations, grid, config.feature_pool, mask)
    return layers.ACTIVATIONS[config.head_activation](layers.dense(config.adapter_width, name=name)(pooled))


def _conv(
    config: Settings, activations: Array, grid: TokenGrid | None, mask: Mask | None, name: str
) -> Pooled:
    del mask
    x = activations.astype(jnp.float32)
    if x.ndim == 3 and grid is not None:
        x = x[:, grid.prefix :].reshape(x.shape[0], grid.rows, grid.columns, x.shape[-1])
    if x.ndim != 4:
        raise UserError(
            f"model.adapter is 'conv' on a layer of shape {activations.shape}; expected a map or a grid of "
            f"tokens: set model.adapter='mlp', or other model.features"
        )
    convolve = nn.Conv(
        config.adapter_width, (3, 3), kernel_init=layers.declared, bias_init=layers.declared, name=name
    )
    x = convolve(x)
    return jnp.mean(layers.ACTIVATIONS[config.head_activation](x), (1, 2))


def _mean(x: Float32[Array, "batch tokens dim"], grid: TokenGrid | None, mask: Mask | None) -> Pooled:
    if mask is None:
        return jnp.mean(x[:, grid.prefix if grid else 0 :], axis=1)
    weight = mask.astype(jnp.float32)[..., None]
    return jnp.sum(x * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)


def _cls(x: Float32[Array, "batch tokens dim"], grid: TokenGrid | None, mask: Mask | None) -> Pooled:
    del mask
    if grid is not None and grid.prefix == 0:
        raise UserError("model.feature_pool is 'cls' and the model has no class token; set 'mean'")
    return x[:, 0]


def _cls_mean(x: Float32[Array, "batch tokens dim"], grid: TokenGrid | None, mask: Mask | None) -> Pooled:
    return jnp.concatenate([_cls(x, grid, mask), _mean(x, grid, mask)], axis=-1)


TOKEN_POOLS: dict[str, Callable[..., Array]] = {"mean": _mean, "cls": _cls, "cls_mean": _cls_mean}
ADAPTERS: dict[str, Callable[..., Array]] = {"mlp": _mlp, "conv": _conv}
