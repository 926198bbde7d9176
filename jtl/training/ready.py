"""What a run is made of once it is ready to go, and how its loop ended: records of what changes together."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh

from jtl import metrics
from jtl.data import Source, pipeline
from jtl.data.kept import KeptEvalBatches
from jtl.metrics import Summary
from jtl.report import goodput
from jtl.report.console import Live
from jtl.report.goodput import Attempts
from jtl.report.summary import Phases
from jtl.signals import StopRequest
from jtl.tasks import TASKS, LabelStats, TaskKind
from jtl.training import progress, step
from jtl.training.budget import Budget
from jtl.training.build import Built, Target
from jtl.training.checkpoint import Sound
from jtl.training.config import Config
from jtl.training.frozen import Frozen
from jtl.training.mirror import Mirror
from jtl.training.resident import Resident
from jtl.training.state import State

EvalBatches = pipeline.EvalBatches | KeptEvalBatches
FINISHED = ("finished", "stopped_early")
# The split that is measured between steps.
VALIDATION = "val"
# Of a run whose rest nobody wants.
GIVEN_UP = "given_up"


class Plan(NamedTuple):
    """What a run is: its settings and folder, its labels, what a step is made of, and what picks the best."""

    settings: Config
    folder: Path
    stats: LabelStats
    built: Built
    monitor: str

    @property
    def task_kind(self) -> TaskKind:
        """The kind of the task, which knows of each metric whether more is better."""
        return TASKS[self.settings.task.name]


class Feed(NamedTuple):
    """What a run reads: the splits, the streams of a step, another domain, and the batches to measure on.

    `kept` gives the batches from a step on of a stream whose examples were gone through before (see
    `frozen`). `residents` are the streams whose examples lie on the devices.
    """

    splits: dict[str, Source]
    streams: dict[str, Source]
    target: Target | None
    eval_batches: Mapping[str, EvalBatches]
    target_batches: EvalBatches | None
    kept: Mapping[str, Callable[[int], Generator[pipeline.Batch, None, None]]] = {}
    residents: Mapping[str, Resident] = {}

    def close(self) -> None:
        """End what waits for another evaluation."""
        for batches in (*self.eval_batches.values(), self.target_batches):
            if batches is not None:
                batches.close()


class Programs(NamedTuple):
    """What runs on the devices beside the training step, and where a state and a batch lie on them."""

    mesh: Mesh
    state_sharding: Any
    evaluate: Callable[[State, step.Batch], metrics.Sums]
    outputs: Callable[[State, step.Batch], Mapping[str, Any]]


class Reporter(NamedTuple):
    """How a run talks to people, and what it spends its time on; `attempts` are kept by who writes."""

    live: Live
    phases: Phases
    attempts: Attempts | None = None

    def mark(self, step: int, *, every: float = 0.0) -> None:
        """Note how far the run is, unless that was done less than `every` seconds ago."""
        if self.attempts is not None:
            self.attempts.add(step, self.phases.seconds, every=every)

    def goodput(self, step: int) -> dict[str, Any]:
        """Return what summary.json says of the wall time of all attempts, and tell people."""
        if self.attempts is None:
            return {}
        self.mark(step)
        found = self.attempts.summed()
        self.live.log(goodput.text(found))
        return {"goodput": found}


class Caller(NamedTuple):
    """What who starts a run has to say to it, the arguments of `run.run`, and where a copy of it is kept."""

    stop: StopRequest | None
    explain: Callable[..., Any] | None
    began: float
    is_given_up: Callable[[progress.History], bool] | None
    said: Sequence[str]
    copy: Mirror | None


class Run(NamedTuple):
    """A run that is ready to go.

    `frozen` is what of the model runs once for every example (see `features.begun`). `settled(state,
    history)` → what is measured and written at the end; None: this run, with the state as it is. `budget` is
    of a run that may take so many minutes, None of one that makes so many steps. `is_given_up(history)` says
    after an evaluation whether who started the run has no use for the rest of it.
    """

    plan: Plan
    feed: Feed
    programs: Programs
    reporter: Reporter
    frozen: Frozen = Frozen()
    settled: Callable[[State, progress.History], "Settled"] | None = None
    budget: Budget | None = None
    is_given_up: Callable[[progress.History], bool] | None = None

    @property
    def num_steps(self) -> int:
        """The last step, as far as is known."""
        return self.plan.built.parts.num_steps if self.budget is None else self.budget.num_steps

    def followed(self, number: int, state: State) -> State:
        """Return the state before the step after `number`: as it is, or as the budget has it."""
        return state if self.budget is None else self.budget.followed(number, state)


class Settled(NamedTuple):
    """What is measured and written at the end of a run, what is said of it, and a file of it by name."""

    ready: Run
    state: State
    lines: list[str]
    files: Mapping[str, Any]


@runtime_checkable
class Saves(Protocol):
    """Where the loop leaves its states: the checkpoints of a run folder, or what keeps none of them."""

    def sound(self, state: State) -> Sound:
        """Return a state as `save` takes it."""
        ...

    def save(self, sound: Sound, history: progress.History) -> None:
        """Save a state, and the evaluations so far."""
        ...

    def wait(self) -> None:
        """Wait until the last one is saved."""
        ...


class Ended(NamedTuple):
    """How the loop ended: the state, the evaluations, the status, and the training examples it read.

    `measured` is what the validation split gave for that very state, None where it was not measured;
    `skipped` are the steps of all attempts that were (see `nonfinite`).
    """

    state: State
    history: progress.History
    status: str
    num_examples: int
    measured: Summary | None = None
    skipped: tuple[int, ...] = ()
