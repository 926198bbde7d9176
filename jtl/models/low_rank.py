"""Low-rank updates of linear layers while a Linen module runs: x (W + down · up) as x W + (x down) up.

The full-rank sum, and its gradient, are never made (Hu et al. 2022, sec. 4.1). Kernels are [inputs…,
outputs…]: dense layers of any number of dimensions, and convolutions without groups, whose `down` is a
convolution of the same window to `rank` channels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Factor = Array | np.ndarray
Updates = Mapping[str, tuple[Factor, Factor]]
Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
Intercept = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], Any]


@contextmanager
def applied(updates: Updates) -> Iterator[None]:
    """Add the updates to the layers of their kernels in every module that runs inside."""
    if not updates:
        yield
        return

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = following(*args, **kwargs)
        name = "/".join((*context.module.path, "kernel"))
        if context.method_name != "__call__" or name not in updates:
            return outputs
        down, up = updates[name]
        narrow = _narrowed(context.module, args[0], jnp.asarray(down, outputs.dtype))
        return outputs + jnp.tensordot(narrow, jnp.asarray(up, outputs.dtype), 1)

    with nn.intercept_methods(intercept):
        yield


def shapes(module: nn.Module, inputs: Any) -> Shapes:
    """Return (inputs, outputs) of every kernel that `applied` can update, by name; from inputs' shapes."""
    found: Shapes = {}

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs, layer = following(*args, **kwargs), context.module
        if context.method_name == "__call__" and _is_linear(layer):
            shape = layer.get_variable("params", "kernel").shape
            num_inputs = _num_input_dims(layer)
            found["/".join((*layer.path, "kernel"))] = (shape[:num_inputs], shape[num_inputs:])
        return outputs

    def run(inputs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return module.init(jax.random.key(0), inputs)

    jax.eval_shape(run, inputs)
    return found


def _is_linear(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv):
        return layer.feature_group_count == 1
    return isinstance(layer, nn.Dense | nn.DenseGeneral)


def _num_input_dims(layer: Any) -> int:
    if isinstance(layer, nn.Conv):
        window: Any = layer.kernel_size
        return len(window) + 1
    return len(layer.axis) if isinstance(getattr(layer, "axis", None), tuple) else 1


def _narrowed(layer: Any, x: Array, down: Array) -> Array:
    """Return what the update's first factor makes of the layer's inputs."""
    if not isinstance(layer, nn.Conv):
        return jnp.tensordot(x, down, down.ndim - 1)
    given = layer.strides or 1
    padding: Any = layer.padding
    strides: Any = given if isinstance(given, tuple) else (given,) * (down.ndim - 2)
    return jax.lax.conv_general_dilated(
        x.astype(down.dtype), down, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
