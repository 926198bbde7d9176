"""A digest of every leaf of a state, the same for every sharding, on the devices and on the host."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

MIXER = 0x9E3779B1
# How much of a leaf the host looks at in one go.
CHUNK_WORDS = 2**22


def names(state: Any) -> list[str]:
    """Return the names of all leaves in order: "trainable/head/kernel"."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def kinds(state: Any) -> dict[str, str]:
    """Return dtype and shape of each leaf by name, as text.

    >>> kinds({"head": np.zeros((2, 3), np.float32)})
    {'head': 'float32[2,3]'}
    """
    return {
        name: kind(np.dtype(leaf.dtype).name, leaf.shape)
        for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True)
    }


def kind(dtype: str, shape: Sequence[int]) -> str:
    """Return dtype and shape as one text: "float32[2,3]"."""
    return f"{dtype}[{','.join(map(str, shape))}]"


def on_device(state: Any) -> list[UInt[Array, " 2"]]:
    """Return a leaf's digest each; for use inside jit.

    It is two position-weighted sums modulo 2**32 of the leaf's bits. The weights are odd, so that a single
    flipped bit always changes both sums.
    """
    return [_of_leaf(leaf) for leaf in jax.tree.leaves(state)]


def num_not_finite(state: Any) -> list[Int[Array, ""]]:
    """Return how many values of each leaf are no finite numbers; for use inside jit."""
    return [_num_not_finite(leaf) for leaf in jax.tree.leaves(state)]


def as_text(state: Any, digests: list[Any]) -> dict[str, str]:
    """Return digests by name, in hexadecimal digits."""
    return {
        name: np.asarray(value, np.uint32).tobytes().hex()
        for name, value in zip(names(state), digests, strict=True)
    }


def on_host(state: Any) -> dict[str, str]:
    """Return the digests of numpy arrays by name, as `as_text` has those of `on_device`."""
    return as_text(state, [_of_array(np.asarray(leaf)) for leaf in jax.tree.leaves(state)])


def _of_leaf(leaf: Array) -> UInt[Array, " 2"]:
    words = _words(leaf).reshape(-1)
    position = jax.lax.iota(jnp.uint32, words.size)
    linear = position * jnp.uint32(2) + jnp.uint32(1)
    mixed = (position ^ (position >> jnp.uint32(15))) * jnp.uint32(MIXER) | jnp.uint32(1)
    return jnp.stack([jnp.sum(words * linear, dtype=jnp.uint32), jnp.sum(words * mixed, dtype=jnp.uint32)])


def _words(leaf: Array) -> Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _of_array(array: np.ndarray) -> np.ndarray:
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[array.dtype.itemsize]
    words = np.ascontiguousarray(array).reshape(-1).view(unsigned)
    sums = np.zeros(2, np.uint32)
    for start in range(0, words.size, CHUNK_WORDS):
        chunk = words[start : start + CHUNK_WORDS].astype(np.uint32)
        position = np.arange(start, start + chunk.size, dtype=np.uint32)
        mixed = (position ^ (position >> np.uint32(15))) * np.uint32(MIXER) | np.uint32(1)
        linear = position * np.uint32(2) + np.uint32(1)
        sums += np.stack([np.sum(chunk * weights, dtype=np.uint32) for weights in (linear, mixed)])
    return sums


def _num_not_finite(leaf: Array) -> Int[Array, ""]:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros([], jnp.int32)
    return jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32)
