"""The laws of DESIGN.md for every task."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jtl import metrics
from jtl.inputs import tokens
from jtl.models import MODELS
from jtl.strategies.contract import TRAIN
from jtl.tasks import TASKS
from jtl.tasks.contract import NO_LABELS
from jtl.training import state as states
from jtl.training import step
from tests import laws, tiny

LABELS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "class": lambda random: random.integers(0, 8, 16),
    "multilabel": lambda random: random.integers(0, 2, (16, 8)).astype(np.float32),
    "regression": lambda random: random.normal(size=(16, 8)).astype(np.float32),
}
TASKS_AND_MODELS = [("vit", task) for task in tiny.LABELS] + [
    (name, "multiclass") for name in MODELS if name != "vit"
]
TASKS_AND_MODELS += [("bert", "regression"), ("bert", "masked_tokens")]
# Deep networks compile for long; their gradients have tests of their own.
SLOW = [(name, "multiclass") for name in ("resnet", "bit", "convnext", "mobilenet_v2")]


@pytest.mark.parametrize("pair", laws.marked(TASKS_AND_MODELS, SLOW), ids="-".join)
def test_every_task_trains_on_every_model(pair: tuple[str, str]) -> None:
    model, task = pair
    parts, params, model_state = tiny.make_parts(model, task=task, num_steps=30)
    state = tiny.make_state(parts, params, model_state)
    _, reported = tiny.Trainer(parts).train(state, [tiny.make_batch(parts, task=task)] * 30)
    assert reported[-1]["loss"] < 0.7 * reported[0]["loss"]


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_counts_masked_examples_only_and_is_the_same_again(task: str) -> None:
    model = "vit" if task in tiny.LABELS else "bert"
    parts, params, model_state = tiny.make_parts(model, task=task)
    state = tiny.make_state(parts, params, model_state)
    batch = tiny.make_batch(parts, task=task)[TRAIN]
    evaluate = step.make_eval_step(parts)
    sums = evaluate(state, {**batch, "mask": np.arange(8) < 5})
    assert int(sums["count"]) == 5
    # What a task leaves to chance is the same in every evaluation, whatever was trained in between.
    again = evaluate(state._replace(step=state.step + 7), {**batch, "mask": np.arange(8) < 5})
    jax.tree.map(np.testing.assert_array_equal, sums, again)
    # Donation is for training alone: the state can still be read.
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states.params_for_evaluation(state)))


@pytest.mark.parametrize("task", TASKS)
def test_every_number_of_the_summary_says_whether_more_is_better(task: str) -> None:
    kind, random = TASKS[task], np.random.default_rng(0)
    # More than five classes, so that there are places below the first five.
    names = tuple("abcdefgh")
    labels = LABELS.get(kind.label_kind, lambda _: np.zeros(16, np.int64))(random)
    preprocess = tokens.Preprocess(vocabulary=8, mask_id=1)
    built = kind.build(kind.Config(), kind.stats(labels, names), preprocess)
    ids = {"ids": random.integers(2, 8, (16, 5), np.int32), "mask": np.ones((16, 5), bool)}
    batch = {"inputs": ids, "label": labels, "mask": np.ones(16, bool), "id": np.arange(16)}
    num_places = (1,) if kind.label_kind == NO_LABELS else ()
    logits = random.normal(size=(16, *num_places, 8)).astype(np.float32)

    @jax.jit
    def measured(logits: Any, batch: Any) -> Any:
        targets = built.targets(batch, jax.random.key(0))
        return built.metrics(logits, {**batch, "target": targets})

    summary = built.summarize(metrics.merge(None, measured(logits, batch)))
    assert summary.scalars.keys() == kind.maximized.keys()
    assert kind.monitor in kind.maximized
    assert all(np.isfinite(value) for value in summary.scalars.values())
