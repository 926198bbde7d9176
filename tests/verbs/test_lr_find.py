"""`jtl lr-find`: which rate a sweep speaks for, and a sweep of the run's own step that compiles once."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.training import step
from jtl.verbs.lr_find import lr_find, sweep
from jtl.verbs.subject import Subject

CONFIG = "configs/vit_ft.py"
TINY = [
    ("train.batch_size", "32"),
    ("sharding.devices", "1"),
    ("train.is_augmented", "false"),
    ("model.depth", "1"),
    ("model.weights", "none"),
    ("baseline", "false"),
]


def _sweep(loss_at: np.ndarray, low: float = 1e-6, high: float = 1.0) -> sweep.Sweep:
    rates = np.logspace(math.log10(low), math.log10(high), len(loss_at)).tolist()
    return sweep.Sweep(rates, loss_at.tolist(), is_cut=False)


def test_rate_is_where_the_loss_falls_the_fastest() -> None:
    places = np.linspace(-6, 0, 200)
    # The steepest place of the logistic curve is 1e-4; the average lags behind it by a few steps.
    found = sweep.suggested(_sweep(2.0 / (1 + np.exp(4 * (places + 4)))))
    assert 1e-4 <= found.learning_rate < 3e-4
    assert found.rule == "where the smoothed loss falls the fastest"


def test_rate_is_at_most_a_tenth_of_where_the_loss_is_least() -> None:
    places = np.linspace(-6, 0, 200)
    found = sweep.suggested(_sweep(np.where(places < -2, 2.0 - 0.01 * (places + 6) ** 3, 9.0)))
    assert found.learning_rate == pytest.approx(found.least / 10, rel=0.05)
    assert found.rule.startswith(f"a tenth of {found.least:.2g}, where the smoothed loss is least")


def test_loss_that_never_falls_is_refused() -> None:
    with pytest.raises(
        UserError, match="the loss falls at none of the rates from 1e-06 to 1; give a lower --low"
    ):
        sweep.suggested(_sweep(np.linspace(1.0, 2.0, 100)))


def test_moving_average_weighs_the_first_losses_as_if_it_had_begun_before() -> None:
    losses = [3.0, 1.0, 2.0]
    weights = [[1.0], [0.9, 1.0], [0.81, 0.9, 1.0]]
    expected = [np.average(losses[: len(each)], weights=each) for each in weights]
    np.testing.assert_allclose(sweep.smoothed(losses), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"low": 1.0, "high": 0.1},
            r"--low is 1 and --high 0.1; expected rates above 0, the lower one first",
        ),
        ({"steps": 3}, r"--steps is 3; expected 20 or more"),
    ],
)
def test_range_that_is_none_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lr_find.run(Subject(config=CONFIG), **given)  # type: ignore[arg-type]


def test_sweep_goes_through_the_rates_with_one_program_and_leaves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    really = step.make_train_step
    monkeypatch.setattr(step, "make_train_step", lambda *args: made.append(1) or really(*args))
    found = lr_find.run(
        Subject(config=CONFIG), low=1e-4, high=1e-1, steps=50, out=str(tmp_path / "lr"), overrides=TINY
    )
    np.testing.assert_allclose(found["rates"], np.logspace(-4, -1, 50)[: len(found["rates"])], rtol=1e-4)
    assert made == [1]
    kept = json.loads((tmp_path / "lr" / "lr-find.json").read_text())
    assert kept["learning_rate"] == found["learning_rate"]
    assert sorted(path.name for path in (tmp_path / "lr").iterdir()) == ["lr-find.json", "lr-find.png"]
    with Image.open(tmp_path / "lr" / "lr-find.png") as picture:
        assert picture.size[0] > 500
