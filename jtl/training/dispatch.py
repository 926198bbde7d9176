"""What the devices are given at once: the batch of a step, or those of several where one is soon done.

Asking for a step takes the host about a millisecond. Where examples lie on the devices, or what frozen layers
give of them is kept, a step of a small model takes no longer than that: there one program makes several, one
behind the other, on the batches and with the random numbers of each. What is kept gives the bits of one step
at a time; where images are varied in the same program, XLA may join its operations otherwise, and round
otherwise. How many they are is the same whenever a run is repeated, and so are its bits.
"""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl import distributed
from jtl.data import pipeline
from jtl.data.planned import planned_batches
from jtl.data.sampling import UNIFORM
from jtl.errors import UserError, at_end
from jtl.inputs.contract import leaves_of, map_leaves
from jtl.signals import interruptibly
from jtl.strategies.contract import TRAIN
from jtl.training import evaluate, flops, optim, routes, sharding, step, views
from jtl.training.agreement import StopSource
from jtl.training.budget import Sizes
from jtl.training.config import Config
from jtl.training.ready import VALIDATION, Feed, Run
from jtl.training.state import State

# The most steps at once, and the most that their batches take on the devices.
MOST_STEPS, MOST_BYTES = 64, 16 << 20
# Operations that take the devices 10 to 50 ms: beside them a millisecond of the host's is little, and a
# signal is still answered at once.
ENOUGH_FLOPS, ENOUGH_ELSEWHERE = {"cpu": 4e9}, 2e12


class Span(NamedTuple):
    """Steps that are asked for at once: how many, and their batches as the program of them takes these."""

    num_steps: int
    batches: Any


class Drawn(NamedTuple):
    """What decides which examples of a stream a step has: how many, by what seed, in what order."""

    batch_size: int
    seed: int
    sampling: str


class Dispatches:
    """The spans of a run from a step on, and the compiled program of each phase and shape of batches."""

    def __init__(self, ready: Run, stop: StopSource) -> None:
        self._ready, self._stop = ready, stop
        self._phases = optim.phases(ready.plan.built.parts.groups)
        self._jitted: dict[int, jax.stages.Wrapped] = {}
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def spans(self, start: int, state: State) -> Generator[Span, None, None]:
        """Yield the spans from the step `start` on; none reaches over what is due between two steps."""
        ready, number = self._ready, start
        with ExitStack() as stack:
            host = host_batches(ready, start)
            stack.enter_context(at_end(host.close))
            waiting = [next(host)]
            most = self._most(start, state, waiting[0])
            while True:
                count = most if number + most <= self._next_due(number) else 1
                waiting += [next(host) for _ in range(count - len(waiting))]
                found, waiting = waiting[:count], waiting[count:]
                yield Span(count, _together(ready, found) if count > 1 else placed(ready, found[0]))
                number += count

    def program(self, number: int, state: State, batches: Any) -> Callable[..., Any]:
        """Return the program (state, batches) → (state, numbers) of a span that begins at step `number`.

        It is compiled when it is new. The numbers of several steps have a row each.
        """
        phase = max(start for start in self._phases if start <= number)
        key = (phase, *(leaf.shape for leaf in jax.tree.leaves(batches)))
        if key not in self._compiled:
            with self._ready.reporter.phases.measure("compile"):
                jitted = self._step(phase)
                if isinstance(batches, step.Several):
                    made = partial(_made, self._ready.feed)
                    jitted = step.make_several(jitted, made, self._ready.programs.state_sharding)
                lowered = jitted.lower(state, batches)
                options = step.compiler_options(self._ready.plan.built.parts, phase)
                name = f"{self._ready.plan.folder} compiled {len(self._compiled)}"
                with self._stop.raising():
                    compiled = interruptibly(partial(lowered.compile, options))
                    interruptibly(partial(distributed.meet, name))
                self._compiled[key] = compiled
        return self._compiled[key]

    def _step(self, phase: int) -> jax.stages.Wrapped:
        if phase not in self._jitted:
            place = (self._ready.programs.state_sharding, sharding.of_batch(self._ready.programs.mesh))
            self._jitted[phase] = step.make_train_step(self._ready.plan.built.parts, phase, *place)
        return self._jitted[phase]

    def _every(self) -> list[int]:
        """Return after how many steps evaluations and checkpoints are due."""
        train = self._ready.plan.settings.train
        evaluations = eval_every(self._ready.plan.settings, len(self._ready.feed.splits[TRAIN]))
        return [evaluations, *([train.checkpoint_every] if train.checkpoint_every else [])]

    def _next_due(self, number: int) -> int:
        """Return the next step at which something is due: evaluation, checkpoint, another phase, the end."""
        due = [number - number % every + every for every in self._every()]
        later = [each for each in (*self._phases, self._ready.num_steps) if each > number]
        return min(due + later)

    def _most(self, start: int, state: State, first: Mapping[str, step.Batch]) -> int:
        """Return how many steps are asked for at once, and say so where there could be several."""
        ready, parts = self._ready, self._ready.plan.built.parts
        is_near = all(name in ready.feed.kept or name in ready.feed.residents for name in first)
        if not is_near or jax.process_count() > 1:
            return 1
        interval = min(*self._every(), parts.num_steps)
        asked = ready.plan.settings.train.steps_per_dispatch
        if asked:
            return even(asked, interval)
        phase = max(each for each in self._phases if each <= start)
        traced = self._step(phase).trace(state, placed(ready, first))
        operations = flops.counted(traced.jaxpr.jaxpr)
        enough = ENOUGH_FLOPS.get(ready.programs.mesh.devices.flat[0].platform, ENOUGH_ELSEWHERE)
        num_bytes = sum(leaf.nbytes for leaf in leaves_of(first))
        most = min(MOST_STEPS, int(enough // max(operations, 1)), MOST_BYTES // num_bytes)
        found = even(max(most, 1), interval)
        ready.reporter.live.log(
            f"steps at once: {found} (a step takes {operations / 1e9:.2g} GFLOP, and {enough / 1e9:g} are "
            f"worth asking for; set by train.steps_per_dispatch)"
        )
        return found


def even(most: int, interval: int) -> int:
    """Return the number of steps at once, at most `most`, by which an interval is cut into even parts.

    >>> even(64, 100), even(8, 22), even(8, 3)
    (50, 7, 3)
    """
    return interval // math.ceil(interval / most)


def check(asked: int, feed: Feed, unit: str, *, is_kept: bool) -> None:
    """Check that several steps can be asked for at once, where they are to be.

    Raises:
        UserError: the examples are read on the host for every step, or several processes ask.
    """
    if asked > 1 and jax.process_count() > 1:
        raise UserError(
            f"train.steps_per_dispatch is {asked} and there are {jax.process_count()} processes; expected 0 "
            f"or 1: after every step they agree on whether to go on"
        )
    if asked > 1 and not is_kept and TRAIN not in feed.residents:
        raise UserError(
            f"train.steps_per_dispatch is {asked}, and {unit} are read on the host for every step; expected "
            f"0 or 1, or inputs.route={pipeline.DEVICE}, or frozen layers whose output is kept"
        )


def eval_every(settings: Config, num_examples: int) -> int:
    """Return the steps between evaluations: as set, or those of one epoch of so many training examples."""
    return settings.train.eval_every or max(1, num_examples // settings.train.batch_size)


def sizes(ready: Run) -> Sizes:
    """Return how many examples are trained on and measured at a time, for who plans by the clock."""
    settings, feed = ready.plan.settings, ready.feed
    of_target = 0 if feed.target is None or feed.target_batches is None else len(feed.target.evaluation)
    measured = {name: len(feed.splits[name]) for name in feed.eval_batches}
    between = measured.get(VALIDATION, 0) + of_target
    every = eval_every(settings, len(feed.splits[TRAIN]))
    return Sizes(every, settings.train.batch_size, between, sum(measured.values()))


def drawn_by(ready: Run, name: str) -> Drawn:
    """Return what says which examples of a stream a step has."""
    train, parts = ready.plan.settings.train, ready.plan.built.parts
    stream = parts.strategy.streams.get(name)
    # Streams of the same examples have them in the same order.
    of = name if stream is None else stream.of
    rows = views.rows_of(parts, name, train.batch_size)
    return Drawn(rows, routes.stream_seed(train.seed, of), train.sampling if of == TRAIN else UNIFORM)


def host_batches(ready: Run, start: int) -> Generator[dict[str, step.Batch], None, None]:
    """Yield {stream: batch} on the host from the step `start` on; only training examples bring labels."""
    fields: dict[str, tuple[str, ...]] = {TRAIN: step.FIELDS}
    fields |= dict.fromkeys(ready.plan.built.parts.strategy.streams, step.UNLABELLED_FIELDS)
    with ExitStack() as stack:
        readers = {name: _reader(ready, name, start) for name in fields}
        for reader in readers.values():
            stack.enter_context(at_end(reader.close))
        while True:
            yield {name: evaluate.fields_of(next(readers[name]), fields[name]) for name in fields}


def device_batches(ready: Run, start: int) -> Generator[step.Batch, None, None]:
    """Yield the batches of single steps on the devices, from the step `start` on."""
    host = host_batches(ready, start)
    with at_end(host.close):
        for batch in host:
            yield placed(ready, batch)


def placed(ready: Run, batch: Mapping[str, step.Batch]) -> step.Batch:
    """Return the batch of a step on the devices, without waiting for it."""
    found = sharding.put_batch(dict(batch), ready.programs.mesh)
    made = {name: each.batch_of(found[name]) for name, each in ready.feed.residents.items()}
    return {**found, **made}


def _together(ready: Run, batches: list[dict[str, step.Batch]]) -> step.Several:
    """Return the batches of several steps on the devices, without waiting for them."""
    rows = map_leaves(lambda *leaves: np.stack(leaves), *batches)
    found = jax.device_put(rows, sharding.of_batches(ready.programs.mesh))
    return step.Several(found, {name: each.lying for name, each in ready.feed.residents.items()})


def _made(feed: Feed, batch: step.Batch, lying: Mapping[str, Any]) -> step.Batch:
    """Return the batch of a step, with inputs made of what lies on the devices, inside a program."""
    made = {name: each.drawn(lying[name], batch[name]) for name, each in feed.residents.items()}
    return {**batch, **made}


def _reader(ready: Run, name: str, start: int) -> Generator[step.Batch, None, None]:
    """Return the batches of a stream on the host from the step `start` on."""
    settings, parts = ready.plan.settings, ready.plan.built.parts
    own = sharding.rows_of(ready.programs.mesh)
    if name in ready.feed.kept:
        return ready.feed.kept[name](start)
    drawn = drawn_by(ready, name)
    read = partial(
        pipeline.train_batches,
        transform=parts.input.transform(parts.preprocess, views.augment_of(parts, name)),
        kind=parts.input,
        preprocess=parts.preprocess,
        varied_by=routes.stream_seed(settings.train.seed, name),
    )
    return (planned_batches if name in ready.feed.residents else read)(
        ready.feed.streams[name],
        batch_size=drawn.batch_size,
        seed=drawn.seed,
        start_step=start,
        sampling=drawn.sampling,
        shard_index=own.place,
        num_shards=own.num,
        num_views=settings.train.views if parts.augment is not None else 0,
        config=settings.inputs,
    )
