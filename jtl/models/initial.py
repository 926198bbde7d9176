"""Initial values of parameters, drawn on the host by numpy from an ordered table: pattern → distribution.

Modules only declare shapes. Compiling JAX's own draws took 3 s (a ViT of 0.8 M parameters) to 10 s
(ResNet-50) on CPU; these take milliseconds, are the same on every device, and a leaf's values depend on the
key and its name alone. Kernels are […, in, out]; leading dimensions are the receptive field.
"""

import math
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jtl import memory, tree

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]
FLOAT32_BYTES = 4
Rules = Sequence[tuple[str, Draw]]


def draw(
    key: Key[Array, ""], shapes: Mapping[str, Any], rules: Rules, names: Collection[str] | None = None
) -> tree.Tree:
    """Return float32 values for every leaf, each by the first rule whose pattern its name matches.

    Of given `names` only; the other leaves stay the shapes they are.

    Raises:
        UserError: they cannot fit in memory.
    """
    _check_fits(tree.flatten(shapes))
    seed = [int(word) for word in np.asarray(jax.random.key_data(key))]

    def value(name: str, leaf: Any) -> Any:
        if names is not None and name not in names:
            return leaf
        distribution = next((each for pattern, each in rules if re.search(pattern, name)), None)
        assert distribution is not None, f"no rule says how {name} begins"
        generator = np.random.default_rng([*seed, zlib.crc32(name.encode())])
        return distribution(generator, leaf.shape).astype(np.float32)

    return tree.map_named(value, shapes)


def zeros(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Fill with 0."""
    del generator
    return np.zeros(shape, np.float32)


def ones(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Fill with 1."""
    del generator
    return np.ones(shape, np.float32)


def constant(value: float) -> Draw:
    """Return the distribution that is one value."""
    return lambda generator, shape: np.full(shape, value, np.float32)


def normal(stddev: float) -> Draw:
    """Return the distribution N(0, stddev²)."""
    return lambda generator, shape: stddev * generator.standard_normal(shape, np.float32)


def he_normal(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw with variance 2 / fan out (He et al. 2015, eq. 14)."""
    _, fan_out = _fans(shape)
    return math.sqrt(2 / fan_out) * generator.standard_normal(shape, np.float32)


def lecun_normal(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw with variance 1 / fan in."""
    fan_in, _ = _fans(shape)
    return math.sqrt(1 / fan_in) * generator.standard_normal(shape, np.float32)


def xavier_uniform(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw uniformly with variance 2 / (fan in + fan out) (Glorot and Bengio 2010, eq. 16)."""
    limit = math.sqrt(6 / sum(_fans(shape)))
    return limit * (2 * generator.random(shape, np.float32) - 1)


def split_heads(distribution: Draw) -> Draw:
    """Return the distribution for kernels [dim, heads, head_dim], drawn as the matrix they are."""
    return lambda generator, shape: distribution(generator, (shape[0], math.prod(shape[1:]))).reshape(shape)


def joined_heads(distribution: Draw) -> Draw:
    """Return the distribution for kernels [heads, head_dim, dim], drawn as the matrix they are."""
    return lambda generator, shape: distribution(generator, (math.prod(shape[:-1]), shape[-1])).reshape(shape)


def _check_fits(leaves: Mapping[str, Any]) -> None:
    num_bytes = {name: FLOAT32_BYTES * math.prod(leaf.shape) for name, leaf in leaves.items()}
    largest = max(num_bytes, key=lambda name: num_bytes[name], default="")
    if largest:
        what = f"the model's parameters, of which {largest!r} is the largest {tuple(leaves[largest].shape)},"
        cure = "make the model smaller, such as by its widths or model.image_px"
        memory.check(sum(num_bytes.values()), what.removesuffix(","), cure)


def _fans(shape: Shape) -> tuple[int, int]:
    """Return the number of inputs and of outputs a value of the kernel connects."""
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]
