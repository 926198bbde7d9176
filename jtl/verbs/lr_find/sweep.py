"""A sweep of the learning rate from very low to too high, a step each: the run's own step, and nothing kept.

The rates are those of the exponential schedule, gone through from its end to its start by a course, so that
no step is compiled for a rate (a range test as in Smith 2017, sec. 3.3, evenly spaced in the logarithm).
"""

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl.errors import UserError, at_end
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.signals import StopRequest
from jtl.training import config, course, features, loop, preparation
from jtl.training.checkpoint import Sound
from jtl.training.checkpoint_faults import Diverged
from jtl.training.ready import Run
from jtl.training.state import State

# A loss so many times the least so far only grows from there on.
TOO_HIGH = 4.0
# How much of the smoothed loss is that of the step before.
SMOOTHING = 0.9
# The rate is that at which the smoothed loss falls the fastest, and at most this part of where it is least.
BEFORE_LEAST = 0.1
# Steps whose slope says little: the average has hardly begun, and the optimizer's own.
FIRST_STEPS = 5


class Sweep(NamedTuple):
    """The rates that were tried, in order, and the loss at each; whether it was given up for its loss."""

    rates: list[float]
    losses: list[float]
    is_cut: bool


class _Enough(Exception):
    """The loss is too high to go on."""


class _Losses:
    """Takes the loss of each step, and ends the sweep where it is too high."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def scalars(self, step: int, values: Any) -> None:
        """Take the rate and the loss of a step."""
        del step
        self.rates.append(float(values["train/learning_rate"]))
        self.losses.append(float(values["train/loss"]))
        found = smoothed(self.losses)
        if len(found) > FIRST_STEPS and found[-1] > TOO_HIGH * min(found):
            raise _Enough

    def close(self) -> None:
        """Keep what there is."""


class _Unkept:
    """Checkpoints of a run of which nothing is kept."""

    def sound(self, state: State) -> Sound:
        """Return the state, unexamined."""
        return Sound(state, {})

    def save(self, sound: Sound, history: Any) -> None:
        """Save nothing."""

    def wait(self) -> None:
        """Wait for nothing."""


def swept(settings: config.Config, low: float, high: float, num_steps: int, stop: StopRequest) -> Sweep:
    """Train for so many steps at rates from `low` to `high`, evenly spaced in their logarithm.

    Raises:
        UserError: configuration, data and weights do not fit, or the loss is not finite at the lowest rate.
    """
    settings = replace(
        settings,
        baseline=False,
        optim=replace(
            settings.optim,
            schedule="exponential",
            learning_rate=high,
            end_factor=low / high,
            warmup=0.0,
            swa_start=0.0,
        ),
        # With minutes its rates follow a course.
        train=replace(settings.train, minutes=1.0, steps=0, log_every=1, patience=0, checkpoint_every=0),
    )
    losses = _Losses()
    is_cut = False
    with tempfile.TemporaryDirectory(prefix="jtl-lr-find-", ignore_cleanup_errors=True) as folder:
        ready, state, checkpoints = preparation.prepare(settings, Path(folder), Live(io.StringIO()), Phases())
        with at_end(ready.feed.close), at_end(checkpoints.close):
            ready, state = features.begun(ready, state)
            state = state._replace(opt_state=course.changed(state.opt_state, 1.0, -1 / (num_steps - 1)))
            try:
                loop.run(_unmeasured(ready, num_steps), state, [], _Unkept(), losses, stop)
            except (_Enough, Diverged):
                is_cut = True
    if len(losses.losses) <= FIRST_STEPS:
        raise UserError(
            f"the loss grows or is not finite within {FIRST_STEPS} steps from --low {low:g} on; give a lower"
        )
    return Sweep(losses.rates, losses.losses, is_cut)


def smoothed(losses: list[float]) -> list[float]:
    """Return the moving average of the losses, its start corrected as Adam's is.

    >>> smoothed([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    found, mean = [], 0.0
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


class Suggestion(NamedTuple):
    """The rate to train with, where the smoothed loss falls the fastest and where it is least, and why."""

    learning_rate: float
    steepest: float
    least: float
    rule: str


def suggested(sweep: Sweep) -> Suggestion:
    """Return the rate that a sweep speaks for.

    Raises:
        UserError: the loss does not fall at any rate.
    """
    import numpy as np

    rates, losses = np.log10(sweep.rates), np.asarray(smoothed(sweep.losses))
    place = int(np.argmin(losses))
    if place <= FIRST_STEPS:
        raise UserError(
            f"the loss falls at none of the rates from {sweep.rates[0]:.3g} to {sweep.rates[-1]:.3g}; give a "
            f"lower --low, or more --steps"
        )
    slopes = np.gradient(losses, rates)[FIRST_STEPS : place + 1]
    steepest = float(10 ** rates[FIRST_STEPS + int(np.argmin(slopes))])
    least = float(10 ** rates[place])
    rate = min(steepest, BEFORE_LEAST * least)
    rule = "where the smoothed loss falls the fastest"
    if rate < steepest:
        rule = f"a tenth of {least:.2g}, where the smoothed loss is least: it falls the fastest close to that"
    return Suggestion(float(f"{rate:.2g}"), steepest, least, rule)


def _unmeasured(ready: Run, num_steps: int) -> Run:
    """Return the run with so many steps, between and behind which nothing is measured."""
    built = ready.plan.built._replace(parts=ready.plan.built.parts._replace(num_steps=num_steps))
    feed = ready.feed._replace(eval_batches={}, target_batches=None)
    return ready._replace(plan=ready.plan._replace(built=built), feed=feed)
