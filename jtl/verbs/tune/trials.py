"""The trials of a search, one after another: each is a run in a folder of its own, which resumes as runs do.

What a killed process left is gone on with first, under its number; several processes share the study, and no
two take one trial.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from jtl import signals
from jtl.errors import UserError
from jtl.tasks import TASKS
from jtl.training import build, config, progress, run
from jtl.training.config import Config
from jtl.training.ready import FINISHED, GIVEN_UP
from jtl.verbs.tune import space, study
from jtl.verbs.tune.space import Dimension
from jtl.weights.run_folder import CHECKPOINTS_NAME

if TYPE_CHECKING:
    import optuna

LOCKS, ASKING = "locks", "asking.lock"
# What a trial remembers beside its value.
STEPS, PLANNED, SECONDS, LOSS, WHY, PRUNED_AT = "steps", "planned", "seconds", "loss", "why", "pruned_at"


class Plan(NamedTuple):
    """A search: what all trials share, what they differ in, where they go, and how many or how long.

    `num_examples` are those of training. `metric` is of validation; 0 minutes are no limit.
    """

    base: Config
    dimensions: tuple[Dimension, ...]
    folder: Path
    num_trials: int
    minutes: float
    metric: str
    is_maximized: bool
    num_examples: int


def made(
    base: Config, dimensions: tuple[Dimension, ...], folder: Path, num_trials: int, minutes: float
) -> Plan:
    """Return the plan of a search.

    Raises:
        UserError: there is nothing to validate on.
    """
    base = replace(base, baseline=False)
    splits = build.open_splits(base)
    if "val" not in splits:
        raise UserError("there is no validation split to choose by; set data.val_fraction above 0")
    kind = TASKS[base.task.name]
    metric = base.train.monitor or kind.monitor
    if metric not in kind.maximized:
        raise UserError(
            f"train.monitor is {metric!r}; expected a metric of the validation split to choose by"
        )
    is_maximized, count = kind.is_maximized(metric), len(splits["train"])
    return Plan(base, dimensions, folder, num_trials, minutes, metric, is_maximized, count)


def settings(plan: Plan, values: dict[str, float | str]) -> Config:
    """Return the settings of a trial that tries such values."""
    return config.with_overrides(plan.base, overrides(plan, values))


def overrides(plan: Plan, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return such values as settings of the command line."""
    known = {each.name: each for each in plan.dimensions}
    return [(name, space.text(known[name], value)) for name, value in values.items()]


def folder_of(plan: Plan, number: int) -> Path:
    """Return the run folder of a trial."""
    return plan.folder / f"trial{number:03d}"


def made_all(
    plan: Plan, found: "optuna.Study", stop: signals.StopRequest, say: Callable[[str], None]
) -> bool:
    """Make trials until there are enough, or the minutes are over; return whether no signal came before."""
    while True:
        with _claimed(plan, found) as trial:
            if trial is None:
                return True
            stop.check()
            if not _made(plan, found, trial, stop, say):
                return False


@contextmanager
def _claimed(plan: Plan, found: "optuna.Study") -> Iterator["optuna.Trial | None"]:
    """Give a trial that no other process has: one that was begun, or a new one; None where all are made."""
    locks = plan.folder / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / ASKING):
        lock, trial = _begun(found, locks)
        if trial is None and not _is_enough(plan, found):
            trial = found.ask()
            lock = FileLock(locks / f"{trial.number:03d}.lock")
            lock.acquire()
    try:
        yield trial
    finally:
        if lock is not None:
            lock.release()


def _begun(found: "optuna.Study", locks: Path) -> "tuple[FileLock | None, optuna.Trial | None]":
    """Return a trial that was begun and that no process is at, with its lock."""
    import optuna

    for each in found.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        lock = FileLock(locks / f"{each.number:03d}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return lock, optuna.Trial(found, each._trial_id)
    return None, None


def _is_enough(plan: Plan, found: "optuna.Study") -> bool:
    trials = found.get_trials(deepcopy=False)
    spent = sum(each.user_attrs.get(SECONDS, 0.0) for each in trials)
    return len(trials) >= plan.num_trials or 0 < 60 * plan.minutes <= spent


def _made(
    plan: Plan,
    found: "optuna.Study",
    trial: "optuna.Trial",
    stop: signals.StopRequest,
    say: Callable[[str], None],
) -> bool:
    """Make a trial, or what is left of it, and tell the study; return whether it came to an end."""
    import optuna

    values = study.values(trial, plan.dimensions)
    own, folder = settings(plan, values), folder_of(plan, trial.number)
    say(f"\ntrial {trial.number}: {', '.join(f'{name}={value}' for name, value in overrides(plan, values))}")
    judge = _Judge(plan, found, trial)
    try:
        result = run.run(own, folder, stop, is_given_up=judge)
    except UserError as error:
        if not config.has_begun(folder):
            raise UserError(f"trial {trial.number} cannot be: {error}") from error
        trial.set_user_attr(WHY, str(error))
        found.tell(trial, state=optuna.trial.TrialState.FAIL)
        say(f"trial {trial.number} failed: {error}")
        return True
    if result["status"] not in (*FINISHED, GIVEN_UP):
        return False
    best = result["best"] if result["status"] in FINISHED else judge.best(plan)
    about = {
        STEPS: result["steps"],
        PLANNED: build.num_steps(own, plan.num_examples),
        SECONDS: result.get("goodput", {}).get("wall_seconds", 0.0),
        LOSS: best.get("val/loss"),
    }
    for name, value in about.items():
        trial.set_user_attr(name, value)
    if result["status"] == GIVEN_UP:
        found.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        found.tell(trial, best[f"val/{plan.metric}"])
    # Nothing goes on from there, and each is as large as the model and its optimizer.
    shutil.rmtree(folder / CHECKPOINTS_NAME, ignore_errors=True)
    return True


class _Judge:
    """Tells the study each evaluation of a trial, and asks it whether the rest is worth making."""

    def __init__(self, plan: Plan, found: "optuna.Study", trial: "optuna.Trial") -> None:
        self._metric, self._study, self._trial = plan.metric, found, trial
        self.history: progress.History = []

    def __call__(self, history: progress.History) -> bool:
        """Return whether to give the trial up; what was decided once stays."""
        self.history = history
        if PRUNED_AT in self._trial.user_attrs:
            return True
        known = self._study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        for place, entry in enumerate(history, start=1):
            if place not in known:
                self._trial.report(entry[self._metric], place)
        if not self._trial.should_prune():
            return False
        self._trial.set_user_attr(PRUNED_AT, len(history))
        return True

    def best(self, plan: Plan) -> dict[str, Any]:
        """Return the best of what was measured, by the names of a summary."""
        found = progress.best(self.history, plan.metric, is_maximized=plan.is_maximized) or {}
        return {f"val/{name}": value for name, value in found.items()}
