"""Training examples that lie on the devices, and the compiled program that makes batches of them there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl import memory, rng
from jtl.data import Source
from jtl.data.cache import stored
from jtl.inputs.contract import Storage
from jtl.training import sharding
from jtl.training.step import Batch


class Resident(NamedTuple):
    """The examples of a stream on every device, as their kind lays them out.

    `draw` is (key, arrays, row, position) → the inputs of a batch, and `vary` the same, compiled.
    """

    key: Any
    arrays: Any
    vary: Callable[..., Any]
    draw: Callable[..., Any]

    @property
    def lying(self) -> Any:
        """What a program that makes batches is given of it, beside their plans."""
        return self.key, self.arrays

    def batch_of(self, plan: Batch) -> Batch:
        """Return the batch of a plan on the devices, without waiting for it."""
        recipe = plan["inputs"]
        return {**plan, "inputs": self.vary(*self.lying, recipe["row"], recipe["position"])}

    def drawn(self, lying: Any, plan: Batch) -> Batch:
        """Return the batch of a plan inside of a program, which is given `lying`."""
        recipe = plan["inputs"]
        inputs = self.draw(*lying, recipe["row"], recipe["position"])
        return {**plan, "inputs": jax.lax.optimization_barrier(inputs)}


def resident(source: Source, storage: Storage, *, batch_size: int, seed: int, mesh: Mesh) -> Resident:
    """Put all examples of a source on every device, and compile what makes batches of them.

    Raises:
        UserError: an example cannot be read.
    """
    assert storage.pack is not None, "kinds whose examples are kept can lay them out"
    examples = [stored(source, storage, row) for row in range(len(source))]
    host, vary = storage.pack(examples)
    whole, cut = NamedSharding(mesh, PartitionSpec()), sharding.of_batch(mesh)
    # Each process has read all of them.
    arrays = sharding.put(host, jax.tree.map(lambda _: whole, host))
    key = jax.jit(lambda: rng.key(seed, "vary"), out_shardings=whole)()
    row = jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=cut)
    position = jax.ShapeDtypeStruct((batch_size, 2), np.uint32, sharding=cut)
    compiled = jax.jit(vary, out_shardings=cut).lower(key, arrays, row, position).compile()
    return Resident(key, arrays, compiled, vary)


def room_bytes(share: float) -> int:
    """Return how many bytes of examples may lie on each device."""
    return int(share * memory.device_bytes() / jax.local_device_count())
