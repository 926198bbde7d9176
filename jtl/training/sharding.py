"""Where arrays live: one named mesh over the devices, batches cut along it, the state placed by rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl import memory, tree
from jtl.errors import UserError, nearest, shown
from jtl.ranges import CountOr0, check

AXIS = "data"
FSDP_MIN_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Config:
    """Settings of the placement.

    `devices` is how many local devices to use (0: all). `rules` are (regular expression, placement) pairs on
    names of state leaves such as "trainable/head/kernel" or "opt_state/…/head/kernel", first match wins,
    unmatched leaves are replicated; placements are "replicate" and "fsdp" (split along the largest divisible
    dimension from 4 MiB on).
    """

    devices: CountOr0 = 0
    rules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check(self, "sharding")
        for _, placement in self.rules:
            if placement not in PLACEMENTS:
                known = nearest(placement, PLACEMENTS)
                raise UserError(f"sharding.rules has placement {shown(placement)}; expected one of {known}")


def mesh(config: Config) -> Mesh:
    """Return the one-dimensional mesh over the chosen local devices.

    Raises:
        UserError: more devices are asked for than there are, or this is one of several processes.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"this is process {jax.process_index()} of {jax.process_count()} of a JAX program, and jtl runs "
            f"in one; start a single process, which uses all devices of its machine"
        )
    devices = jax.devices()
    if config.devices > len(devices):
        raise UserError(f"sharding.devices is {config.devices}; this machine has {len(devices)}")
    return Mesh(np.asarray(devices[: config.devices or len(devices)]), (AXIS,), axis_types=(AxisType.Auto,))


def of_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: examples cut along the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def of_batches(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the batches of several steps, a row each: examples cut along the mesh."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Return the batch of host arrays as global arrays on the mesh, without waiting for the copy."""
    return jax.device_put(batch, of_batch(mesh))


def check_fits(shapes: Any, placement: Any, mesh: Mesh, what: str) -> None:
    """Check that arrays of these shapes, placed so, fit on the devices, each with its part of them.

    Raises:
        UserError: they do not; `what` they are.
    """
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(placement), strict=True)
    parts = [jax.ShapeDtypeStruct(place.shard_shape(leaf.shape), leaf.dtype) for leaf, place in pairs]
    each = tree.num_bytes({str(index): part for index, part in enumerate(parts)})
    cure = "set a smaller model, a strategy that trains less of it, or sharding.rules over more devices"
    found = f"{what} on {mesh.size} device{'' if mesh.size == 1 else 's'}"
    memory.check(each * mesh.size, found, cure, limit=memory.device_bytes())


def of_state(state: Any, config: Config, mesh: Mesh) -> Any:
    """Return a tree of shardings for a state (arrays or shapes), by the ordered rules.

    Raises:
        UserError: a rule matches no leaf.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    placements = dict(config.rules)
    matches = tree.first_match(placements, names, "sharding.rules")
    shardings = [
        NamedSharding(mesh, PLACEMENTS[placements.get(matches[name] or "", "replicate")](leaf, mesh.size))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, shardings)


def _replicate(leaf: Any, num_devices: int) -> PartitionSpec:
    del leaf, num_devices
    return PartitionSpec()


def _fsdp(leaf: Any, num_devices: int) -> PartitionSpec:
    divisible = [size if size % num_devices == 0 else 0 for size in leaf.shape]
    if not any(divisible) or leaf.size * leaf.dtype.itemsize < FSDP_MIN_BYTES:
        return PartitionSpec()
    largest = int(np.argmax(divisible))
    return PartitionSpec(*(AXIS if dim == largest else None for dim in range(len(leaf.shape))))


PLACEMENTS: Mapping[str, Callable[[Any, int], PartitionSpec]] = {"replicate": _replicate, "fsdp": _fsdp}
