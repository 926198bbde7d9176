"""The laws of DESIGN.md for strategies, as a class of tests; files divide the pairs they hold of."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.inputs import image, tokens
from jtl.models import MODELS
from jtl.training import optim, step
from tests import tiny

NUM_STEPS = 6
# All that is drawn anew at every step.
AUGMENTS = {
    "image": image.Augment(mixup_alpha=0.4, cutmix_alpha=1.0, erase_probability=0.5),
    "tokens": tokens.Augment(mask_tokens=0.3),
}


class Trained(NamedTuple):
    """A run of six steps: what it is made of, its state before and after, and what its steps reported."""

    parts: step.Parts
    trainer: tiny.Trainer
    batches: list[dict[str, Any]]
    before: Any
    after: Any
    reported: list[dict[str, float]]


def marked(pairs: list[tuple[str, str]], slow: list[tuple[str, str]]) -> list[Any]:
    """Return the pairs as parameters, those that are slow marked so."""
    assert set(slow) <= set(pairs), "what is slow is tested"
    return [pytest.param(pair, marks=[pytest.mark.slow] if pair in slow else []) for pair in pairs]


def train(model: str, strategy: str) -> Trained:
    """Train a tiny model with everything that is drawn anew at every step."""
    parts, params, model_state = tiny.make_parts(
        model,
        strategy,
        num_steps=NUM_STEPS,
        augment=AUGMENTS[MODELS[model].input],
        optimizer=optim.Config(learning_rate=1e-2, ema=0.9),
    )
    before = tiny.make_state(parts, params, model_state)
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(NUM_STEPS)]
    trainer = tiny.Trainer(parts)
    after, reported = trainer.train(before, batches)
    return Trained(parts, trainer, batches, before, after, reported)


class Laws:
    """What holds of every strategy; `pair` is (model, strategy), `trained` what came of training it."""

    def test_features_at_the_start_are_the_pretrained_models(self, pair: tuple[str, str]) -> None:
        parts, params, model_state = tiny.make_parts(*pair)
        inputs = tiny.inputs_of(parts.model, 2)
        plain = {name: leaf for name, leaf in params.items() if name != "extra"}
        expected = parts.model.apply(plain, model_state, inputs, train=False, key=None)
        found = step.forward_normalised(parts, params, model_state, inputs)
        np.testing.assert_array_equal(found.features, expected.features)

    def test_every_leaf_is_either_trainable_or_frozen(self, trained: Trained) -> None:
        trainable, frozen = tree.flatten(trained.before.trainable), tree.flatten(trained.before.frozen)
        assert not trainable.keys() & frozen.keys()
        assert trainable.keys() | frozen.keys() == trained.parts.groups.keys()
        assert trainable

    def test_frozen_leaves_keep_their_bits(self, trained: Trained) -> None:
        kept = _leaves(trained.after, "frozen")
        for name, leaf in _leaves(trained.before, "frozen").items():
            assert kept[name].tobytes() == leaf.tobytes(), name

    def test_every_trainable_leaf_moves(self, trained: Trained) -> None:
        before, moved = _leaves(trained.before, "trainable"), _leaves(trained.after, "trainable")
        still = [name for name, leaf in before.items() if np.array_equal(moved[name], leaf)]
        # A softmax does not see a shift of all its inputs: the bias of attention keys has no gradient.
        assert [name for name in still if not name.endswith("key/bias")] == []

    def test_optimizer_state_is_for_trainable_leaves_only(self, trained: Trained) -> None:
        num_trainable = tree.num_values(trained.before.trainable)
        num_state = sum(np.size(leaf) for leaf in jax.tree.leaves(trained.before.opt_state))
        assert 2 * num_trainable <= num_state <= 2 * num_trainable + 20

    def test_loss_and_gradient_norm_are_reported_and_finite(self, trained: Trained) -> None:
        for values in trained.reported:
            assert np.isfinite(values["loss"])
            assert values["grad_norm"] > 0

    @pytest.mark.parametrize("cut", [1, 4])
    def test_interrupted_and_continued_equals_uninterrupted(self, trained: Trained, cut: int) -> None:
        trainer, batches = trained.trainer, trained.batches
        first, _ = trainer.train(trained.before, batches[:cut])
        resumed, _ = trainer.train(jax.tree.map(np.array, first), batches[cut:])
        for one, other in zip(jax.tree.leaves(trained.after), jax.tree.leaves(resumed), strict=True):
            np.testing.assert_array_equal(one, other)


def _leaves(state: Any, name: str) -> dict[str, np.ndarray]:
    return {key: np.asarray(leaf) for key, leaf in tree.flatten(getattr(state, name)).items()}
