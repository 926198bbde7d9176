"""What the families share: checks of settings, order of layers, batch normalisation, drop path."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError, nearest, shown
from jtl.models.product import dot_general

ConfigT = TypeVar("ConfigT", bound=Any)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return x Φ(x), by erf: `jax.nn.gelu` takes erfc, for which XLA compiles slower code on CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.7071067811865476))


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the tanh approximation of x Φ(x) (Hendrycks and Gimpel 2016, sec. 2)."""
    return jax.nn.gelu(x, approximate=True)


def gelu_quick(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the sigmoid approximation of x Φ(x) (Hendrycks and Gimpel 2016, sec. 2), as CLIP has it."""
    return x * jax.nn.sigmoid(1.702 * x)


GELUS: dict[str, Callable[..., Array]] = {"exact": gelu, "tanh": gelu_tanh, "quick": gelu_quick}
ACTIVATIONS: dict[str, Callable[..., Array]] = {"gelu": gelu, "relu": jax.nn.relu}
# Modules declare shapes alone; `initial.draw` fills them. Zeros cost nothing to trace.
declared = nn.initializers.zeros
dense = partial(nn.Dense, kernel_init=declared, bias_init=declared, dot_general=dot_general)
dense_general = partial(nn.DenseGeneral, kernel_init=declared, bias_init=declared, dot_general=dot_general)
# How settings that are None where they are unset were saved before: one could not choose these values then.
ONCE_UNSET: Mapping[str, Any] = {
    **dict.fromkeys(("has_pre_norm", "is_v1", "has_conv_bias", "has_fixed_ends"), False),
    **dict.fromkeys(("num_segments", "position_offset"), 0),
    "has_patch_bias": True,
}
NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AUTO = "auto"
# The first GPUs whose matrix units take bfloat16 are NVIDIA's Ampere.
LEAST_CAPABILITY = 8.0


def auto_dtype() -> tuple[str, str]:
    """Return the name of the dtype that a model computes in where nobody says which, and why that one."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "float32", "a CPU multiplies it fastest"
    # AMD's are called otherwise ("gfx942"), and take it.
    capability = str(getattr(device, "compute_capability", ""))
    if re.fullmatch(r"\d+\.\d+", capability) and float(capability) < LEAST_CAPABILITY:
        return "float32", f"a GPU of compute capability {capability} has no units for bfloat16"
    return "bfloat16", f"a {device.platform.upper()} multiplies it several times as fast as float32"


def compute_dtype(name: str) -> Any:
    """Return the dtype that a model of this `model.dtype` computes in."""
    return DTYPES[auto_dtype()[0] if name == AUTO else name]


def layer_of(name: str, layers: tuple[tuple[str, ...], ...]) -> int:
    """Return the index of the layer a parameter belongs to; a prefix matches whole components of the name.

    >>> layer_of("block10/bias", (("block1",), ("block10", "norm"), ("head",)))
    1

    Raises:
        UserError: no layer has a prefix of the name.
    """
    for index, prefixes in enumerate(layers):
        if any(name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes):
            return index
    known = [prefix for prefixes in layers for prefix in prefixes]
    raise UserError(f"parameter {name!r} belongs to no layer of the model; nearest: {nearest(name, known)}")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) from either form of a size in pixels.

    >>> pair(16)
    (16, 16)
    """
    return (value, value) if isinstance(value, int) else value


def fill(
    config: ConfigT, sizes: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any] = NO_DEFAULTS
) -> ConfigT:
    """Return the config with what is unset taken from its size, or from the defaults where that has none.

    Unset is None where that is a field's default: False and 0 mean something there. Of all other fields it
    is 0 (of pixels, in both directions) or empty.
    """
    unset = {each.name for each in fields(config) if _is_unset(getattr(config, each.name), each.default)}
    values = {**defaults, **sizes[config.size]}
    return replace(config, **{name: value for name, value in values.items() if name in unset})


def _is_unset(value: Any, default: Any) -> bool:
    if default is None:
        return value is None
    return not any(value) if isinstance(value, tuple) else not value


def as_now_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model that were saved when what is None now was False, True or 0."""
    return {
        name: None if name in ONCE_UNSET and value == ONCE_UNSET[name] else value
        for name, value in settings.items()
    }


def check_choice(setting: str, value: str, known: Collection[str]) -> None:
    """Raise UserError unless the value is one of the known names."""
    if value not in known:
        raise UserError(
            f"{setting} is {shown(value)}; expected one of {sorted(known)}; nearest: {nearest(value, known)}"
        )


def check_pixels(setting: str, value: int | tuple[int, int]) -> None:
    """Raise UserError unless the value is positive in both directions, or 0."""
    if min(pair(value)) < 1 and any(pair(value)):
        raise UserError(
            f"{setting} is {value}; expected pixels (one number or (height, width)), or 0 for the size's own"
        )


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's statistics, in float32 whatever the compute dtype.

    Training normalises by the batch's biased variance and moves the running statistics towards its mean and
    *unbiased* variance by 1 - `momentum` (Flax keeps the biased one). A module whose name is in
    `frozen_stats` normalises with its running statistics and leaves them alone. Under `jit` over a sharded
    batch, the statistics are global.
    """

    train: bool = False
    frozen_stats: frozenset[str] = frozenset()
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *places channels"]) -> Float[Array, "batch *places channels"]:
        """Return the normalised activations in the compute dtype."""
        channels = x.shape[-1:]
        scale = self.param("scale", declared, channels, jnp.float32)
        bias = self.param("bias", declared, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", declared, None, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", declared, None, channels, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train and "/".join(self.path) not in self.frozen_stats:
            mean, var = _moments(x, mean)
            count = x.size // x.shape[-1]
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        mean, factor, bias = (each.reshape(*(1,) * (x.ndim - 1), -1) for each in (mean, factor, bias))
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops the branch of whole examples and scales the others up."""

    rate: float
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Return the branch with a fraction `rate` of the examples zeroed in training."""
        if not self.train or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        is_kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(is_kept, x / (1 - self.rate), 0).astype(x.dtype)


def _moments(
    x: Float[Array, "batch *places channels"], shift: Float32[Array, " channels"]
) -> tuple[Float32[Array, " channels"], Float32[Array, " channels"]]:
    """Return mean and biased variance of each channel, in one pass over the activations.

    E[(x - s)²] - (E[x] - s)² is the variance for any s. Near the mean nothing cancels: s is the running mean.
    """
    axes = tuple(range(x.ndim - 1))
    shift = jax.lax.stop_gradient(shift)
    shifted = x.astype(jnp.float32) - shift.reshape(*(1,) * len(axes), -1)
    offset = jnp.mean(shifted, axes)
    var = jnp.mean(jnp.square(shifted), axes) - jnp.square(offset)
    return offset + shift, jnp.maximum(var, 0.0)
