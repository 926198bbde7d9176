"""The laws of DESIGN.md for every task."""

import jax
import numpy as np
import pytest

from jtl.models import MODELS
from jtl.strategies.contract import TRAIN
from jtl.tasks import TASKS
from jtl.training import state as states
from jtl.training import step
from tests import tiny

TASKS_AND_MODELS = [("vit", task) for task in tiny.LABELS] + [
    (name, "multiclass") for name in MODELS if name != "vit"
]
TASKS_AND_MODELS += [("bert", "regression"), ("bert", "masked_tokens")]


@pytest.mark.parametrize(("model", "task"), TASKS_AND_MODELS)
def test_every_task_trains_on_every_model(model: str, task: str) -> None:
    parts, params, model_state = tiny.make_parts(model, task=task, num_steps=30)
    state = tiny.make_state(parts, params, model_state)
    _, reported = tiny.Trainer(parts).train(state, [tiny.make_batch(parts, task=task)] * 30)
    assert reported[-1]["loss"] < 0.7 * reported[0]["loss"]


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_counts_masked_examples_only(task: str) -> None:
    model = "vit" if task in tiny.LABELS else "bert"
    parts, params, model_state = tiny.make_parts(model, task=task)
    state = tiny.make_state(parts, params, model_state)
    batch = tiny.make_batch(parts, task=task)[TRAIN]
    sums = step.make_eval_step(parts)(state, {**batch, "mask": np.arange(8) < 5})
    assert int(sums["count"]) == 5
    # Donation is for training alone: the state can still be read.
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states.params_for_evaluation(state)))
