"""Where arrays live: one named mesh over the devices, batches cut along it, the state placed by rules.

The mesh has three axes: examples are cut along `data` and `fsdp`, large leaves of the state along `fsdp`, and
attention heads and MLPs of transformers along `tensor`. Devices stand in it in the order of their processes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl import memory, tree
from jtl.errors import UserError, nearest, shown
from jtl.ranges import CountOr0, check

DATA, FSDP, TENSOR, WHOLE = "data", "fsdp", "tensor", "none"
AXES = (DATA, FSDP, TENSOR)
# Along these the examples of a batch are cut.
BATCH = (DATA, FSDP)
REPLICATE = "replicate"
# Smaller leaves, biases and norms, stay whole: all of a ViT-B's are 0.2 % of it.
FSDP_MIN_BYTES = 2**16
# Of a device's memory; the rest is for activations and what programs need.
STATE_SHARE = 0.6
# How the leaves of transformers are cut along `tensor`, dim by dim: what makes heads and hidden values of an
# MLP by columns, what adds them up by rows. Of ViTs and text towers, then of BERTs.
TENSOR_RULES = (
    (r"/(query|key|value)/kernel$", "none,tensor,none"),
    (r"/(query|key|value)/bias$", "tensor,none"),
    (r"/MultiHeadDotProductAttention_\d+/out/kernel$", "tensor,none,none"),
    (r"/MlpBlock_\d+/(Dense_0|gate|up)/kernel$", "none,tensor"),
    (r"/MlpBlock_\d+/(Dense_0|gate|up)/bias$", "tensor"),
    (r"/MlpBlock_\d+/(Dense_1|down)/kernel$", "tensor,none"),
    (r"/intermediate/dense/kernel$", "none,tensor"),
    (r"/intermediate/dense/bias$", "tensor"),
    (r"/output/dense/kernel$", "tensor,none"),
)


@dataclass(frozen=True)
class Config:
    """Settings of the placement.

    `devices` is how many local devices to use (0: all). `mesh` is how many stand along the axes data, fsdp
    and tensor, (2, 4, 1) such as; 0 is the rest, and where it is so of both data and fsdp, all are along data
    if the state fits on each device, and else along fsdp. `rules` are (regular expression, placement) pairs
    on names of state leaves such as "trainable/head/kernel" or "opt_state/…/head/kernel", first match wins;
    placements are "replicate", "fsdp" (cut along the largest divisible dimension from 64 KiB on) or an axis a
    dimension ("none,tensor"). Unmatched leaves are cut as the axes of the mesh have them.
    """

    devices: CountOr0 = 0
    mesh: tuple[CountOr0, CountOr0, CountOr0] = (0, 0, 1)
    rules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check(self, "sharding")
        for _, placement in self.rules:
            known = (REPLICATE, *AXES, WHOLE)
            if placement != REPLICATE and not set(placement.split(",")) <= {*AXES, WHOLE}:
                raise UserError(
                    f"sharding.rules has placement {shown(placement)}; expected one of "
                    f"{nearest(placement, known)}, or an axis a dimension such as 'none,tensor'"
                )
        if self.mesh.count(0) > 1 and self.mesh[2] == 0:
            raise UserError(f"sharding.mesh is {self.mesh}; expected a number for tensor, or for the others")

    @property
    def is_open(self) -> bool:
        """Whether it is left to the state's size how the devices stand."""
        return self.mesh[:2] == (0, 0) and not self.rules


def mesh(config: Config, *, is_cut: bool = False) -> Mesh:
    """Return the mesh over the chosen devices; where that is left open, the state `is_cut` or whole on each.

    Raises:
        UserError: more devices are asked for than there are, or they cannot stand so.
    """
    devices = jax.devices()
    if config.devices and jax.process_count() > 1:
        raise UserError(
            f"sharding.devices is {config.devices} and there are {jax.process_count()} processes; expected "
            f"0: each uses all of its devices"
        )
    if config.devices > len(devices):
        raise UserError(f"sharding.devices is {config.devices}; this machine has {len(devices)}")
    chosen = devices[: config.devices or len(devices)]
    sizes = _sizes(config, len(chosen), is_cut=is_cut)
    local = len(chosen) // jax.process_count()
    if sizes[2] % local and local % sizes[2]:
        raise UserError(
            f"sharding.mesh has {sizes[2]} devices along tensor and each process {local}; expected one to "
            f"be a multiple of the other, so that a process reads whole parts of a batch"
        )
    return Mesh(np.asarray(chosen).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: Config, num_devices: int, *, is_cut: bool) -> tuple[int, int, int]:
    """Return how many devices stand along each axis."""
    asked = config.mesh
    if asked[:2] == (0, 0):
        # Rules that cut along fsdp want it.
        is_cut = is_cut or any(FSDP in placement for _, placement in config.rules)
        asked = (1, 0, asked[2]) if is_cut else (0, 1, asked[2])
    known = int(np.prod([size for size in asked if size]))
    rest = num_devices // known
    sizes = tuple(size or rest for size in asked)
    if int(np.prod(sizes)) != num_devices or not rest:
        raise UserError(
            f"sharding.mesh is {config.mesh} (data, fsdp, tensor) and there are {num_devices} devices; "
            f"expected sizes whose product is {num_devices}, 0 for the rest"
        )
    return sizes[0], sizes[1], sizes[2]


def num_shards(mesh: Mesh) -> int:
    """Return in how many parts a batch is cut."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def of_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: examples cut along the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def of_batches(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the batches of several steps, a row each: examples cut along the mesh."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Return the batch of host arrays as global arrays on the mesh, without waiting for the copy.

    Of several processes each has its own rows of the batch (see `rows_of`).
    """
    if jax.process_count() == 1:
        return jax.device_put(batch, of_batch(mesh))
    place, count = of_batch(mesh), rows_of(mesh).num

    def placed(leaf: np.ndarray) -> jax.Array:
        leaf = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
        return jax.make_array_from_process_local_data(place, leaf, (len(leaf) * count, *leaf.shape[1:]))

    return jax.tree.map(placed, batch)


class Rows(NamedTuple):
    """Which rows of every batch are a process's own: part `place` of `num` equal ones."""

    place: int = 0
    num: int = 1


def rows_of(mesh: Mesh) -> Rows:
    """Return the rows of a batch that lie on this process's devices."""
    if jax.process_count() == 1:
        return Rows()
    return rows_on(mesh, [each for each in mesh.devices.flat if each.process_index == jax.process_index()])


def rows_on(mesh: Mesh, devices: Sequence[Any]) -> Rows:
    """Return the rows of a batch that lie on some of the devices, those of a process."""
    parts = num_shards(mesh)
    slices = of_batch(mesh).devices_indices_map((parts,))
    own = sorted({part for device in devices for part in range(*slices[device][0].indices(parts))})
    assert own == list(range(own[0], own[0] + len(own))), "devices stand in the order of their processes"
    return Rows(own[0] // len(own), parts // len(own))


def put(values: Any, places: Any) -> Any:
    """Return host values, the same in all processes, on the devices as `places` has them."""
    if jax.process_count() == 1:
        return jax.device_put(values, places)

    def placed(value: Any, place: NamedSharding) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

    return jax.tree.map(placed, values, places)


def fetched(values: Any) -> Any:
    """Return arrays on the devices as whole host arrays, in all processes; all of them have to ask."""
    if jax.process_count() == 1:
        return jax.device_get(values)
    from jax.experimental import multihost_utils

    def host(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(host, values)


def gathered(rows: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Return the rows of a whole batch, of which this process has its own; all of them have to ask."""
    if jax.process_count() == 1:
        return rows
    return np.asarray(fetched(put_batch(rows, mesh)), rows.dtype)


def with_whole_results(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return the compiled function such that every process can read all of what it gives."""
    if jax.process_count() == 1:
        return function
    copy = jax.jit(lambda results: results, out_shardings=whole(mesh))
    return lambda *given: copy(function(*given))


def whole(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def check_fits(shapes: Any, placement: Any, mesh: Mesh, what: str) -> None:
    """Check that arrays of these shapes, placed so, fit on the devices, each with its part of them.

    Raises:
        UserError: they do not; `what` they are.
    """
    num_local = mesh.size // jax.process_count()
    cure = (
        "set a smaller model, a strategy that trains less of it, or sharding.mesh=(1,0,1) over more devices"
    )
    found = f"{what} on {mesh.size} device{'' if mesh.size == 1 else 's'}"
    memory.check(bytes_a_device(shapes, placement) * num_local, found, cure, limit=memory.device_bytes())


def bytes_a_device(shapes: Any, placement: Any) -> int:
    """Return how many bytes of arrays of these shapes, placed so, lie on each device."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(placement), strict=True)
    parts = [jax.ShapeDtypeStruct(place.shard_shape(leaf.shape), leaf.dtype) for leaf, place in pairs]
    return tree.num_bytes({str(index): part for index, part in enumerate(parts)})


def chosen(config: Config, shapes: Any, trainable: Any) -> tuple[Mesh, list[str]]:
    """Return the mesh for a state of these shapes, and a line for people where there was a choice.

    What is `trainable` of it has a gradient beside it.
    """
    found = mesh(config)
    if not config.is_open or found.size == 1:
        return found, []
    limit = int(memory.device_bytes() / (found.size // jax.process_count()) * STATE_SHARE)
    needed = tree.num_bytes(_numbered(shapes)) + tree.num_bytes(_numbered(trainable))
    said = f"parameters, gradients and optimizer take {memory.text(needed)}"
    if needed <= limit:
        return found, [f"sharding.mesh: {_words(found)} ({said}, which each device has whole)"]
    found = mesh(config, is_cut=True)
    why = f"{said}, over {STATE_SHARE:.0%} of a device's memory: each has its part"
    return found, [f"sharding.mesh: {_words(found)} ({why})"]


def of_state(state: Any, config: Config, mesh: Mesh) -> Any:
    """Return a tree of shardings for a state (arrays or shapes), by the ordered rules.

    Raises:
        UserError: a rule matches no leaf, or the heads of a model cannot be cut along the mesh.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    placements = dict(config.rules)
    matches = tree.first_match(placements, names, "sharding.rules")
    shardings = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        rule = matches[name]
        placement = _by_tensor_rules(name, leaf, mesh) if rule is None else placements[rule]
        shardings.append(NamedSharding(mesh, spec_of(placement, leaf, mesh)))
    return jax.tree_util.tree_unflatten(structure, shardings)


def spec_of(placement: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    """Return how a leaf is cut: not at all, along `fsdp`, or as the placement has it, dim by dim."""
    if placement == REPLICATE:
        return PartitionSpec()
    axes: list[str | None] = [None] * len(leaf.shape)
    if placement != FSDP:
        words = placement.split(",")
        axes[: len(words)] = [None if word == WHOLE else word for word in words][: len(axes)]
    size, is_large = mesh.shape[FSDP], leaf.size * leaf.dtype.itemsize >= FSDP_MIN_BYTES
    free = [
        each if axis is None and each % size == 0 else 0 for each, axis in zip(leaf.shape, axes, strict=True)
    ]
    if size > 1 and is_large and any(free) and FSDP not in axes:
        axes[int(np.argmax(free))] = FSDP
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def _by_tensor_rules(name: str, leaf: Any, mesh: Mesh) -> str:
    """Return the placement of a leaf that no rule of the user's matches."""
    if mesh.shape[TENSOR] == 1:
        return FSDP
    found = next((placement for pattern, placement in TENSOR_RULES if re.search(pattern, name)), FSDP)
    words = found.split(",")
    if TENSOR not in words or len(words) != len(leaf.shape):
        # What an optimizer keeps of a leaf in another shape is cut along fsdp alone.
        return FSDP
    count = leaf.shape[words.index(TENSOR)]
    if count % mesh.shape[TENSOR]:
        raise UserError(
            f"sharding.mesh has {mesh.shape[TENSOR]} devices along tensor, and {name!r} has {count} heads or "
            f"columns to cut; expected a divisor of {count}"
        )
    return found


def is_cut(placement: Any) -> bool:
    """Return whether any leaf of a state is not whole on each device."""
    return not all(each.is_fully_replicated for each in jax.tree.leaves(placement))


def _numbered(shapes: Any) -> dict[str, Any]:
    return {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(shapes))}


def _words(found: Mesh) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in found.shape.items() if size > 1)
