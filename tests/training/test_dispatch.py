"""Several steps asked for at once: they are those asked for one by one, and stop where something is due."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.signals import StopRequest
from jtl.training import config, dispatch, flops, step
from jtl.training import run as train
from jtl.training.ready import Feed, Plan, Run
from jtl.training.state import State

TINY: dict[str, Any] = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits", "train_per_class": 5},
    "inputs": {"route": "device"},
    "train": {"steps": 11, "batch_size": 8, "checkpoint_every": 5, "eval_every": 10, "log_every": 3},
    "sharding": {"devices": 1},
}
STATE = State(jnp.zeros([], jnp.int32), {}, {}, {}, (), {})


def test_operations_are_those_of_products_and_convolutions_however_deep_they_stand() -> None:
    kernel = jnp.zeros((3, 3, 4, 8))

    @jax.jit
    def inner(x: Any) -> Any:
        return x @ jnp.zeros((5, 7))

    def whole(x: Any, images: Any) -> Any:
        x, _ = jax.lax.scan(lambda before, _: (inner(before)[:, :5], None), x, length=3)
        numbers = ("NHWC", "HWIO", "NHWC")
        _ = x @ x.T  # nothing is made of it
        return jnp.sin(x), jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
        )

    traced = jax.make_jaxpr(whole)(jnp.zeros((2, 5)), jnp.zeros((1, 6, 6, 8)))
    assert flops.counted(traced.jaxpr) == 3 * 2 * (2 * 5 * 7) + 2 * (6 * 6 * 8) * (3 * 3 * 4)


def test_a_program_of_several_steps_makes_each_on_its_own_batch() -> None:
    def one(state: State, batch: Any) -> tuple[State, Any]:
        return state._replace(step=state.step * 2 + batch["x"].sum()), {"loss": state.step}

    several = step.Several({"x": jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}, {"more": jnp.ones(2)})

    def made(batch: Any, lying: Any) -> Any:
        return {"x": batch["x"] + lying["more"]}

    run = step.make_several(one, made, None)
    state, values = run(State(jnp.float32(1.0), {}, {}, {}, (), {}), several)
    assert float(state.step) == ((1 * 2 + 5) * 2 + 9) * 2 + 13
    np.testing.assert_array_equal(values["loss"], [1, 7, 23])


def _fake(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dispatch.Dispatches:
    """Dispatches of a run of 23 steps whose batches are their numbers; each evaluation is 10 steps away."""

    def batches(ready: Any, start: int) -> Iterator[Any]:
        yield from ({"train": {"id": number}} for number in range(start, 100))

    monkeypatch.setattr(dispatch, "host_batches", batches)
    monkeypatch.setattr(dispatch, "placed", lambda ready, batch: batch["train"]["id"])
    monkeypatch.setattr(dispatch, "_together", lambda ready, found: [each["train"]["id"] for each in found])
    # It is asked of the training examples.
    monkeypatch.setattr(dispatch, "eval_every", lambda settings, count: 10)
    values: Any = {"train": {"eval_every": 10, "batch_size": 1, **settings}}
    parts: Any = SimpleNamespace(groups={}, num_steps=23)
    built: Any = SimpleNamespace(parts=parts)
    plan = Plan(config.from_dict(values), Path(), ANY, built, "")
    feed = Feed({"train": range(10)}, {}, None, {}, None, {"train": ANY})
    return dispatch.Dispatches(Run(plan, feed, ANY, ANY), StopRequest())


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19], 20, 21, 22]),
        (3, [[3, 4, 5, 6, 7], 8, 9, [10, 11, 12, 13, 14]]),
    ],
)
def test_no_span_reaches_over_what_is_due_and_what_is_left_comes_one_by_one(
    monkeypatch: pytest.MonkeyPatch, start: int, expected: list[Any]
) -> None:
    dispatches = _fake(monkeypatch, steps_per_dispatch=8)
    spans = list(islice(dispatches.spans(start, STATE), len(expected)))
    assert [each.batches for each in spans] == expected
    assert [each.num_steps for each in spans] == [
        len(each) if isinstance(each, list) else 1 for each in expected
    ]


def test_checkpoints_are_due_between_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatches = _fake(monkeypatch, steps_per_dispatch=8, checkpoint_every=4)
    sizes = [each.num_steps for each in islice(dispatches.spans(0, STATE), 6)]
    assert sizes == [4, 4, 1, 1, 1, 1]


def test_several_steps_of_examples_read_on_the_host_are_refused() -> None:
    feed: Any = Feed({}, {}, None, {}, None)
    expected = (
        r"train\.steps_per_dispatch is 8, and images are read on the host for every step; expected 0 or 1, "
        r"or inputs\.route=device, or frozen layers whose output is kept"
    )
    with pytest.raises(UserError, match=expected):
        dispatch.check(8, feed, "images", is_kept=False)
    dispatch.check(8, feed, "images", is_kept=True)
    dispatch.check(1, feed, "images", is_kept=False)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("way", ["device", "features"])
def test_steps_asked_for_at_once_end_in_the_bits_of_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    values = TINY if way == "device" else _of_features(TINY)
    found = {}
    for name, number in {"whole": 0, "single": 1}.items():
        settings = config.from_dict(values)
        settings = config.with_overrides(settings, [("train.steps_per_dispatch", str(number))])
        found[name] = train.run(settings, tmp_path / name)
        assert ("steps at once: 5 (a step takes" in capsys.readouterr().err) == (name == "whole")
    assert found["whole"]["digest"] == found["single"]["digest"]
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in found
    ]
    for report in (*lines[0], *lines[1]):
        report.pop("time")
    assert lines[0] == lines[1]
    steps = [each["step"] for each in lines[0] if "train/loss" in each]
    assert steps == [3, 6, 9, 11]


def _of_features(values: dict[str, Any]) -> dict[str, Any]:
    train = {**values["train"], "is_augmented": False}
    return {**values, "inputs": {}, "train": train, "strategy": {"name": "probe"}}
