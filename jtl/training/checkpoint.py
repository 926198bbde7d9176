"""Checkpoints: Orbax behind one file, with a digest per leaf that is verified after every restore.

Orbax (0.12) restores a flipped bit without a word and never falls back by itself; here a damaged checkpoint
is named, set aside and the one before it used. What is not damage (`checkpoint_faults`) moves nothing. On
disk: `checkpoints/STEP/{state,meta}`, and beside that folder what no step moves (`once`); the newest two and
the best are kept. Which is the best follows from the run's own evaluations, which every checkpoint's sealed
meta has: nothing unsealed decides what is deleted.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jtl import distributed
from jtl.errors import UserError
from jtl.training import checkpoint_faults, checkpoint_files, digests, once, progress, sharding
from jtl.training.checkpoint_faults import Damage, Diverged
from jtl.training.state import State
from jtl.weights.formats.orbax_folder import ONCE

NUM_LATEST = 2
ONE = ocp.options.MultiprocessingOptions()
# Of a state, where a checkpoint does not say which it has.
FIRST_FIELDS = ("step", "trainable", "frozen", "model_state", "opt_state", "ema")
# What must be finite in a checkpoint: what trains, running statistics, the average of what trains, and the
# strategy's memory.
FINITE = ("trainable", "model_state", "ema", "memory")


class Restored(NamedTuple):
    """A verified checkpoint: the state on its devices, the meta that was saved beside it, and its step."""

    state: State
    meta: dict[str, Any]
    step: int


class Sound(NamedTuple):
    """A state that is known to be finite, and the digest of each of its leaves by name."""

    state: State
    digests: dict[str, str]


class Checkpoints:
    """The checkpoints of one run folder. Saves are asynchronous; `close` waits for the last one.

    `metric` is what picks the best of the run's evaluations. `still` are leaves of the state that no step
    moves: they are kept once (one that moves all the same is only kept anew). `saved` is told the step of
    each save that has begun.
    """

    def __init__(
        self,
        folder: Path,
        *,
        metric: str,
        is_maximized: bool,
        still: Collection[str] = (),
        saved: Callable[[int], None] = lambda step: None,
    ) -> None:
        # What Orbax and its threads tell of faults arrives here as an exception, too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = folder.resolve()
        self._metric, self._is_maximized = metric, is_maximized
        self._still, self._kept, self._saved = frozenset(still), "", saved
        self._history: progress.History = []
        self._num_bytes = 0
        self._examine = jax.jit(_examined)
        self._manager = self._opened()

    def sound(self, state: State) -> Sound:
        """Return a state as `save` takes it.

        Raises:
            Diverged: a parameter, a running statistic or an average is not finite.
        """
        found, counts = sharding.fetched(self._examine(state))
        bad = {name: int(count) for name, count in counts.items() if count}
        if bad:
            name, count = next(iter(bad.items()))
            others = f", as have {len(bad) - 1} more leaves" if len(bad) > 1 else ""
            raise Diverged(
                f"{name!r} has {count} values that are not finite after step {int(state.step)}{others}; "
                f"expected finite numbers. The checkpoints before it are kept; lower optim.learning_rate or "
                f"raise optim.warmup and start with another --workdir"
            )
        return Sound(state, digests.as_text(state, found))

    def save(self, sound: Sound, history: progress.History) -> None:
        """Start saving a state, and the run's evaluations so far, as the checkpoint of its step.

        Raises:
            Unsaved: this save, or the one before, failed.
        """
        state, step = sound.state, int(sound.state.step)
        fields, still = once.split(state._asdict(), self._still)
        about = once.described(still, sound.digests)
        self._keep(about, still)
        meta = {
            "step": step,
            "history": history,
            "digests": sound.digests,
            "kinds": digests.kinds(state),
            "fields": list(fields),
            ONCE: about,
            "made_with": checkpoint_faults.made_with(),
            "metric": self._metric,
            "is_maximized": self._is_maximized,
        }
        self._history = history
        self._num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(fields))
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(State(**fields)),
            meta=ocp.args.JsonSave(checkpoint_files.sealed(meta)),
        )
        with self._saving():
            self._manager.save(step, args=items, force=True)
        self._saved(step)

    def restore(self, like: Any, warn: Callable[[str], None]) -> Restored | None:
        """Return the newest checkpoint that verifies, or None where there is none.

        `like` gives shapes, dtypes and shardings; where it has arrays, those that never move and are what was
        saved are taken as they are. A damaged checkpoint is moved to `damaged/` beside the folder and `warn`
        is told which leaf or file was found damaged and which step is tried next.

        Raises:
            UserError: checkpoints exist, or existed, and every one is damaged; or one may be sound and cannot
                be restored just now, which moves nothing.
        """
        if not distributed.is_joined():
            found = self._newest(lambda step: self._verified(step, like), warn)
        else:
            # One process looks which it is to be: of a file that only some read the others know nothing.
            step, is_moved = distributed.told(f"{self._folder} restored", lambda: self._chosen(like, warn))
            if is_moved:
                self._reopen()
            found = None if step is None else self._verified(step, like)
        if found is not None:
            self._mend(found, warn)
        return found

    def _mend(self, found: Restored, warn: Callable[[str], None]) -> None:
        """Write anew what is kept once, where its file is gone or damaged and the restored state has it."""
        run_folder, about = self._folder.parent, found.meta.get(ONCE, {})
        fault = distributed.told(f"{self._folder} kept", lambda: once.fault(run_folder, found.meta))
        if fault:
            self._keep(about, once.split(found.state._asdict(), about["leaves"])[1])
            warn(f"checkpoints: {about['file']!r} was damaged ({fault}); it was written again")
        self._kept = about.get("file", "")

    def _keep(self, about: Mapping[str, Any], still: Mapping[str, jax.Array]) -> None:
        """Write what no step moves, unless that was done."""
        if not about or about["file"] == self._kept:
            return
        self._num_bytes = sum(leaf.nbytes for leaf in still.values())
        with self._saving():
            once.write(self._folder.parent, about["file"], still)
        self._kept = about["file"]

    def _chosen(self, like: Any, warn: Callable[[str], None]) -> list[Any]:
        """Return the step of the newest checkpoint that verifies, and whether others were moved away."""
        before = checkpoint_files.set_aside(self._folder.parent)
        step = self._newest(lambda step: self._checked(step, like), warn)
        return [step, checkpoint_files.set_aside(self._folder.parent) != before]

    def _newest(self, verified: Callable[[int], Any], warn: Callable[[str], None]) -> Any:
        """Return what `verified` gives of the newest step that is not damaged, None where there is none."""
        steps = sorted(self.steps(), reverse=True)
        for index, step in enumerate(steps):
            try:
                return verified(step)
            except Damage as damage:
                following = (
                    f"using step {steps[index + 1]}" if index + 1 < len(steps) else "no earlier one is left"
                )
                warn(f"checkpoint {step} is damaged ({damage}); {following}")
                self._set_aside(step, damage)
        if aside := checkpoint_files.set_aside(self._folder.parent):
            raise UserError(
                f"all checkpoints in {str(self._folder)!r} are damaged; they were moved to "
                f"{str(aside[-1].parent)!r}; start again with another --workdir"
            )
        return None

    def restore_values(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields of the state of one verified checkpoint as numpy arrays, by name.

        `like` gives the fields' trees of arrays or shapes. Nothing is put on the devices.

        Raises:
            UserError: it is missing, or cannot be restored just now.
            Damage: it is damaged.
        """
        if step not in self.steps():
            raise UserError(f"{str(self._folder)!r} has no checkpoint of step {step}; found {self.steps()}")
        path = self._folder / str(step)
        meta = checkpoint_files.sound_meta(path)
        fields, still = once.split(like, once.leaves_of(meta))
        found = self._moving_values(path, meta, fields)
        checkpoint_files.check_digests(meta, digests.on_host(found))
        return once.joined(dict(like), found, once.read(self._folder.parent, meta, still))

    def _moving_values(self, path: Path, meta: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields of what a checkpoint has in itself."""
        item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(like))
        arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), item)
        # By itself: the other processes read, if they do, in their own time.
        own = distributed.process_id()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"{own}") if distributed.is_joined() else ONE
        reader = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
        )
        try:
            return reader.restore(
                path / "state",
                args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True),
            )
        except Exception as error:
            raise checkpoint_faults.explained(error, path, meta) from error

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk, rising."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Wait until the last save is on disk; faults of saving in the background surface here."""
        with self._saving():
            self._manager.wait_until_finished()

    def tidy(self, history: progress.History) -> None:
        """Remove what no save would have left: a process that was killed had no time to remove it.

        `history` are the run's evaluations, of which one is the best.
        """
        self._history = history
        steps = self.steps()
        kept = {*steps[-NUM_LATEST:], self._best_of(steps)}
        with self._saving():
            for step in steps:
                if step not in kept:
                    self._manager.delete(step)
            if distributed.is_writer():
                checkpoint_files.remove_unneeded(self._folder)

    def close(self) -> None:
        """Wait for the last save and release the manager."""
        with self._saving():
            self._manager.wait_until_finished()
            self._manager.close()

    def _opened(self) -> ocp.CheckpointManager:
        if os.path.lexists(self._folder) and not self._folder.is_dir():
            raise UserError(
                f"{str(self._folder)!r} is no folder; expected the folder of the run's checkpoints: move it "
                f"away, or give another --workdir"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(NUM_LATEST), _Best(self._best_of)]
            ),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            # Of a folder that cannot be made, all writing threads would wait for 20 minutes.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            # Opening reads no metadata: what is damaged is found, and named, when it is restored.
            lightweight_initialize=True,
        )
        return ocp.CheckpointManager(self._folder, options=options, item_names=("state", "meta"))

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise checkpoint_faults.unsaved(error, self._folder, self._num_bytes) from error

    def _best_of(self, steps: Sequence[int]) -> int | None:
        """Return the step that `progress.best` picks; Orbax's own BestN keeps another one of equals."""
        known = [entry for entry in self._history if entry["step"] in steps and self._metric in entry]
        best = progress.best(known, self._metric, is_maximized=self._is_maximized)
        return None if best is None else best["step"]

    def _verified(self, step: int, like: Any) -> Restored:
        """Return the checkpoint of a step.

        Raises:
            Damage: it is not what was saved.
            UserError: it may be, and cannot be restored just now.
        """
        path = self._folder / str(step)
        meta = checkpoint_files.sound_meta(path)
        checkpoint_faults.check_kinds(path, meta, like)
        fields, still = once.split(_saved_fields(like, meta), once.leaves_of(meta))
        items = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_shape, fields)))
        try:
            own = self._digests_of(still)
            moving = self._manager.restore(step, args=items)["state"]
            kept = once.restored(self._folder.parent, meta, still, own)
            state = once.joined(like, moving, kept)
            found, _ = sharding.fetched(self._examine(state))
        except UserError:
            raise
        except Exception as error:  # Orbax raises bare Exception, ValueError, KeyError, …
            raise checkpoint_faults.explained(error, path, meta) from error
        checkpoint_files.check_digests(meta, digests.as_text(state, found))
        if int(state.step) != step:
            raise Damage(f"it is a copy of step {int(state.step)}")
        return Restored(state, meta, step)

    def _checked(self, step: int, like: Any) -> int:
        """Return the step of a checkpoint that verifies, read by this process alone.

        Raises:
            Damage: it is not what was saved.
            UserError: it may be, and cannot be restored just now.
        """
        path = self._folder / str(step)
        meta = checkpoint_files.sound_meta(path)
        checkpoint_faults.check_kinds(path, meta, like)
        fields, _ = once.split(_saved_fields(like, meta), once.leaves_of(meta))
        found = self._moving_values(path, meta, fields)
        checkpoint_files.check_digests(meta, digests.on_host(found))
        if int(found["step"]) != step:
            raise Damage(f"it is a copy of step {int(found['step'])}")
        return step

    def _digests_of(self, still: Mapping[str, Any]) -> dict[str, str]:
        """Return the digests by name of those leaves that are arrays."""
        arrays = {name: leaf for name, leaf in still.items() if isinstance(leaf, jax.Array)}
        return digests.as_text(arrays, sharding.fetched(jax.jit(digests.on_device)(arrays)))

    def _set_aside(self, step: int, damage: Damage) -> None:
        checkpoint_files.move_aside(self._folder / str(step), damage)
        if not distributed.is_joined():
            self._reopen()

    def _reopen(self) -> None:
        self._manager.close()
        self._manager = self._opened()


@dataclass(frozen=True)
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the step that `best_of` names of those there are."""

    best_of: Callable[[Sequence[int]], int | None]

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Return whether to keep each of the checkpoints."""
        del context
        best = self.best_of([each.step for each in checkpoints])
        return [each.step == best for each in checkpoints]


def _saved_fields(like: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of a state that a checkpoint has, be they empty: there were fewer before."""
    saved = meta.get("fields", FIRST_FIELDS)
    return {name: value for name, value in like._asdict().items() if name in saved}


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _examined(state: State) -> tuple[list[Any], dict[str, Any]]:
    """Return the digest of every leaf, and by name how many values of what must be finite are not."""
    watched = {name: getattr(state, name) for name in FINITE}
    counts = dict(zip(digests.names(watched), digests.num_not_finite(watched), strict=True))
    return digests.on_device(state), counts
