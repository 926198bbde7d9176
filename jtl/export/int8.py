"""Weights as int8, one scale for every output channel: a quarter of the bytes, computed with in float32.

Weight-only and symmetric: w ≈ scale · q with q in [-127, 127], scale = max |w| / 127 over all dims but the
last (Jacob et al. 2018, sec. 2, with a zero point of 0). Activations stay as they are.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

# Of smaller leaves the scales would be a good part.
MIN_VALUES = 4096
SCALE, LEVELS = "#scale", 127
KERNEL = "/kernel"


def quantised(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with the large kernels as int8, and beside each its scales as NAME#scale.

    >>> sorted(quantised({"params/a/kernel": np.ones((64, 64), np.float32), "params/a/bias": np.ones(64)}))
    ['params/a/bias', 'params/a/kernel', 'params/a/kernel#scale']
    """
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.endswith(KERNEL) and array.ndim > 1 and array.size >= MIN_VALUES:
            found[name], found[name + SCALE] = split(array)
        else:
            found[name] = array
    return found


def split(
    kernel: Float[np.ndarray, "*inputs outputs"],
) -> tuple[Int8[np.ndarray, "*inputs outputs"], Float[np.ndarray, " outputs"]]:
    """Return a kernel's levels and its scales; a channel of zeros has scale 1.

    >>> levels, scale = split(np.array([[1.0, 0.0], [-2.0, 0.0]], np.float32))
    >>> (levels.tolist(), [round(float(each), 4) for each in scale])
    ([[64, 0], [-127, 0]], [0.0157, 1.0])
    """
    kernel = np.asarray(kernel, np.float32)
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    return np.clip(np.rint(kernel / scale), -LEVELS, LEVELS).astype(np.int8), scale


def restored(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `quantised` was given, to within half a level; inside jit."""
    return {
        name: _times(array, arrays[name + SCALE]) if name + SCALE in arrays else array
        for name, array in arrays.items()
        if not name.endswith(SCALE)
    }


def _times(levels: Any, scale: Any) -> Array:
    levels = jnp.asarray(levels, jnp.float32)
    return levels * jnp.reshape(scale, (1,) * (levels.ndim - 1) + (-1,))
