"""The loop: batch → step → evaluate → save, until all is done, nothing improves, or the process must go.

The numbers of a step are read after later steps were dispatched, so the device never waits for the host's
bookkeeping; before anything is evaluated or saved, all are.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jtl import signals
from jtl.errors import at_end
from jtl.metrics import GRID_PREFIX, Summary
from jtl.report.goodput import EVERY_SECONDS
from jtl.report.writer import Numbers
from jtl.signals import Stopped
from jtl.training import adaptation, build, dispatch, evaluate, nonfinite, progress
from jtl.training.agreement import MAX_AHEAD, StopSource
from jtl.training.checkpoint_faults import Diverged, Unsaved
from jtl.training.ready import GIVEN_UP, VALIDATION, Ended, Run, Saves
from jtl.training.state import State

# Steps whose numbers may lie on the devices unread.
MAX_UNREAD = 100
# How old the loss on the live line may be, unless a step takes longer.
READ_SECONDS = 0.2


def run(
    ready: Run,
    state: State,
    history: progress.History,
    checkpoints: Saves,
    writer: Numbers,
    stop: StopSource,
) -> Ended:
    """Train from the state's step to the end of the run; save at every evaluation and when asked to stop.

    Asked to stop it saves at once: an evaluation under way, or due at that step, is left to the run that
    goes on from there, which makes it first.

    Raises:
        Diverged: the loss, a gradient or a parameter is no longer finite.
        Unsaved: a checkpoint could not be saved.
    """
    start = int(state.step)
    dispatches, skips = dispatch.Dispatches(ready, stop), nonfinite.Skips(ready, start)
    reader = _Reader(ready, writer, history, skips.take)
    status, saved, measured, over = "finished", start, None, _over(ready, history)
    spans, number = dispatches.spans(start, state), start
    # The live line ends whatever happens, so that an error starts on a line of its own.
    with stop.deferred(), at_end(spans.close), at_end(ready.reporter.live.finish):
        try:
            if _lacks_evaluation(ready, history, start):
                # Its checkpoint stays as it is: those that follow have the evaluation in their history.
                history, measured, over = _measured(ready, state, history, writer, stop)
                reader.measured(history)
            while number < ready.num_steps and not over:
                with stop.raising(), ready.reporter.phases.measure("data_wait"):
                    span = next(spans)
                program = dispatches.program(number, state, span.batches)
                with ready.reporter.phases.measure("step"):
                    state, values = program(state, span.batches)
                    measured, number = None, number + span.num_steps
                    reader.push(number, span.num_steps, values)
                state = ready.followed(number, state)
                if stop.is_set:
                    raise Stopped(stop.number)
                is_evaluated = _is_due(number, _every(ready), ready.num_steps)
                if is_evaluated or _is_due(number, ready.plan.settings.train.checkpoint_every):
                    with ready.reporter.phases.measure("step"):
                        reader.flush()
                        sound = checkpoints.sound(state)
                    if is_evaluated and _is_measured(ready):
                        history, measured, over = _measured(ready, state, history, writer, stop)
                        reader.measured(history)
                    with ready.reporter.phases.measure("checkpoint"):
                        checkpoints.save(sound, history)
                    saved = number
                    ready.reporter.mark(saved)
                _check(ready, stop)
            status = "finished" if number >= ready.num_steps else over
        except Stopped:
            status = "preempted"
            with ready.reporter.phases.measure("step"):
                reader.flush()
            if int(state.step) > saved:
                with ready.reporter.phases.measure("checkpoint"):
                    checkpoints.save(checkpoints.sound(state), history)
                ready.reporter.mark(int(state.step))
        except Exception as error:
            _rescue(ready, state, saved, history, checkpoints, reader, error)
            raise
    num_examples = (int(state.step) - start) * ready.plan.settings.train.batch_size
    return Ended(state, history, status, num_examples, measured, skips.steps)


def _check(ready: Run, stop: StopSource) -> None:
    """Raise Stopped if the run is asked to stop; of several processes this waits for the others' steps."""
    with ready.reporter.phases.measure("step"):
        stop.check()


def _rescue(
    ready: Run,
    state: State,
    saved: int,
    history: progress.History,
    checkpoints: Saves,
    reader: "_Reader",
    error: Exception,
) -> None:
    """Save the last whole state of a run that an error ends, where it has one; what fails then is a note."""
    # Several processes save together, which they cannot where one has failed.
    is_lost = any(leaf.is_deleted() for leaf in jax.tree.leaves(state)) or jax.process_count() > 1
    if is_lost or isinstance(error, Diverged | Unsaved) or int(state.step) <= saved:
        return
    try:
        reader.flush()
        checkpoints.save(checkpoints.sound(state), history)
        checkpoints.wait()
    except Exception as other:
        error.add_note(f"and step {int(state.step)} could not be saved: {other}")
        return
    ready.reporter.live.log(f"saved step {int(state.step)}: repeat the command to go on from there")


def evaluated(ready: Run, state: State, split: str, check: Callable[[], None] = signals.check) -> Summary:
    """Return the task's metrics of a state on one split; `check` is called between batches."""

    def moved() -> None:
        ready.reporter.phases.move()
        check()

    with ready.reporter.phases.measure("evaluate"):
        return evaluate.measure(
            ready.programs.evaluate,
            state,
            ready.feed.eval_batches[split],
            mesh=ready.programs.mesh,
            task=ready.plan.built.parts.task,
            num_examples=len(ready.feed.splits[split]),
            check=moved,
        )


class _Reader:
    """Reads the steps' numbers once later steps were dispatched, and reports them.

    Those that are not finite go to `not_finite` first, which may end the run.

    Those of `log_every` steps come to the host together, sooner where people would see old ones: at 2 ms a
    step the device would wait for a host that asks for a handful of scalars after each.
    """

    def __init__(
        self,
        ready: Run,
        writer: Numbers,
        history: progress.History,
        not_finite: Callable[[int, Mapping[str, float]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ready, self._writer, self._clock = ready, writer, clock
        self._not_finite = not_finite
        self._pending: list[tuple[range, Mapping[str, Any]]] = []
        self._loss: float | None = None
        self._shares: dict[str, float] = {}
        self._read_at = clock()
        self.measured(history)

    def measured(self, history: progress.History) -> None:
        """Take the evaluations so far, whose last and best the live line shows."""
        monitor = self._ready.plan.monitor
        is_maximized = self._ready.plan.task_kind.is_maximized(monitor)
        best = progress.best(history, monitor, is_maximized=is_maximized)
        self._last = history[-1].get(monitor) if history else None
        self._best = best.get(monitor) if best else None

    def push(self, number: int, num_steps: int, values: Mapping[str, Any]) -> None:
        """Take the numbers of the steps just dispatched, of which `number` is the last.

        Reads those before when it is time to. Waits for what was dispatched `MAX_AHEAD` before, so that no
        more batches than that wait on the devices.
        """
        past = list(self._pending)
        self._pending.append((range(number - num_steps + 1, number + 1), values))
        if len(past) >= MAX_AHEAD:
            jax.block_until_ready(past[-MAX_AHEAD][1])
        is_old = self._loss is None or self._clock() - self._read_at >= READ_SECONDS
        are_logged = any(self._is_logged(each) for steps, _ in past for each in steps)
        if is_old or are_logged or len(past) >= MAX_UNREAD:
            self._read(past)
        if past:
            self._show(past[-1][0][-1])

    def flush(self) -> None:
        """Read all that is pending; waits for its steps.

        Raises:
            Diverged: the loss or the gradient norm is not finite, of more steps than may be skipped.
        """
        pending = list(self._pending)
        self._read(pending)
        if pending:
            self._show(pending[-1][0][-1])

    def _is_logged(self, number: int) -> bool:
        every = self._ready.plan.settings.train.log_every
        return number % every == 0 or number == self._ready.num_steps

    def _read(self, pending: list[tuple[range, Mapping[str, Any]]]) -> None:
        if not pending:
            return
        self._pending = self._pending[len(pending) :]
        self._read_at = self._clock()
        for steps, arrays in jax.device_get(pending):
            # Those of one step alone are no rows.
            rows = {name: np.reshape(values, len(steps)).tolist() for name, values in arrays.items()}
            for place, number in enumerate(steps):
                self._report(number, {name: values[place] for name, values in rows.items()})

    def _report(self, number: int, values: Mapping[str, float]) -> None:
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            self._not_finite(number, values)
        self._loss = values["loss"]
        shown = self._ready.plan.built.parts.strategy.shown
        self._shares = {name: values[name] for name in shown}
        if self._is_logged(number):
            self._writer.scalars(number, {f"train/{name}": value for name, value in values.items()})
            self._ready.reporter.mark(number, every=EVERY_SECONDS)

    def _show(self, number: int) -> None:
        """Show where the run is: once a step, from whose distances in time the rate is taken."""
        ready, settings = self._ready, self._ready.plan.settings.train
        # That of the first step is read when the second is dispatched, or it is the last.
        assert self._loss is not None, "no step is shown before one was read"
        ready.reporter.live.update(
            step=number,
            num_steps=ready.num_steps,
            epoch=number * settings.batch_size / len(ready.feed.splits["train"]),
            loss=self._loss,
            num_examples=settings.batch_size,
            unit=ready.plan.built.parts.input.unit,
            wait_fraction=ready.reporter.phases.data_wait_fraction(),
            metric_name=ready.plan.monitor,
            last=self._last,
            best=self._best,
            shares=self._shares,
        )


def _is_measured(ready: Run) -> bool:
    """Return whether there is anything to measure between steps."""
    return VALIDATION in ready.feed.eval_batches or ready.feed.target_batches is not None


def _lacks_evaluation(ready: Run, history: progress.History, number: int) -> bool:
    """Return whether the run was stopped at this step before the evaluation that was due."""
    is_due = number > 0 and _is_due(number, _every(ready), ready.num_steps)
    return is_due and _is_measured(ready) and all(entry["step"] != number for entry in history)


def _measured(
    ready: Run, state: State, history: progress.History, writer: Numbers, stop: StopSource
) -> tuple[progress.History, Summary | None, str]:
    """Return the history with an evaluation of the state, what it found on validation, and `_over` of it.

    Raises:
        Stopped: a signal came meanwhile; nothing is reported.
    """
    number = int(state.step)
    with stop.raising():
        has_validation = VALIDATION in ready.feed.eval_batches
        found = evaluated(ready, state, VALIDATION, stop.check) if has_validation else None
        entry = {} if found is None else found.scalars
        entry = {"step": number, **entry, **_measured_target(ready, state, stop.check)}
    stop.check()
    numbers = adaptation.scalars(entry)
    writer.scalars(number, numbers)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items() if GRID_PREFIX not in name)
    ready.reporter.live.log(f"step {number}: {shown}")
    history = [*history, entry]
    return history, found, _over(ready, history)


def _measured_target(ready: Run, state: State, check: Callable[[], None]) -> dict[str, float]:
    """Return what can be said of the other domain's examples, {} without any."""
    if ready.feed.target is None or ready.feed.target_batches is None:
        return {}

    def moved() -> None:
        ready.reporter.phases.move()
        check()

    with ready.reporter.phases.measure("evaluate"):
        outputs, labels = evaluate.collect(
            ready.programs.outputs,
            state,
            ready.feed.target_batches,
            ("logits",),
            mesh=ready.programs.mesh,
            check=moved,
        )
        known = labels if ready.feed.target.is_labelled else None
        has_classes = build.has_classes(ready.plan.settings)
        return adaptation.measure(
            ready.plan.built.parts.task, outputs["logits"], known, has_classes=has_classes
        )


def _is_due(number: int, every: int, last: int = -1) -> bool:
    return number == last or (every > 0 and number % every == 0)


def _every(ready: Run) -> int:
    return dispatch.eval_every(ready.plan.settings, len(ready.feed.splits["train"]))


def _over(ready: Run, history: progress.History) -> str:
    """Return the status of a run that is to end before its last step, "" of one that goes on."""
    if ready.is_given_up is not None and history and ready.is_given_up(history):
        return GIVEN_UP
    settings = ready.plan.settings.train
    is_exhausted = progress.is_exhausted(
        history,
        ready.plan.monitor,
        is_maximized=ready.plan.task_kind.is_maximized(ready.plan.monitor),
        patience=settings.patience,
        min_gain=settings.min_gain,
    )
    return "stopped_early" if is_exhausted else ""
