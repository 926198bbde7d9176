"""Means over the examples of a batch that count: padding has a mask that is false."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean(values: Float[Array, " batch"], mask: Bool[Array, " batch"]) -> Float[Array, ""]:
    """Return the mean over the examples whose mask is true, 0 where there are none."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)
