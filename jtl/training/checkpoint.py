"""Checkpoints: Orbax behind one file, with a digest per leaf that is verified after every restore.

Orbax (0.12) restores a flipped bit without a word and never falls back by itself; here a damaged checkpoint
is named, set aside and the one before it used. What is not damage (`checkpoint_faults`) moves nothing. On
disk: `checkpoints/STEP/{state,meta}`; the newest two and the best are kept. Which is the best follows from
the run's own evaluations, which every checkpoint's sealed meta has: nothing unsealed decides what is deleted.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jtl.training import checkpoint_faults, checkpoint_files, digests, progress, sharding
from jtl.training.checkpoint_faults import Damage, Diverged
from jtl.training.state import State

NUM_LATEST = 2
DAMAGED = "damaged"
ONE = ocp.options.MultiprocessingOptions()
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

    `metric` is what picks the best of the run's evaluations.
    """

    def __init__(self, folder: Path, *, metric: str, is_maximized: bool) -> None:
        # What Orbax and its threads tell of faults arrives here as an exception, too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = folder.resolve()
        self._metric, self._is_maximized = metric, is_maximized
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
        meta = {
            "step": step,
            "history": history,
            "digests": sound.digests,
            "kinds": digests.kinds(state),
            "made_with": checkpoint_faults.made_with(),
            "metric": self._metric,
            "is_maximized": self._is_maximized,
        }
        self._history = history
        self._num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(checkpoint_files.sealed(meta))
        )
        with self._saving():
            self._manager.save(step, args=items, force=True)

    def restore(self, like: Any, warn: Callable[[str], None]) -> Restored | None:
        """Return the newest checkpoint that verifies, or None where there is none.

        `like` gives shapes, dtypes and shardings. A damaged checkpoint is moved to `damaged/` beside the
        folder and `warn` is told which leaf or file was found damaged and which step is tried next.

        Raises:
            UserError: checkpoints exist, or existed, and every one is damaged; or one may be sound and cannot
                be restored just now, which moves nothing.
        """
        if not distributed.is_joined():
            return self._newest(lambda step: self._verified(step, like), warn)
        # One process looks which it is to be: of a file that only some of them read the others know nothing.
        step, is_moved = distributed.told(f"{self._folder} restored", lambda: self._chosen(like, warn))
        if is_moved:
            self._reopen()
        return None if step is None else self._verified(step, like)

    def _chosen(self, like: Any, warn: Callable[[str], None]) -> list[Any]:
        """Return the step of the newest checkpoint that verifies, and whether others were moved away."""
        before = set_aside(self._folder.parent)
        step = self._newest(lambda step: self._checked(step, like), warn)
        return [step, set_aside(self._folder.parent) != before]

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
        if aside := set_aside(self._folder.parent):
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
        meta = checkpoint_files.sound_meta(self._folder / str(step))
        item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(like))
        arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), item)
        # By itself: the other processes read, if they do, in their own time.
        own = distributed.process_id()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"{own}") if distributed.is_joined() else ONE
        reader = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
        )
        try:
            found = reader.restore(
                path / "state",
                args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True),
            )
        except Exception as error:
            raise checkpoint_faults.explained(error, path, meta) from error
        checkpoint_files.check_digests(meta, digests.on_host(found))
        return found

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
        meta = checkpoint_files.sound_meta(self._folder / str(step))
        checkpoint_faults.check_kinds(path, meta, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        try:
            state = self._manager.restore(step, args=items)["state"]
            found, _ = sharding.fetched(self._examine(state))
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
        checkpoint_faults.check_kinds(
            self._folder / str(step), checkpoint_files.sound_meta(self._folder / str(step)), like
        )
        found = self.restore_values(step, {name: getattr(like, name) for name in like._fields})
        if int(found["step"]) != step:
            raise Damage(f"it is a copy of step {int(found['step'])}")
        return step

    def _set_aside(self, step: int, damage: Damage) -> None:
        """Move a checkpoint out of the way, under a name that is free.

        Raises:
            UserError: it cannot be moved.
        """
        source = self._folder / str(step)
        target = next(
            path for path in _numbered(self._folder.parent / DAMAGED) if path.is_dir() or not _is_there(path)
        )
        numbered = _numbered(target / f"{step}.0", target / f"{step}")
        try:
            target.mkdir(exist_ok=True)
            source.rename(next(path for path in numbered if not _is_there(path)))
        except OSError as error:
            raise UserError(
                f"checkpoint {str(source)!r} is damaged ({damage}) and cannot be moved to {str(target)!r}: "
                f"{error.strerror}; mend that, or remove it, and repeat the command"
            ) from error
        if not distributed.is_joined():
            self._reopen()

    def _reopen(self) -> None:
        self._manager.close()
        self._manager = self._opened()


def set_aside(run_folder: Path) -> list[Path]:
    """Return the damaged checkpoints that were moved out of the way in a run folder."""
    folders = [path for path in run_folder.glob(f"{DAMAGED}*") if path.is_dir()]
    return sorted(each for path in folders for each in path.glob("*.*") if each.is_dir())


def _numbered(first: Path, stem: Path | None = None) -> Iterator[Path]:
    """Yield a path, and then the same with .1, .2, … behind it, or behind `stem`."""
    yield first
    for number in itertools.count(1):
        yield (stem or first).with_name(f"{(stem or first).name}.{number}")


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


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


def _examined(state: State) -> tuple[list[Any], dict[str, Any]]:
    """Return the digest of every leaf, and by name how many values of what must be finite are not."""
    watched = {name: getattr(state, name) for name in FINITE}
    counts = dict(zip(digests.names(watched), digests.num_not_finite(watched), strict=True))
    return digests.on_device(state), counts
