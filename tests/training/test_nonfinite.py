"""Steps that are not finite: named by their examples, skipped as far as allowed, the same bits on resume."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import Info, pipeline
from jtl.errors import UserError
from jtl.inputs import image
from jtl.report import curves
from jtl.signals import StopRequest
from jtl.strategies.contract import TRAIN, Stream
from jtl.training import config, loop, nonfinite, optim, step
from jtl.training import run as train
from jtl.training.checkpoint_faults import Diverged
from jtl.training.ready import Run
from tests import tiny

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY: dict[str, Any] = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits", "train_per_class": 5},
    "train": {"steps": 11, "batch_size": 8, "checkpoint_every": 2, "eval_every": 11, "log_every": 3},
    "inputs": {"route": "device"},
    "sharding": {"devices": 1},
}
SAME = ("status", "steps", "digest", "best", "final", "skipped_steps")
NAN = {"loss": float("nan"), "grad_norm": float("inf")}
Poison = Callable[..., None]


class _Source:
    """Ten examples with names of their own."""

    info = Info("letters", ("a",))

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"raw": np.full((8, 8, 3), index, np.uint8), "label": 0, "id": index}

    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def describe(self, index: int) -> str:
        return f"{'abcdefghij'[index]}.png"

    def fingerprint(self, index: int) -> bytes:
        return bytes([index])


def _ready(folder: Path, most: int = 0, streams: tuple[str, ...] = ()) -> Any:
    """What of a run counts steps that are not finite; what it says goes to meta.json."""
    values = SimpleNamespace(batch_size=4, seed=3, sampling="uniform", skip_nonfinite=most)
    settings = SimpleNamespace(train=values, inputs=pipeline.Config(threads=1))
    parts = SimpleNamespace(strategy=SimpleNamespace(streams={name: Stream(name) for name in streams}))
    plan = SimpleNamespace(folder=folder, settings=settings, built=SimpleNamespace(parts=parts))
    feed = SimpleNamespace(streams=dict.fromkeys((TRAIN, *streams), _Source()))
    (folder / "meta.json").write_text("{}")
    reporter: Any = SimpleNamespace(live=SimpleNamespace(log=lambda text: None))
    return Run(plan, feed, SimpleNamespace(), reporter)  # type: ignore[arg-type]


def _notes(folder: Path) -> list[str]:
    return json.loads((folder / "meta.json").read_text())["notes"]


def _kept(folder: Path) -> list[int]:
    return [each["step"] for each in json.loads((folder / nonfinite.NAME).read_text())["steps"]]


@pytest.mark.parametrize("at", [1, 3, 6])
def test_named_examples_are_those_of_the_batch(tmp_path: Path, at: int) -> None:
    preprocess = image.Preprocess(image_px=(8, 8))
    source, transform = _Source(), image.INPUT.transform(preprocess, None)
    config_ = pipeline.Config(threads=1)
    batches = pipeline.train_batches(
        source, transform, image.INPUT, batch_size=4, seed=3, start_step=at - 1, config=config_
    )
    expected = [source.describe(row) for row in next(batches)["id"].tolist()]
    batches.close()
    found = nonfinite.examples_of(_ready(tmp_path, streams=("target",)), at)
    assert found[TRAIN] == expected
    # The stream of another domain has an order of its own.
    assert found["target"] != expected


def test_step_that_is_not_finite_ends_a_run_that_may_skip_none_and_names_its_examples(tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        nonfinite.Skips(_ready(tmp_path), 0).take(5, NAN)
    (entry,) = json.loads((tmp_path / nonfinite.NAME).read_text())["steps"]
    names = entry["examples"][TRAIN]
    assert len(names) == 4
    assert (entry["step"], entry["loss"], entry["grad_norm"]) == (5, "nan", "inf")
    first = ", ".join(repr(name) for name in names[:3])
    assert str(caught.value).startswith(
        f"the loss is nan and the gradient norm inf at step 5; expected finite numbers. Its examples: "
        f"{first} and 1 more, all in nonfinite.json. The checkpoints before it are kept"
    )


def test_so_many_steps_are_skipped_and_said_and_the_next_ends_the_run(tmp_path: Path) -> None:
    skips = nonfinite.Skips(_ready(tmp_path, most=2), 0)
    skips.take(3, NAN)
    skips.take(4, NAN)
    assert skips.steps == (3, 4)
    assert "at step 4: it is skipped, 2 of at most 2 (train.skip_nonfinite); its ex" in _notes(tmp_path)[1]
    with pytest.raises(Diverged, match=r"at step 9, after steps 3, 4 were skipped; expected finite numbers"):
        skips.take(9, NAN)


def test_run_that_goes_on_counts_what_was_skipped_before_its_checkpoint_alone(tmp_path: Path) -> None:
    skips = nonfinite.Skips(_ready(tmp_path, most=3), 0)
    for number in (3, 6, 7):
        skips.take(number, NAN)
    assert _kept(tmp_path) == [3, 6, 7]
    again = nonfinite.Skips(_ready(tmp_path, most=3), 6)
    assert again.steps == (3, 6)
    assert _kept(tmp_path) == [3, 6]
    assert _notes(tmp_path) == ["steps 3, 6 were skipped before: not finite, see nonfinite.json"]


def test_damaged_list_of_skipped_steps_is_one_line(tmp_path: Path) -> None:
    (tmp_path / nonfinite.NAME).write_text('{"steps": [{"step": "three"}]}')
    with pytest.raises(UserError, match=r"steps is .*; expected a list of objects with a step"):
        nonfinite.Skips(_ready(tmp_path), 5)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """What makes the inputs of steps, by their numbers from 1 on, not finite."""
    really = step._augmented

    def begin(*steps: int) -> None:
        def poisoned(parts: Any, batch: Any, at: Any) -> Any:
            found, bad = really(parts, batch, at), jnp.isin(at + 1, jnp.array(steps))
            inputs = jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), found[TRAIN]["inputs"])
            return {**found, TRAIN: {**found[TRAIN], "inputs": inputs}}

        monkeypatch.setattr(step, "_augmented", poisoned)

    return begin


def _run(folder: Path, stop: StopRequest | None = None, **changes: int) -> dict[str, Any]:
    overrides = [(f"train.{name}", str(value)) for name, value in changes.items()]
    return train.run(config.with_overrides(config.from_dict(TINY), overrides), folder, stop)


@pytest.mark.slow
def test_run_that_ended_goes_on_once_steps_may_be_skipped_as_if_they_had_always(
    tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may skip none, then it is stopped between two skipped steps; the other asks for two at once."""
    poison(3, 8)
    run, whole = tmp_path / "run", tmp_path / "whole"
    with pytest.raises(UserError, match=r"at step 3; expected finite numbers"):
        _run(run, steps_per_dispatch=1)
    stop, push = StopRequest(), loop._Reader.push

    def stopping(reader: Any, number: int, *given: Any) -> None:
        stop.ask() if number == 5 else None
        push(reader, number, *given)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Reader, "push", stopping)
        found = _run(run, stop, steps_per_dispatch=1, skip_nonfinite=1)
    assert (found["status"], found["skipped_steps"]) == ("preempted", [3])
    ended = _run(run, steps_per_dispatch=1, skip_nonfinite=2)
    expected = _run(whole, steps_per_dispatch=2, skip_nonfinite=2)
    assert expected["skipped_steps"] == [3, 8]
    assert {name: ended[name] for name in SAME} == {name: expected[name] for name in SAME}
    texts = [(folder / nonfinite.NAME).read_text() for folder in (run, whole)]
    assert texts[0] == texts[1]
    series = [curves.read(folder / "metrics.jsonl") for folder in (run, whole)]
    assert series[0] == series[1]


@pytest.mark.slow
def test_skipped_step_leaves_parameters_statistics_optimizer_and_averages_untouched(poison: Poison) -> None:
    """Of a network with statistics, trained against a second one on another domain, in two slices."""
    poison(2)
    optimizer = optim.Config(ema=0.9, accumulate=2)
    parts, params, model_state = tiny.make_parts("resnet", "dann", optimizer=optimizer)
    trainer, batch = tiny.Trainer(parts), tiny.make_batch(parts)
    first, _ = trainer.train(tiny.make_state(parts, params, model_state), [batch])
    second, reported = trainer.train(first, [batch])
    assert not np.isfinite(reported[0]["loss"])
    assert int(second.step) == 2
    same = jax.tree.map(np.array_equal, second._replace(step=first.step), first)
    assert all(jax.tree.leaves(same))
    third, reported = trainer.train(second, [batch])
    assert np.isfinite(reported[0]["loss"])
    # The rate that is told is that of the update, which is the second.
    rate = optim.schedule(parts.optim, parts.num_steps)(jnp.int32(1))
    assert reported[0]["learning_rate"] == pytest.approx(float(rate))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, third.trainable, second.trainable)))
