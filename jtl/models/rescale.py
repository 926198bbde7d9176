"""Factors on what enters and leaves linear layers while a Linen module runs (Liu et al. 2022, sec. 3.3).

There is a factor for each input or output of a kernel [inputs…, outputs…], of a convolution for each channel.
The scaled kernel, and its gradient, are never made; `folded` makes it once, for what is written.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

INPUTS, OUTPUTS = "inputs", "outputs"
NUM_CONV_INPUT_DIMS = 3

Values = Array | np.ndarray
Scales = Mapping[str, Mapping[str, Values]]


@contextmanager
def applied(scales: Scales) -> Iterator[None]:
    """Scale the inputs and outputs of the layers of these kernels in every module that runs inside."""
    if not scales:
        yield
        return

    def intercept(following: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        own = scales.get("/".join((*context.module.path, "kernel")), {})
        if context.method_name != "__call__" or not own:
            return following(*args, **kwargs)
        inputs = _scaled(args[0], own.get(INPUTS))
        return _scaled(following(inputs, *args[1:], **kwargs), own.get(OUTPUTS))

    with nn.intercept_methods(intercept):
        yield


def shape(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the factors on a kernel's input or output dims: a window's pixels share them.

    >>> shape((3, 3, 64)), shape((64,)), shape((4, 16))
    ((1, 1, 64), (64,), (4, 16))
    """
    return (1, 1, dims[-1]) if len(dims) == NUM_CONV_INPUT_DIMS else dims


def folded(kernel: Values, bias: Values | None, scales: Mapping[str, Values]) -> tuple[Any, Any]:
    """Return the kernel and the bias (None: there is none) of the layer that needs no factors."""
    if INPUTS in scales:
        factors = scales[INPUTS]
        kernel = kernel * factors.reshape(*factors.shape, *(1,) * (kernel.ndim - factors.ndim))
    if OUTPUTS in scales:
        kernel = kernel * _aligned(scales[OUTPUTS], kernel.ndim)
        bias = None if bias is None else bias * scales[OUTPUTS]
    return kernel, bias


def _scaled(x: Array, factors: Values | None) -> Array:
    return x if factors is None else x * _aligned(jnp.asarray(factors, x.dtype), x.ndim)


def _aligned(factors: Any, ndim: int) -> Any:
    """Return the factors as the last of `ndim` dims."""
    return factors.reshape(*(1,) * (ndim - factors.ndim), *factors.shape)
