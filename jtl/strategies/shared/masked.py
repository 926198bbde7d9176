"""Means over the examples of a batch that count: padding has a mask that is false."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean(
    values: Float[Array, " batch"],
    mask: Bool[Array, " batch"],
    weights: Float[Array, " batch"] | float = 1.0,
) -> Float[Array, ""]:
    """Return the mean over the examples whose mask is true, 0 where there are none.

    `weights` say how much each counts; what stands in a row whose mask is false, even nan, does not.
    """
    total = jnp.sum(jnp.where(mask, weights, 0.0))
    return jnp.sum(jnp.where(mask, weights * values, 0.0)) / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)


def mean_rows(values: Float[Array, "batch columns"], mask: Bool[Array, " batch"]) -> Float[Array, " columns"]:
    """Return each column's mean over the rows whose mask is true, 0 where there are none."""
    total = jnp.maximum(jnp.sum(mask.astype(values.dtype)), 1.0)
    return jnp.sum(jnp.where(mask[:, None], values, 0.0), axis=0) / total
