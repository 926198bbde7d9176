"""The largest of 3x3 windows: the same values and gradients as XLA's, ties and edges among them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.max_pool import max_pool


def _plain(x: jax.Array, padding_px: int) -> jax.Array:
    padding = ((0, 0), *[(padding_px, padding_px)] * 2, (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


@pytest.mark.parametrize("padding_px", [0, 1])
@pytest.mark.parametrize("size", [(9, 8), (8, 7)])
def test_the_largest_and_their_gradients_are_xlas(size: tuple[int, int], padding_px: int) -> None:
    # Whole numbers, of which many are equal: the gradient is the first's.
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), (2, *size, 3)))

    def both(pool: Any) -> tuple[jax.Array, jax.Array]:
        largest, pull = jax.vjp(lambda x: pool(x, padding_px), x)
        return largest, pull(jnp.cos(jnp.arange(largest.size, dtype=jnp.float32)).reshape(largest.shape))[0]

    found, expected = jax.jit(both, static_argnums=0)(max_pool), jax.jit(both, static_argnums=0)(_plain)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(max_pool(x, padding_px), expected[0])


def test_training_keeps_a_byte_an_output() -> None:
    x = jnp.zeros((1, 8, 8, 2), jnp.bfloat16)
    largest, pull = jax.vjp(max_pool, x)
    assert largest.dtype == pull(largest)[0].dtype == jnp.bfloat16
    kept = [leaf for leaf in jax.tree.leaves(pull) if hasattr(leaf, "nbytes")]
    assert sum(leaf.nbytes for leaf in kept) <= largest.size + 16
