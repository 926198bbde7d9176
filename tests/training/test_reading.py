"""How the loop reads its steps' numbers: together, exactly, and never later than a checkpoint."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jtl.report.writer import Writer
from jtl.tasks import TASKS
from jtl.training import loop, progress
from jtl.training.checkpoint_faults import Diverged
from jtl.training.ready import Run

NUM_STEPS = 100


class _Written(Writer):
    """In place of the writer and of the live line: what they are given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.shown: list[dict[str, Any]] = []

    def scalars(self, number: int, values: dict[str, float]) -> None:
        self.lines.append((number, values))

    def update(self, **values: Any) -> None:
        self.shown.append(values)


def _reader(written: Any, log_every: int, clock: Any = lambda: 0.0, history: Any = ()) -> loop._Reader:
    train = SimpleNamespace(log_every=log_every, batch_size=4)
    plan = SimpleNamespace(
        settings=SimpleNamespace(train=train),
        built=SimpleNamespace(
            parts=SimpleNamespace(
                num_steps=NUM_STEPS,
                input=SimpleNamespace(unit="images"),
                strategy=SimpleNamespace(shown=()),
            )
        ),
        monitor="accuracy",
        task_kind=TASKS["multiclass"],
    )
    feed: Any = SimpleNamespace(splits={"train": range(40)})
    phases = SimpleNamespace(data_wait_fraction=lambda: 0.0)
    reporter: Any = SimpleNamespace(live=written, phases=phases, mark=lambda number, every: None)
    ready = Run(plan, feed, SimpleNamespace(), reporter)  # type: ignore[arg-type]
    return loop._Reader(ready, written, list(history), _diverged, clock)


def _diverged(number: int, values: Any) -> None:
    raise Diverged(f"not finite at step {number}")


def _values(number: int) -> dict[str, Any]:
    return {"loss": jnp.float32(1 / number), "grad_norm": jnp.float32(number)}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps' numbers each fetch from the devices brought."""
    found, get = [], jax.device_get

    def counted(pending: Any) -> Any:
        found.append(len(pending))
        return get(pending)

    monkeypatch.setattr(jax, "device_get", counted)
    return found


@pytest.mark.parametrize(("log_every", "most"), [(1, 101), (10, 13), (1000, 4)])
def test_numbers_come_together_and_every_line_is_written(
    fetched: list[int], log_every: int, most: int
) -> None:
    written = _Written()
    reader = _reader(written, log_every)
    for number in range(1, NUM_STEPS + 1):
        reader.push(number, 1, _values(number))
    reader.flush()
    assert sum(fetched) == NUM_STEPS
    assert len(fetched) <= most
    logged = [number for number in range(1, NUM_STEPS + 1) if number % log_every == 0 or number == NUM_STEPS]
    expected = {
        number: {f"train/{name}": float(each) for name, each in _values(number).items()} for number in logged
    }
    assert dict(written.lines) == expected
    assert [number for number, _ in written.lines] == logged
    # The rate is taken from the distances of these.
    assert [each["step"] for each in written.shown] == list(range(1, NUM_STEPS + 1))


def test_loss_that_people_see_is_read_after_a_while_though_nothing_is_logged(fetched: list[int]) -> None:
    written, seconds = _Written(), iter(0.05 * index for index in range(10_000))
    reader = _reader(written, 1000, lambda: next(seconds))
    for number in range(1, 21):
        reader.push(number, 1, _values(number))
    assert len(fetched) > 3
    assert written.shown[-1]["loss"] < written.shown[0]["loss"]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_divergence_is_noticed_before_anything_is_saved_and_by_its_own_step(name: str) -> None:
    written = _Written()
    reader = _reader(written, 3)
    for number in range(1, 9):
        # The step after a fault begins from the same state: its numbers can be finite.
        values = _values(number) | ({name: jnp.float32("nan")} if number == 8 else {})
        reader.push(number, 1, values)
    reader.push(9, 1, _values(9))
    with pytest.raises(Diverged, match=r"not finite at step 8"):
        reader.flush()
    assert [number for number, _ in written.lines] == [3, 6]


def test_best_evaluation_is_sought_once_an_evaluation_not_once_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sought, best = [], progress.best

    def counted(*args: Any, **options: Any) -> Any:
        sought.append(args)
        return best(*args, **options)

    monkeypatch.setattr(progress, "best", counted)
    written = _Written()
    reader = _reader(written, 10, history=[{"step": 1, "accuracy": 0.5}])
    for number in range(2, 40):
        reader.push(number, 1, _values(number))
    reader.measured([{"step": 1, "accuracy": 0.5}, {"step": 39, "accuracy": 0.25}])
    reader.push(40, 1, _values(40))
    assert len(sought) == 2
    assert (written.shown[-1]["last"], written.shown[-1]["best"]) == (0.25, 0.5)
