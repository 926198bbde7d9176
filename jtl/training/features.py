"""What the frozen layers give of every example: computed once, kept between runs, and read in their place.

The run goes on with another model (the rest behind the cut), other inputs (what is kept) and other batches,
which are those of the examples themselves but for their inputs. Its loop, step and state are the same: the
state holds the whole model, so that what is saved and written is of the whole model, too.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jtl import __version__, files, memory, rng, runtime, tree
from jtl.data import Source, kept, pipeline, store
from jtl.data.kept import Arrays, KeptEvalBatches
from jtl.data.labels import strata
from jtl.data.subset import choose_folds, fingerprints
from jtl.inputs import Input
from jtl.inputs.contract import as_it_is, joined, stacked
from jtl.models.cut import Cut
from jtl.strategies.contract import TRAIN
from jtl.training import evaluate, grid, notes, progress, sharding, solve, step
from jtl.training.build import Built
from jtl.training.frozen import Frozen
from jtl.training.ready import EvalBatches, Run, Settled
from jtl.training.state import State
from jtl.training.step import Batch, Parts

FOLDER, PHASE = "features", "features"
NOT_VARIED = "as in evaluation"


@runtime_checkable
class Rows(Protocol):
    """What takes rows of arrays by name, in order."""

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows [n, …] to an array."""
        ...


def begun(ready: Run, state: State) -> tuple[Run, State]:
    """Return the run behind its cut, with what it needs of the training examples; as it is without a cut.

    What it needs of the other splits is computed when they are first measured. The state is a new one where
    the head is solved for.
    """
    found = ready.frozen
    if found.cut is None or found.trace is None:
        return ready, state
    maker = _Maker(ready, state, found)
    arrays = maker.of_training()
    parts = behind(ready.plan.built.parts, found)
    feed = ready.feed._replace(
        kept={TRAIN: partial(maker.train_batches, arrays)},
        eval_batches={
            name: maker.of_batches(name, ready.feed.splits[name], batches)
            for name, batches in ready.feed.eval_batches.items()
        },
        target_batches=(
            maker.of_batches("target", ready.feed.target.evaluation, ready.feed.target_batches)
            if ready.feed.target is not None and ready.feed.target_batches is not None
            else None
        ),
    )
    if parts.strategy.solver is not None and not int(state.step):
        state = _solved(ready, parts, state, arrays)
    one = _with_parts(ready._replace(feed=feed), parts)
    if not parts.strategy.heads:
        return one, state
    is_maximized = ready.plan.task_kind.is_maximized(ready.plan.monitor)
    several = grid.parts_of(
        parts, ready.plan.built, ready.plan.settings, ready.plan.monitor, is_maximized=is_maximized
    )
    return _with_parts(one, several)._replace(settled=partial(_settled, one, ready.plan.built)), state


def behind(parts: Parts, found: Frozen) -> Parts:
    """Return the parts of the step behind the cut: its model, and inputs that are what is kept."""
    assert found.cut is not None, "a model that is not cut runs whole"
    return parts._replace(model=found.cut.rest, input=_input(parts.input, found), augment=None)


def _with_parts(ready: Run, parts: Parts) -> Run:
    programs = ready.programs._replace(
        evaluate=step.make_eval_step(parts), outputs=step.make_output_step(parts)
    )
    built = ready.plan.built._replace(parts=parts)
    return ready._replace(plan=ready.plan._replace(built=built), programs=programs)


def _settled(one: Run, built: Built, state: State, history: progress.History) -> Settled:
    """Return the run and the state of the head that validation chose at the state's step.

    `built` is the whole model.
    """
    plan, number = one.plan, int(state.step)
    settings, cells = plan.settings, plan.built.parts.strategy.heads
    entry = next(each for each in history if each["step"] == number)
    place = int(entry[grid.CHOSEN])
    is_maximized = plan.task_kind.is_maximized(plan.monitor)
    rows = grid.rows_of(settings, cells, history, entry, is_maximized=is_maximized)
    alone = grid.chosen(state, place, grid.masks(settings, built, cells))
    line = f"of {len(cells)} heads number {place} is kept ({grid.words(rows[place].head)}): {plan.monitor} "
    line += f"{rows[place].kept:.4f} at step {number}; all of them stand in {grid.FILE}"
    one.reporter.live.log(grid.table(rows, place, plan.monitor))
    about = {
        "metric": plan.monitor,
        "step": number,
        "chosen": place,
        "heads": [row._asdict() for row in rows],
    }
    return Settled(one, alone, [line], {grid.FILE: about})


def _solved(ready: Run, parts: Parts, state: State, arrays: Arrays) -> State:
    """Return the state with the head that is solved for."""
    source, solver = ready.feed.streams[TRAIN], parts.strategy.solver
    labels = source.labels()
    assert solver is not None and labels is not None  # noqa: PT018
    groups = strata(labels, source.info.label_names)
    folds = choose_folds(fingerprints(source), groups, solver.folds)
    (rows,) = arrays.values()
    times = len(rows) // len(source)
    batch = {"label": jnp.asarray(np.concatenate([labels] * times))}
    targets = parts.task.targets(batch, rng.key(parts.seed, "targets", 0))
    loss, outputs = parts.task.loss, parts.task.head.num_outputs
    found = solve.solved(rows, targets, np.concatenate([folds] * times), loss, outputs, solver)
    notes.say(ready, solve.text(found, solver))
    head = {"kernel": found.kernel.astype(np.float32), "bias": found.bias.astype(np.float32)}

    def with_head(leaves: Any) -> Any:
        places = jax.tree.map(lambda leaf: leaf.sharding, leaves["head"])
        return {**leaves, "head": jax.device_put(head, places)}

    return state._replace(
        trainable=with_head(state.trainable), ema=with_head(state.ema) if state.ema else state.ema
    )


def _input(kind: Input, found: Frozen) -> Input:
    """Return the kind of input that what is kept is: arrays that are read as they are."""
    assert found.cut is not None
    shapes = dict(found.cut.kept)
    return kind._replace(
        transform=lambda preprocess, augment: lambda raw, generator: raw,
        collate=stacked,
        spec=lambda preprocess: shapes,
        normalise=as_it_is,
        join=joined,
    )


class _Maker:
    """Computes what the layers below the cut give, or finds it where another run kept it."""

    def __init__(self, ready: Run, state: State, found: Frozen) -> None:
        assert found.cut is not None
        assert found.trace is not None
        self._ready, self._found, self._cut, self._trace = ready, found, found.cut, found.trace
        # The step gives its state away: copies of what is frozen wait on the host until they are asked for.
        self._params = _copies(state.frozen, self._trace.names)
        self._state = _copies(state.model_state, self._trace.state_names)
        self._below = _below(ready.plan.built, self._cut)
        self._entries: list[store.Entry] = []

    def train_batches(self, arrays: Arrays, start: int) -> Generator[Batch, None, None]:
        """Return the training batches from a step on."""
        settings = self._ready.plan.settings
        return kept.train_batches(
            arrays,
            self._ready.feed.streams[TRAIN],
            batch_size=settings.train.batch_size,
            seed=settings.train.seed,
            start_step=start,
            sampling=settings.train.sampling,
            num_views=self._found.num_views,
            config=settings.inputs,
        )

    def of_training(self) -> Arrays:
        """Return what is given of the training examples: of all in one view, then in the next."""
        ready, settings = self._ready, self._ready.plan.settings
        parts, source = ready.plan.built.parts, ready.feed.streams[TRAIN]
        _, key = pipeline.plan(source, settings.train.sampling, settings.train.seed)
        is_varied = parts.augment is not None and bool(parts.input.varied(parts.augment))
        views = [
            pipeline.view_batches(
                source,
                parts.input.transform(parts.preprocess, parts.augment),
                parts.input,
                preprocess=parts.preprocess,
                view=view,
                key=key,
                batch_size=self._batch_size(),
                config=settings.inputs,
            )
            for view in range(self._found.num_views)
        ]
        how = NOT_VARIED if parts.augment is None else str(parts.augment)
        how += f" {key} {self._found.num_views}" if is_varied else ""
        return self._kept(
            TRAIN, source, (batch for view in views for batch in view), how, self._found.num_views
        )

    def of_batches(self, name: str, source: Source, batches: EvalBatches) -> KeptEvalBatches:
        """Return the batches of an evaluation behind the cut."""
        found: list[Arrays] = []

        def arrays() -> Arrays:
            if not found:
                found.append(self._kept(name, source, batches, NOT_VARIED, 1))
                batches.close()
            return found[0]

        return KeptEvalBatches(arrays, source, self._batch_size(), batches.close)

    def _kept(self, name: str, source: Source, batches: Iterable[Batch], how: str, num_views: int) -> Arrays:
        """Return what is given of a source's batches, kept under a digest of all that it is made of."""
        settings, live = self._ready.plan.settings, self._ready.reporter.live
        about = f"features of {name}"
        num_bytes = num_views * len(source) * tree.num_bytes(dict(self._cut.kept))
        made: list[bool] = []

        def make(rows: Rows) -> None:
            made.append(True)
            self._compute(batches, rows)

        with self._ready.reporter.phases.measure(PHASE):
            place = store.Store(files.cache_folder(FOLDER), settings.inputs.features_bytes)
            key = self._key(source, how)
            entry = store.kept(place, key, make, num_bytes=num_bytes, about=about, say=live.log)
            if entry is not None:
                verb = "computed and kept in" if made else "read from"
                live.log(f"{about}: {num_views * len(source):,} rows, {verb} {str(place.folder)!r}")
                # As long as it is open, nobody removes it.
                self._entries.append(entry)
                return entry.arrays
            memory.check(2 * num_bytes, about, "set train.cache_features=off")
            found = InMemory()
            self._compute(batches, found)
            return found.arrays()

    def _compute(self, batches: Iterable[Batch], rows: Rows) -> None:
        mesh = self._ready.programs.mesh
        values = jax.device_put((self._params, self._state), NamedSharding(mesh, PartitionSpec()))

        def begin(batch: Batch) -> Any:
            return self._below(values, sharding.put_batch(batch["inputs"], mesh))

        for batch, found in evaluate.ahead(begin, batches):
            for name, array in jax.device_get(found).items():
                rows.append(name, array[batch["mask"]])

    def _batch_size(self) -> int:
        settings, mesh = self._ready.plan.settings.train, self._ready.programs.mesh
        return -(-(settings.eval_batch_size or settings.batch_size) // mesh.size) * mesh.size

    def _key(self, source: Source, how: str) -> str:
        """Return a digest of all that decides a bit of what is kept."""
        settings, parts = self._ready.plan.settings, self._ready.plan.built.parts
        device = jax.devices()[0]
        about = {
            "jtl": __version__,
            "jax": jax.__version__,
            "device": f"{self._ready.programs.mesh.size} {device.platform} {device.device_kind}",
            "program": self._trace.text,
            "preprocess": str(parts.preprocess),
            "variation": how,
            "batches": [self._batch_size(), *settings.inputs.buckets],
            "weights": tree.sha256({**self._params, **{f"state/{k}": v for k, v in self._state.items()}}),
            "examples": hashlib.sha256(b"".join(fingerprints(source))).hexdigest(),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class InMemory:
    """Rows of arrays that no disk keeps."""

    def __init__(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows to an array."""
        self._rows.setdefault(name, []).append(rows)

    def arrays(self) -> Arrays:
        """Return the arrays."""
        return {name: np.concatenate(rows) for name, rows in self._rows.items()}


def _copies(leaves: Any, names: frozenset[str]) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in sorted(tree.flatten(leaves).items()) if name in names}


def _below(built: Built, cut: Cut) -> Callable[[Any, Any], Any]:
    """Return the compiled part below the cut: of the leaves that it reads, by name, and a batch's inputs."""
    parts, shapes = built.parts, jax.tree.map(_shape, (built.params, built.model_state))

    def run(values: Any, inputs: Any) -> Any:
        params, model_state = (
            tree.map_named(partial(_or_zeros, found), each)
            for found, each in zip(values, shapes, strict=True)
        )
        inputs = parts.input.normalise(inputs, parts.preprocess)
        return cut.below(params, model_state, inputs, train=False, key=None)

    return jax.jit(run, compiler_options=runtime.forward_options())


def _or_zeros(found: Any, name: str, leaf: Any) -> Any:
    return found[name] if name in found else jnp.zeros(leaf.shape, leaf.dtype)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
