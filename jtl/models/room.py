"""Whether arrays fit: their bytes, counted from shapes alone, against what the machine and its devices have.

Nothing is allocated to find out: a setting with a digit too many is refused before it costs the machine.
"""

import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.errors import UserError

# Where Linux says how much memory a container may use (cgroup 2 and 1).
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def num_bytes(shapes: Any) -> int:
    """Return the bytes of a tree of arrays or shapes.

    >>> num_bytes({"a": jax.ShapeDtypeStruct((1 << 40, 1 << 40), np.float32)}) == 1 << 82
    True
    """
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in _leaves(shapes))


def check(shapes: Any, what: str, settings: str) -> None:
    """Check that arrays of these shapes fit into the machine's memory.

    Raises:
        UserError: they do not; `what` they are, and the `settings` that make them so large.
    """
    _compare(num_bytes(shapes), of_host(), what, settings, "this machine")


def check_on_devices(shapes: Any, placement: Any, what: str, settings: str) -> None:
    """Check that each device's part of arrays of these shapes, placed so, fits into its memory.

    Raises:
        UserError: it does not.
    """
    pairs = zip(_leaves(shapes), jax.tree.leaves(placement), strict=True)
    wanted = sum(
        math.prod(place.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf, place in pairs
    )
    limit = of_device()
    if limit is not None:
        _compare(wanted, limit, what, settings, "a device")
    else:
        # A device without memory of its own takes the machine's.
        _compare(wanted, of_host(), what, settings, "this machine")


def of_host() -> int:
    """Return the bytes of memory that this process may have at most."""
    found = [1 << 62]
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in map(Path, LIMITS):
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []
    return min(found)


def of_device() -> int | None:
    """Return the bytes that programs may use of the first device; None where it does not say."""
    statistics = jax.local_devices()[0].memory_stats()
    return (statistics or {}).get("bytes_limit")


def _compare(wanted: int, limit: int, what: str, settings: str, whose: str) -> None:
    if wanted > limit:
        raise UserError(
            f"{what} wants {wanted:,} bytes ({wanted / 2**30:,.1f} GiB) and {whose} has {limit:,} "
            f"({limit / 2**30:,.1f} GiB); make it smaller: {settings}"
        )


def _leaves(shapes: Any) -> list[Any]:
    return jax.tree.leaves(shapes)
