"""How long a run goes on that may take so many minutes: as many steps as end in time, estimated as it runs.

The minutes are those of the whole command, and of all attempts of a run that was stopped: the start, what is
compiled, evaluations and the report at the end count. What is left is shared out by what steps and
evaluations have taken so far. The rate of a step goes by the part of the schedule that is behind it (see
`course`), which ends with the last step; how many there are hangs on the machine, and so do the bits.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jtl.errors import UserError
from jtl.report import goodput
from jtl.training import course
from jtl.training.build import Built
from jtl.training.config import Config
from jtl.training.state import State

MINUTE = 60.0
# How often it is estimated anew, and over how many of the last seconds of training a step is timed.
EVERY_SECONDS, WINDOW_SECONDS = 1.0, 25.0
# The first dispatches wait for none before them: so many are not timed. And how many steps there are at least
# while there is nothing to tell by.
UNTIMED, UNKNOWN_STEPS = 3, 1000
# What the report takes beside evaluations and checkpoints, and what explaining predictions takes, as a part
# of the seconds of the start, which grow and shrink with it: of 8 commands whose start took 8 to 297 s, on
# machines more or less busy, 0.06 to 0.26 and 0.3 to 1.4 (median 0.6); of runs inside a command 0.15 to 0.9.
REPORT_SHARE, EXPLAIN_SHARE = 0.35, 0.8
# A schedule that is so far has a rate near its last; and how much slower than at first a step is believed.
AT_END, MOST_SLOWER = 0.98, 5.0


class Costs(NamedTuple):
    """Seconds of a step, of an evaluation between two with its checkpoint, and of all behind the last one."""

    step: float
    between: float
    end: float


class Sizes(NamedTuple):
    """How many steps an evaluation is due after, and examples by what they are for: of a step, and measured
    between steps, and once more at the end."""

    every: int
    step: int
    between: int
    end: int


class Budget:
    """The steps of one attempt: `num_steps` is its last one as far as is known.

    `deadline` is on the clock, and so is `began`, when the command did; at its end the predictions are
    explained, or not; `phases` are the run's seconds so far
    by phase. The course goes on from that of the state.
    """

    def __init__(
        self,
        state: State,
        sizes: Sizes,
        *,
        began: float,
        deadline: float,
        is_explained: bool,
        phases: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        found = course.of(state.opt_state)
        assert found is not None, "the rates of a run with a budget follow a course"
        self._start = int(state.step)
        self._position = float(course.place(state.opt_state, state.step, 1))
        self._slope = float(np.ravel(jax.device_get(found.course.slope))[0])
        self._number = int(state.step)
        self.num_steps = self._number + UNKNOWN_STEPS
        self._sizes, self._phases, self._clock, self._deadline = sizes, phases, clock, deadline
        self._end_share = REPORT_SHARE + EXPLAIN_SHARE * is_explained
        self._start_seconds = clock() - began - phases["features"]
        self._seen, self._last_seconds = dict(phases), {"evaluate": 0.0, "checkpoint": 0.0}
        self._timed: deque[tuple[float, int]] = deque()
        self._num_seen, self._span, self._first_step = 0, 1, 0.0
        self._planned_at, self._is_last = -math.inf, False

    def followed(self, number: int, state: State) -> State:
        """Return the state before the step after `number`, on the course that ends in time."""
        self._note(number)
        now = self._clock()
        if self._is_last or now - self._planned_at < EVERY_SECONDS:
            return state
        costs = self._costs()
        if costs is None:
            # No end is known but that of the time.
            self.num_steps = number if now >= self._deadline else number + UNKNOWN_STEPS
            return state
        more = steps_within(self._deadline - now - costs.end, number, costs, self._sizes.every)
        # Single steps behind whole spans would be another program to compile.
        more -= more % self._span if more > self._span else 0
        position = self._position_at(number)
        self._is_last = more < 1
        if self._is_last and self._position_at(number - 1) < AT_END:
            # The machine became slow: one more step ends the schedule.
            more = 1
        self.num_steps, self._planned_at = number + max(more, 0), now
        if more < 1:
            return state
        # The last step is as near the end as that of a run of so many steps.
        last = max(position, AT_END, 1 - 1 / self.num_steps)
        slope = (last - position) / max(more - 1, 1)
        self._start, self._position, self._slope = number, position if more > 1 else last, slope
        return state._replace(opt_state=course.changed(state.opt_state, self._position, slope))

    def has_time_to_explain(self) -> bool:
        """Return whether there is time left to explain predictions."""
        needed = EXPLAIN_SHARE * self._start_seconds * self._slower()
        return self._deadline - self._clock() >= needed

    def _position_at(self, number: int) -> float:
        """Return where in the schedule the step after `number` is."""
        return min(self._position + (number - self._start) * self._slope, 1.0)

    def _note(self, number: int) -> None:
        """Take what the phases have measured until now."""
        for phase in self._last_seconds:
            if grown := self._phases[phase] - self._seen[phase]:
                self._last_seconds[phase] = grown
        self._seen = dict(self._phases)
        self._span, self._number = max(self._span, number - self._number), number
        self._num_seen += 1
        if self._num_seen < UNTIMED:
            return
        self._timed.append((self._phases["step"] + self._phases["data_wait"], number))
        while len(self._timed) > 2 and self._timed[-1][0] - self._timed[1][0] > WINDOW_SECONDS:
            self._timed.popleft()
        if not self._first_step and len(self._timed) > 2:
            self._first_step = self._step_seconds()

    def _step_seconds(self) -> float:
        (began, first), (ended, last) = self._timed[0], self._timed[-1]
        return (ended - began) / (last - first)

    def _slower(self) -> float:
        """Return how many times as long a step takes as the first ones did."""
        if not self._first_step:
            return 1.0
        return min(max(self._step_seconds() / self._first_step, 1 / MOST_SLOWER), MOST_SLOWER)

    def _costs(self) -> Costs | None:
        """Return what things take as far as is known, None before there are steps to tell by."""
        if len(self._timed) < 2:
            return None
        step, sizes = self._step_seconds(), self._sizes
        measured, saved = self._last_seconds["evaluate"], self._last_seconds["checkpoint"]
        # What was not measured yet is thought to take as long as training on as many examples.
        evaluation = measured or step * sizes.between / sizes.step + self._phases["compile"] / 2
        an_example = evaluation / sizes.between if sizes.between else step / sizes.step
        whole = an_example * sizes.end
        report = self._end_share * self._start_seconds * self._slower()
        return Costs(step, evaluation + saved, evaluation + 2 * saved + whole + report)


def steps_within(seconds: float, number: int, costs: Costs, every: int) -> int:
    """Return how many steps after `number` fit, with the evaluations that are due between them.

    The evaluation behind the last step is no cost between steps.

    >>> steps_within(10.0, 0, Costs(step=1.0, between=2.0, end=0.0), every=4)
    8
    >>> steps_within(10.0, 3, Costs(step=1.0, between=2.0, end=0.0), every=100)
    10
    """

    def needed(more: int) -> float:
        between = (number + more - 1) // every - number // every
        return more * costs.step + between * costs.between

    # The seconds grow with the steps, by jumps.
    fits, too_many = 0, int(max(seconds, 0.0) / costs.step) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if needed(middle) <= seconds else (fits, middle)
    return fits


def of_run(
    state: State,
    settings: Config,
    sizes: Sizes,
    folder: Path,
    *,
    phases: Mapping[str, float],
    began: float,
    is_explained: bool,
) -> Budget | None:
    """Return the budget of an attempt that begins with the state, None where a run has a length.

    What earlier attempts took is behind it: this one must not be noted in the folder yet.
    """
    if not settings.train.minutes:
        return None
    spent = goodput.summed(goodput.lines(folder / goodput.FILE_NAME))["wall_seconds"]
    deadline = began + MINUTE * settings.train.minutes - spent
    about = {"began": began, "deadline": deadline, "is_explained": is_explained, "phases": phases}
    return Budget(state, sizes, **about)


def check(settings: Config, built: Built) -> None:
    """Check that a run can do without knowing its number of steps.

    Raises:
        UserError: it cannot.
    """
    if not settings.train.minutes:
        return
    given = f"train.minutes is {settings.train.minutes:g}"
    if jax.process_count() > 1:
        raise UserError(f"{given} and {jax.process_count()} processes train; expected train.epochs or steps")
    if settings.baseline:
        raise UserError(f"{given} and baseline true, which is a second run; expected one of the two")
    if settings.optim.swa_start:
        raise UserError(
            f"{given} and optim.swa_start {settings.optim.swa_start:g}, which is at a step; set one to 0"
        )
    if any(group.start_step or group.ramp_steps for group in built.parts.groups.values()):
        raise UserError(
            f"{given} and strategy {settings.strategy.name!r} lets layers begin to train at steps that must "
            f"be known before; expected train.epochs, or another strategy such as 'full'"
        )
