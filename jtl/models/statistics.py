"""Moments of a batch where batch normalisation keeps running ones, while a Linen module runs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jtl.models.layers import BatchNorm


@contextmanager
def measured(mask: Bool[Array, " batch"]) -> Iterator[None]:
    """Put the batch's own mean and biased variance in place of the running ones, in every module inside.

    Examples whose mask is false do not count, though they are normalised like the others. Each layer so
    reads what the layers before it make of this batch's own moments, as in training.
    """

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, BatchNorm) and context.method_name == "__call__":
            mean, var = _moments(args[0], mask)
            layer.put_variable("batch_stats", "mean", mean)
            layer.put_variable("batch_stats", "var", var)
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _moments(
    x: Float[Array, "batch *places channels"], mask: Bool[Array, " batch"]
) -> tuple[Float32[Array, " channels"], Float32[Array, " channels"]]:
    """Return mean and biased variance of each channel in two passes, which cancels nothing."""
    x = x.astype(jnp.float32)
    axes, ones = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1)
    weight = mask.astype(jnp.float32).reshape(-1, *ones)
    count = jnp.maximum(jnp.sum(weight) * math.prod(x.shape[1:-1]), 1.0)
    mean = jnp.sum(weight * x, axes) / count
    var = jnp.sum(weight * jnp.square(x - mean.reshape(*ones, -1)), axes) / count
    return mean, var
