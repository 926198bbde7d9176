"""Checkpoints: Orbax behind one file, with a digest per leaf that is verified after every restore.

Orbax (0.12) restores a flipped bit without a word and never falls back by itself; here a damaged checkpoint
is named, set aside and the one before it used. On disk: `checkpoints/STEP/{state,meta}`; the newest two and
the best are kept.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt
from orbax.checkpoint import checkpoint_managers

from jtl.errors import UserError
from jtl.training import progress
from jtl.training.state import State

NUM_LATEST = 2


class Restored(NamedTuple):
    """A verified checkpoint: the state on its devices, the meta that was saved beside it, and its step."""

    state: State
    meta: dict[str, Any]
    step: int


class Checkpoints:
    """The checkpoints of one run folder. Saves are asynchronous; `close` waits for the last one."""

    def __init__(self, folder: Path, *, is_maximized: bool) -> None:
        # Orbax logs every save at INFO and every event it tolerates at WARNING; faults arrive as exceptions.
        logging.getLogger("absl").setLevel(logging.ERROR)
        policy = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(NUM_LATEST), _Best(is_maximized=is_maximized)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            # Orbax writes metrics to disk only where it has a best_fn; the policy needs them after a restart.
            best_fn=lambda metrics: metrics["value"],
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(
            self._folder, options=options, item_names=("state", "meta"), item_handlers=None
        )
        self._digest = jax.jit(_digests)

    def save(
        self, step: int, state: State, meta: Mapping[str, Any], rank: Mapping[str, float] | None
    ) -> None:
        """Start saving `state` and JSON `meta` as checkpoint `step`.

        `rank` gives the "value" and the "loss" by which it may be the best; None: it may not.
        """
        sealed = _sealed({**meta, "digests": _by_name(state, self._digest(state))})
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(sealed))
        self._manager.save(step, args=items, metrics=None if rank is None else dict(rank), force=True)

    def remove(self, step: int) -> None:
        """Remove the checkpoint of one step, if there is one."""
        if step in self._manager.all_steps():
            self._manager.delete(step)

    def restore(self, like: Any, warn: Callable[[str], None]) -> Restored | None:
        """Return the newest checkpoint that verifies, or None where there is none.

        `like` gives shapes, dtypes and shardings. A damaged checkpoint is moved to `damaged/` beside the
        folder and `warn` is told which leaf or file was found damaged and which step is tried next.

        Raises:
            UserError: checkpoints exist and every one is damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for index, step in enumerate(steps):
            restored, fault = self._try(step, like)
            if restored is not None:
                return restored
            following = (
                f"using step {steps[index + 1]}" if index + 1 < len(steps) else "no earlier one is left"
            )
            warn(f"checkpoint {step} is damaged ({fault}); {following}")
            self._set_aside(step)
        if steps:
            raise UserError(
                f"all checkpoints in {self._folder} are damaged; they were moved to "
                f"{self._folder.parent / 'damaged'}; start again with another --workdir"
            )
        return None

    def restore_step(self, step: int, like: Any) -> Restored:
        """Return the verified checkpoint of one step.

        Raises:
            UserError: it is missing or damaged.
        """
        if step not in self._manager.all_steps():
            raise UserError(
                f"{self._folder} has no checkpoint of step {step}; found {sorted(self._manager.all_steps())}"
            )
        restored, fault = self._try(step, like)
        if restored is None:
            raise UserError(
                f"checkpoint {step} in {self._folder} is damaged ({fault}); another step is needed"
            )
        return restored

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk, rising."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Wait until the last save is on disk; faults of saving in the background surface here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the last save and release the manager."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _try(self, step: int, like: Any) -> tuple[Restored | None, str]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(step, args=items)
        except MemoryError:
            raise
        except Exception as error:  # Orbax raises bare Exception, ValueError, KeyError, JSONDecodeError, …
            return None, " ".join(str(error).split())[:160]
        meta, state = found["meta"], found["state"]
        if not isinstance(meta, dict) or _sealed(meta)["seal"] != meta.get("seal"):
            return None, "its meta does not match its own digest"
        for name, digest in _by_name(state, self._digest(state)).items():
            if meta["digests"].get(name) != digest:
                return None, f"leaf {name!r} does not match its digest"
        return Restored(state, meta, step), ""

    def _set_aside(self, step: int) -> None:
        target = self._folder.parent / "damaged"
        target.mkdir(exist_ok=True)
        number = sum(1 for _ in target.glob(f"{step}.*"))
        (self._folder / str(step)).rename(target / f"{step}.{number}")
        self._manager.reload()


@dataclass(frozen=True)
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the step that `progress.best` picks; Orbax's own BestN keeps another one of equals."""

    is_maximized: bool

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Return whether to keep each of the checkpoints."""
        del context
        history = [{"step": each.step, **each.metrics} for each in checkpoints if each.metrics]
        best = progress.best(history, "value", is_maximized=self.is_maximized)
        return [best is not None and each.step == best["step"] for each in checkpoints]


def _sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return meta with a digest over everything else in it."""
    content = {key: value for key, value in meta.items() if key != "seal"}
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _by_name(state: State, digests: list[Array]) -> dict[str, str]:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    values = jax.device_get(digests)
    return {
        name: np.asarray(value, np.uint32).tobytes().hex() for name, value in zip(names, values, strict=True)
    }


def _digests(state: State) -> list[UInt[Array, " 2"]]:
    return [_leaf_digest(leaf) for leaf in jax.tree.leaves(state)]


def _leaf_digest(leaf: Array) -> UInt[Array, " 2"]:
    """Return two position-weighted sums modulo 2**32 of the leaf's bits, the same for every sharding.

    The weights are odd, so that a single flipped bit always changes both sums.
    """
    words = _words(leaf).reshape(-1)
    position = jax.lax.iota(jnp.uint32, words.size)
    linear = position * jnp.uint32(2) + jnp.uint32(1)
    mixed = (position ^ (position >> jnp.uint32(15))) * jnp.uint32(0x9E3779B1) | jnp.uint32(1)
    return jnp.stack([jnp.sum(words * linear, dtype=jnp.uint32), jnp.sum(words * mixed, dtype=jnp.uint32)])


def _words(leaf: Array) -> Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
