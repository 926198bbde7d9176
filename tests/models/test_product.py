"""The product of dense layers: its gradients are autodiff's, however taken, and copy nothing wide."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jtl.models.product import dot_general, product

WIDTHS = [(3, 8), (8, 3), (5, 5)]


def _arrays(
    num_inputs: int, num_outputs: int, num_rows: int = 7, dtype: Any = jnp.float32
) -> list[jax.Array]:
    shapes = ((num_rows, num_inputs), (num_inputs, num_outputs), (num_rows, num_outputs))
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def _loss(multiply: Any, rows: jax.Array, kernel: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(multiply(rows, kernel)) * other)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("widths", WIDTHS)
def test_gradients_of_the_product_are_autodiffs(widths: tuple[int, int], dtype: Any) -> None:
    arrays = _arrays(*widths, dtype=dtype)
    found = jax.grad(_loss, (1, 2))(product, *arrays)
    expected = jax.grad(_loss, (1, 2))(jnp.matmul, *arrays)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(
            one.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_product_is_batched_recomputed_and_differentiated_twice_like_any_other(
    widths: tuple[int, int],
) -> None:
    rows, kernel, other = _arrays(*widths)
    kernels = jnp.stack([kernel, 2 * kernel])

    def twice(multiply: Any) -> jax.Array:
        def size(kernel: jax.Array) -> jax.Array:
            again = jax.checkpoint(lambda rows, kernel: _loss(multiply, rows, kernel, other))
            return jnp.sum(jnp.square(jax.grad(again)(rows, kernel)))

        return jax.vmap(jax.grad(size))(kernels)

    np.testing.assert_allclose(twice(product), twice(jnp.matmul), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("widths", [(192, 768), (768, 192)])
def test_the_gradient_of_a_kernel_writes_no_factor_anew(widths: tuple[int, int]) -> None:
    rows, kernel, grad = _arrays(*widths, num_rows=400)

    def of_kernel(rows: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: product(rows, kernel), kernel)[1](grad)[0]

    program = jax.jit(of_kernel).lower(rows, kernel, grad).compile()
    # At most the kernel's gradient, before it is transposed.
    assert program.memory_analysis().temp_size_in_bytes <= kernel.nbytes


def test_linen_layers_of_several_dimensions_multiply_as_by_lax() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    for layer in (
        lambda multiply: nn.DenseGeneral((3, 4), dot_general=multiply),
        lambda multiply: nn.DenseGeneral(7, axis=(-2, -1), dot_general=multiply),
        lambda multiply: nn.Dense(7, dot_general=multiply),
    ):
        params = layer(None).init(jax.random.key(1), x)
        np.testing.assert_allclose(
            layer(dot_general).apply(params, x), layer(None).apply(params, x), rtol=1e-5, atol=1e-6
        )
