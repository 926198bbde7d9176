"""The matrix product of dense layers, with the gradient of its kernel as CPUs compute it fastest."""

import math
from typing import Any

import jax
from jaxtyping import Array, Float

Rows = Float[Array, "rows inputs"]
Kernel = Float[Array, "inputs outputs"]


def dot_general(
    inputs: Float[Array, "..."],
    kernel: Float[Array, "..."],
    dimension_numbers: Any,
    precision: Any = None,
    **rest: Any,
) -> Float[Array, "..."]:
    """Contract the last dimensions of inputs with the first of a kernel, as `jax.lax.dot_general`, for Linen.

    `precision` and `rest` are what Linen passes on; no layer here sets them.
    """
    (from_inputs, from_kernel), batch = dimension_numbers
    num = len(from_kernel)
    assert batch == ((), ()), "a dense layer's product"
    assert precision is None, "a dense layer's product"
    assert not any(rest.values()), "a dense layer's product"
    assert tuple(from_inputs) == tuple(range(inputs.ndim - num, inputs.ndim)), "the last dimensions"
    assert tuple(from_kernel) == tuple(range(num)), "the first dimensions"
    kept, made = inputs.shape[: inputs.ndim - num], kernel.shape[num:]
    width = math.prod(kernel.shape[:num])
    outputs = product(inputs.reshape(-1, width), kernel.reshape(width, -1))
    return outputs.reshape(*kept, *made)


@jax.custom_vjp
def product(rows: Rows, kernel: Kernel) -> Float[Array, "rows outputs"]:
    """Return the matrix product.

    Autodiff's gradient of a kernel is a transposed product, for which XLA's CPU backend (jaxlib 0.10.2) first
    writes the wider factor anew, transposed: of 3152 rows, 192 inputs and 768 outputs it takes 24 ms on one
    core, and 7 ms as the product of the narrower factor, transposed, and the wider.
    """
    return rows @ kernel


def _forward(rows: Rows, kernel: Kernel) -> tuple[Float[Array, "rows outputs"], tuple[Rows, Kernel]]:
    return rows @ kernel, (rows, kernel)


def _backward(kept: tuple[Rows, Kernel], grad: Float[Array, "rows outputs"]) -> tuple[Rows, Kernel]:
    rows, kernel = kept
    if rows.shape[1] <= grad.shape[1]:
        grad_kernel = _over_rows(rows, grad)
    else:
        # Without the barrier XLA turns this into the other product again.
        grad_kernel = jax.lax.optimization_barrier(_over_rows(grad, rows)).T
    return grad @ kernel.T, grad_kernel


def _over_rows(
    left: Float[Array, "rows left"], right: Float[Array, "rows right"]
) -> Float[Array, "left right"]:
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))


product.defvjp(_forward, _backward)
