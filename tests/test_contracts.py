"""The laws of DESIGN.md for every strategy, on every family of models, and for every task."""

from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.inputs.image import Augment
from jtl.models import MODELS
from jtl.strategies import STRATEGIES
from jtl.strategies.contract import TRAIN
from jtl.training import optim, step
from jtl.training import state as states
from tests import tiny

NUM_STEPS = 6
# Every strategy on one family, every family with one strategy, and batch statistics with frozen parts:
# all pairs would compile for ten minutes.
PAIRS = [("vit", name) for name in STRATEGIES] + [(name, "full") for name in MODELS if name != "vit"]
PAIRS += [("resnet", "probe"), ("resnet", "gradual")]
TASKS_AND_MODELS = [("vit", task) for task in tiny.LABELS] + [
    (name, "multiclass") for name in MODELS if name != "vit"
]


def _leaves(state: Any, name: str) -> dict[str, np.ndarray]:
    return {key: np.asarray(leaf) for key, leaf in tree.flatten(getattr(state, name)).items()}


@pytest.fixture(params=PAIRS, ids="-".join, scope="module")
def trained(request: pytest.FixtureRequest) -> tuple[step.Parts, Any, Any, list[dict[str, float]]]:
    """Parts, the state before, the state after six steps, and what the steps reported."""
    model, strategy = request.param
    parts, params, model_state = tiny.make_parts(model, strategy, num_steps=NUM_STEPS)
    before = tiny.make_state(parts, params, model_state)
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(NUM_STEPS)]
    after, reported = tiny.Trainer(parts).train(before, batches)
    return parts, before, after, reported


@pytest.mark.parametrize(("model", "strategy"), PAIRS)
def test_features_at_the_start_are_the_pretrained_models(model: str, strategy: str) -> None:
    parts, params, model_state = tiny.make_parts(model, strategy)
    inputs = tiny.normalised(parts, size=2)
    plain = {name: leaf for name, leaf in params.items() if name != "extra"}
    expected = parts.model.apply(plain, model_state, inputs, train=False, key=None)
    found = step.forward_normalised(parts, params, model_state, inputs)
    np.testing.assert_array_equal(found.features, expected.features)


def test_every_leaf_is_either_trainable_or_frozen(trained: tuple) -> None:
    parts, before, _, _ = trained
    trainable, frozen = tree.flatten(before.trainable), tree.flatten(before.frozen)
    assert not trainable.keys() & frozen.keys()
    assert trainable.keys() | frozen.keys() == parts.groups.keys()
    assert trainable


def test_frozen_leaves_keep_their_bits(trained: tuple) -> None:
    _, before, after, _ = trained
    kept = _leaves(after, "frozen")
    for name, leaf in _leaves(before, "frozen").items():
        assert kept[name].tobytes() == leaf.tobytes(), name


def test_every_trainable_leaf_moves(trained: tuple) -> None:
    _, before, after, _ = trained
    moved = _leaves(after, "trainable")
    still = [name for name, leaf in _leaves(before, "trainable").items() if np.array_equal(moved[name], leaf)]
    # A softmax does not see a shift of all its inputs: the bias of attention keys has no gradient.
    assert [name for name in still if not name.endswith("key/bias")] == []


def test_optimizer_state_is_for_trainable_leaves_only(trained: tuple) -> None:
    _, before, _, _ = trained
    num_trainable = tree.num_values(before.trainable)
    num_state = sum(np.size(leaf) for leaf in jax.tree.leaves(before.opt_state))
    assert 2 * num_trainable <= num_state <= 2 * num_trainable + 20


def test_loss_and_gradient_norm_are_reported_and_finite(trained: tuple) -> None:
    _, _, _, reported = trained
    for values in reported:
        assert np.isfinite(values["loss"])
        assert values["grad_norm"] > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interrupted_and_continued_equals_uninterrupted(strategy: str) -> None:
    augment = Augment(mixup_alpha=0.4, cutmix_alpha=1.0, erase_probability=0.5)
    config = optim.Config(learning_rate=1e-2, ema=0.9)
    parts, params, model_state = tiny.make_parts(
        "vit", strategy, num_steps=NUM_STEPS, augment=augment, optimizer=config
    )
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(NUM_STEPS)]
    start = tiny.make_state(parts, params, model_state)
    trainer = tiny.Trainer(parts)
    whole, _ = trainer.train(start, batches)
    for cut in (1, 4):
        first, _ = trainer.train(start, batches[:cut])
        resumed, _ = trainer.train(jax.tree.map(np.array, first), batches[cut:])
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("model", "task"), TASKS_AND_MODELS)
def test_every_task_trains_on_every_model(model: str, task: str) -> None:
    parts, params, model_state = tiny.make_parts(model, task=task, num_steps=30)
    state = tiny.make_state(parts, params, model_state)
    _, reported = tiny.Trainer(parts).train(state, [tiny.make_batch(parts, task=task)] * 30)
    assert reported[-1]["loss"] < 0.7 * reported[0]["loss"]


@pytest.mark.parametrize("task", tiny.LABELS)
def test_evaluation_counts_masked_examples_only(task: str) -> None:
    parts, params, model_state = tiny.make_parts(task=task)
    state = tiny.make_state(parts, params, model_state)
    batch = tiny.make_batch(parts, task=task)[TRAIN]
    sums = step.make_eval_step(parts)(state, {**batch, "mask": np.arange(8) < 5})
    assert int(sums["count"]) == 5
    # Donation is for training alone: the state can still be read.
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states.params_for_evaluation(state)))
