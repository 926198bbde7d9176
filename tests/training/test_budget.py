"""A run that may take so many minutes ends in them, with a schedule that is at its end."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.report import curves
from jtl.report.summary import PHASES
from jtl.signals import StopRequest
from jtl.strategies.contract import Group
from jtl.training import budget, build, config, course, optim
from jtl.training import run as train
from jtl.training.state import State
from tests.training.test_train import TINY

pytestmark = pytest.mark.usefixtures("without_pictures")
START, EVALUATION, SAVE, REPORT = 8.0, 3.0, 0.5, 7.0
SIZES = budget.Sizes(every=7, step=32, between=150, end=300)
MINUTES = 3.0


class Machine:
    """What a run does to its clock: steps on a device that works behind the host, evaluations, saves."""

    def __init__(self, step_seconds: Callable[[float], float]) -> None:
        self.now, self.ready_at = START, START
        self.step_seconds = step_seconds
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.ends: list[float] = []

    def clock(self) -> float:
        return self.now

    @property
    def slower(self) -> float:
        return self.step_seconds(self.now) / self.step_seconds(0.0)

    def until(self, moment: float, phase: str) -> None:
        moment = max(moment, self.now)
        self.phases[phase] += moment - self.now
        self.now = moment

    def step(self) -> None:
        """Dispatch a step, and wait for the one two before it."""
        begins = max(self.ready_at, self.now)
        self.ready_at = begins + self.step_seconds(begins)
        self.ends.append(self.ready_at)
        if len(self.ends) > 2:
            self.until(self.ends[-3], "step")

    def measure(self) -> None:
        self.until(self.ready_at, "step")
        self.until(self.now + EVALUATION * self.slower, "evaluate")
        self.until(self.now + SAVE * self.slower, "checkpoint")


def _state() -> State:
    return State(jnp.zeros([], jnp.int32), {}, {}, {}, course.begun(), {})


def _driven(step_seconds: Callable[[float], float]) -> tuple[float, list[float]]:
    """Return when such a run ends, and the part of the schedule at which each of its steps was."""
    machine, state = Machine(step_seconds), _state()
    machine.until(machine.now + 4.0, "compile")
    found = budget.Budget(
        state,
        SIZES,
        began=0.0,
        deadline=60 * MINUTES,
        is_explained=True,
        phases=machine.phases,
        clock=machine.clock,
    )
    places, number = [], 0
    while number < found.num_steps:
        places.append(float(course.place(state.opt_state, state.step, 1)))
        machine.step()
        number += 1
        made = state.opt_state._replace(num_updates=jnp.int32(number))
        state = state._replace(opt_state=made)
        state = found.followed(number, state)
        if number == found.num_steps or number % SIZES.every == 0:
            machine.measure()
    # The best step, if it was not the last, is measured again with the other splits.
    machine.until(machine.now + (2 * EVALUATION + REPORT) * machine.slower, "evaluate")
    return machine.now, places


@pytest.mark.parametrize(
    "step_seconds",
    [
        pytest.param(lambda now: 0.2, id="fast"),
        pytest.param(lambda now: 3.0, id="slow"),
        pytest.param(lambda now: 0.5 if now < 90 else 1.5, id="slower"),
        pytest.param(lambda now: 2.0 if now < 90 else 0.5, id="faster"),
        pytest.param(lambda now: 0.5 * (1 + (now // 10) % 2), id="shared"),
    ],
)
def test_run_ends_in_its_minutes_with_a_finished_schedule(step_seconds: Callable[[float], float]) -> None:
    ended, places = _driven(step_seconds)
    assert abs(ended - 60 * MINUTES) <= 10
    assert np.all(np.diff(places) >= 0)
    rate = optim.schedule(optim.Config(learning_rate=1.0), 1000)
    assert float(rate(jnp.float32(1000 * places[-1]))) < 0.01


def test_machine_that_stands_still_leaves_one_step_at_the_end_of_the_schedule() -> None:
    _, places = _driven(lambda now: 1.0 if now < 40 else 140.0)
    assert places[-1] >= budget.AT_END
    assert places[-2] < 0.5


def test_earlier_attempts_count(tmp_path: Path) -> None:
    settings = config.from_dict({**TINY, "train": {"minutes": 3.0}})
    line = {"attempt": 1, "step": 4, "wall": 100.0, "seconds": {}}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(line) + "\n")
    phases = dict.fromkeys(PHASES, 0.0)
    found = budget.of_run(
        _state(), settings, SIZES, tmp_path, phases=phases, began=1000.0, is_explained=False
    )
    assert found is not None
    assert found._deadline == 1000.0 + 180.0 - 100.0


def test_course_is_followed_by_rates_and_set_without_another_program() -> None:
    settings, flat = optim.Config(), {"head/kernel": jnp.ones([2, 2])}
    schedule = optim.schedule(settings, 100)
    rates = optim._scale_by_rates(settings, {"head/kernel": Group()}, 100, has_course=True)
    state = jax.device_put(rates.init(flat), jax.devices()[0])
    update = jax.jit(rates.update)
    for position, slope in ((0.2, 0.01), (0.5, 0.02)):
        state = course.changed(state, position, slope)
        for number in range(3):
            moved, state = update(flat, state)
            expected = float(schedule(jnp.float32(100 * (position + number * slope))))
            np.testing.assert_allclose(moved["head/kernel"], -expected, rtol=1e-5)
    assert update._cache_size() == 1


def test_run_with_a_budget_records_its_course_and_ends_at_its_end(tmp_path: Path) -> None:
    settings = config.with_overrides(
        config.from_dict(TINY), [("train.steps", "0"), ("train.minutes", "0.0001"), ("train.eval_every", "0")]
    )
    result = train.run(settings, tmp_path / "run")
    series = curves.read(tmp_path / "run" / "metrics.jsonl")
    assert result["status"] == "finished"
    assert [step for step, _ in series["train/schedule"]] == list(range(1, result["steps"] + 1))
    assert "val/accuracy" in result["final"]


def test_stopped_run_goes_on_from_the_course_it_was_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.with_overrides(
        config.from_dict(TINY), [("train.steps", "0"), ("train.minutes", "5"), ("train.eval_every", "1000")]
    )
    stop = StopRequest()
    # A course that is set once, and then left alone.
    monkeypatch.setattr(budget.Budget, "followed", _set_at(4, 40, stop, at_end=8))
    assert train.run(settings, tmp_path / "run", stop)["status"] == "preempted"
    monkeypatch.setattr(budget.Budget, "followed", _set_at(-1, 0, StopRequest(), at_end=12))
    assert train.run(settings, tmp_path / "run", StopRequest())["steps"] == 12
    places = [value for _, value in curves.read(tmp_path / "run" / "metrics.jsonl")["train/schedule"]]
    np.testing.assert_allclose(places[4:], [each / 40 for each in range(8)], atol=1e-6)


def _set_at(number: int, steps: int, stop: StopRequest, at_end: int) -> Callable[..., State]:
    def followed(self: budget.Budget, at: int, state: State) -> State:
        self.num_steps = at_end if stop.number == 0 and number < 0 else 1000
        if at == at_end and number >= 0:
            stop.ask()
        if at != number:
            return state
        return state._replace(opt_state=course.changed(state.opt_state, 0.0, 1 / steps))

    return followed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.steps": "12"}, r"train.steps is 12 and train.minutes 3; expected one of them"),
        ({"strategy.name": "gradual"}, r"strategy 'gradual' lets layers begin to train at steps"),
        ({"optim.swa_start": "0.5"}, r"optim.swa_start 0.5, which is at a step; set one to 0"),
    ],
)
def test_what_must_know_its_number_of_steps_has_no_budget(changes: dict[str, str], message: str) -> None:
    overrides = [("train.steps", "0"), ("train.minutes", "3"), *changes.items()]
    with pytest.raises(UserError, match=message):
        _checked(overrides)


def _checked(overrides: list[tuple[str, str]]) -> None:
    settings = config.with_overrides(config.from_dict(TINY), overrides)
    splits = build.open_splits(settings)
    budget.check(settings, build.build(settings, build.label_stats(settings, splits["train"]), 12))


def test_run_that_is_given_up_ends_at_that_evaluation(tmp_path: Path) -> None:
    seen: list[int] = []

    def is_given_up(history: list[dict[str, float]]) -> bool:
        seen.append(len(history))
        return len(history) == 2

    settings = config.from_dict(TINY)
    for _ in range(2):  # and the same command makes no step more
        result = train.run(settings, tmp_path / "run", is_given_up=is_given_up)
        assert (result["status"], result["steps"]) == ("given_up", 8)
    assert seen == [1, 2, 2]
    assert not (tmp_path / "run" / "model.safetensors").exists()
