"""Random keys, derived from (seed, stream, step) and never carried: resume needs no key in a checkpoint."""

import zlib

import jax
from jaxtyping import Array, Int, Key


def key(seed: int, stream: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Return the key of `stream` ("init", "dropout", "mixup", …) at `step`.

    Equal arguments give equal keys on every device, process and run.
    """
    base = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(base, step)
