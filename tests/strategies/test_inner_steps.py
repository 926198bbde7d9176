"""Tasks learnt by inner steps: against a loop of plain gradient descent, and what is told by them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.data.sampling import Visit
from jtl.errors import UserError
from jtl.strategies import STRATEGIES
from jtl.training import config, slices
from tests import tiny

BY_STEPS = ("maml", "anil", "reptile")


def _moment_batch(parts: Any, size: int = 8) -> dict[str, Any]:
    batch = tiny.make_batch(parts, size)["train"]
    return {"train": {**batch, "inputs": tiny.inputs_of(parts.model, size)}}


def _by_batch(parts: Any, model_state: Any, params: Any, inputs: Any) -> Any:
    return parts.model.apply(params, model_state, inputs, train=True).features


def _nats(features: Any, head: Any, labels: Any) -> Any:
    logits = features @ head["kernel"] + head["bias"][None]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


@partial(jax.jit, static_argnums=(0, 4))
def _step(features_of: Any, params: Any, head: Any, few: Any, rate: float) -> tuple[Any, Any]:
    """Return parameters and a task's head after one step of plain gradient descent."""
    gradients = jax.grad(lambda values: _nats(features_of(values[0], few), values[1], jnp.arange(2)))(
        (params, head)
    )
    return jax.tree.map(lambda leaf, grad: leaf - rate * grad, (params, head), gradients)


def _looped(features_of: Any, params: Any, few: Any, steps: int, rate: float) -> tuple[Any, Any]:
    """Return parameters and a task's head after so many; the model's own head has no gradient."""
    head = {"kernel": jnp.zeros((64, 2)), "bias": jnp.zeros(2)}
    for _ in range(steps):
        params, head = _step(features_of, params, head, few, rate)
    return params, head


def _penalty(strategy: str, params_of: Any = None, **fields: Any) -> Any:
    parts, params, model_state = tiny.make_parts("conv_net", strategy, **fields)
    batch = _moment_batch(parts)
    value, reported = tiny.penalty_of(parts, params, model_state, batch, train=True)
    return parts, params, model_state, batch["train"]["inputs"], value, reported


@pytest.mark.slow
def test_mamls_loss_is_that_of_the_others_after_the_inner_steps() -> None:
    parts, params, model_state, images, value, reported = _penalty("maml", inner_steps=2, inner_rate=0.3)
    features_of = partial(_by_batch, parts, model_state)
    expected, right = [], []
    for task in range(2):
        # Two tasks of two classes: one labelled example of each, and one to tell.
        few, others = images[4 * task : 4 * task + 4 : 2], images[4 * task + 1 : 4 * task + 4 : 2]
        found, head = _looped(features_of, params, few, 2, 0.3)
        features = features_of(found, others)
        expected.append(_nats(features, head, jnp.arange(2)))
        right.append((features @ head["kernel"] + head["bias"][None]).argmax(1) == jnp.arange(2))
    assert value == pytest.approx(np.mean(expected), rel=1e-4)
    assert reported["episode_accuracy"] == pytest.approx(np.mean(right))


def _gradient(strategy: str, **fields: Any) -> Any:
    """Return the gradient of a penalty by the parameters, what it is of, and the model's features."""
    parts, params, model_state = tiny.make_parts("conv_net", strategy, **fields)
    batch = _moment_batch(parts)

    def apply(params: Any, inputs: Any, *, model_state: Any = model_state, **options: Any) -> Any:
        return parts.model.apply(params, model_state, inputs, **options)

    forward = partial(parts.strategy.forward, apply, train=True)

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> Any:
        from jtl.strategies.contract import Moment

        outputs = {"train": forward(params, batch["train"]["inputs"], key=None)}
        key = jax.random.key(0)
        assert parts.strategy.penalty is not None
        return parts.strategy.penalty(Moment(forward, params, batch, outputs, jnp.zeros([], int), key))[0]

    return gradient(params), params, batch["train"]["inputs"], partial(_by_batch, parts, model_state)


def _two_tasks(images: Any) -> list[tuple[Any, Any]]:
    return [(images[start : start + 4 : 2], images[start + 1 : start + 4 : 2]) for start in (0, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [False, True])
def test_mamls_gradient_goes_through_the_inner_steps_or_past_them(first_order: bool) -> None:
    fields = {"inner_steps": 2, "inner_rate": 0.5, "first_order": first_order}
    found, params, images, features_of = _gradient("maml", **fields)

    def loss_at(after: Any, head: Any, others: Any) -> Any:
        return _nats(features_of(after, others), head, jnp.arange(2))

    def loss(params: Any, few: Any, others: Any) -> Any:
        return loss_at(*_looped(features_of, params, few, 2, 0.5), others)

    expected = []
    for few, others in _two_tasks(images):
        if first_order:
            expected.append(jax.grad(loss_at)(*_looped(features_of, params, few, 2, 0.5), others))
        else:
            expected.append(jax.jit(jax.grad(loss))(params, few, others))
    mean = jax.tree.map(lambda one, other: (one + other) / 2, *expected)
    for name, leaf in tree.flatten(found).items():
        scale = float(np.abs(tree.flatten(mean)[name]).max())
        np.testing.assert_allclose(leaf, tree.flatten(mean)[name], rtol=1e-3, atol=1e-3 * scale + 1e-7)


@pytest.mark.slow
def test_reptiles_gradient_is_the_way_back_over_rate_and_steps() -> None:
    found, params, images, features_of = _gradient("reptile", inner_steps=2, inner_rate=0.5)
    ends = []
    for few, others in _two_tasks(images):
        below, head = params, {"kernel": jnp.zeros((64, 2)), "bias": jnp.zeros(2)}
        # Each inner step sees the next example of a class.
        for seen in (few, others):
            below, head = _step(features_of, below, head, seen, 0.5)
        ends.append(below)
    for name, leaf in tree.flatten(found).items():
        mean = (tree.flatten(ends[0])[name] + tree.flatten(ends[1])[name]) / 2
        expected = np.asarray(tree.flatten(params)[name] - mean)
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max() + 1e-6)
    assert np.any(found["block1"]["conv"]["kernel"])


def test_anil_moves_the_head_alone_and_costs_one_forward_pass() -> None:
    flops = {}
    for strategy in ("full", "anil"):
        parts, params, model_state = tiny.make_parts("conv_net", strategy)
        compiled = tiny.compiled(parts, tiny.make_batch(parts, size=8), params, model_state)
        flops[strategy] = compiled.cost_analysis()["flops"]
    assert flops["anil"] < 1.1 * flops["full"]


@pytest.mark.parametrize(
    "strategy", ["anil", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maml", "reptile"))]
)
def test_new_classes_are_told_by_what_was_learnt_of_a_few(strategy: str) -> None:
    # A head alone, on features that nothing has trained, takes larger steps.
    rate = {"inner_rate": 2.0} if strategy == "anil" else {}
    parts, params, model_state = tiny.make_parts("conv_net", strategy, inner_steps=8, **rate)
    few = 0.1 * tiny.inputs_of(parts.model, 6) + np.repeat([-1.0, 0.0, 1.0], 2)[:, None, None, None]

    def apply(params: Any, inputs: Any, *, by_batch: bool) -> Any:
        state = parts.model.moments(params, model_state, inputs, jnp.ones(len(inputs), bool))
        return parts.model.apply(params, state if by_batch else model_state, inputs)

    told = parts.strategy.told
    assert told is not None
    # Three classes, where the tasks of training have two.
    logits = jax.jit(partial(told, apply, ways=3))(params, few, few)
    assert logits.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("strategy", BY_STEPS)
def test_settings_that_make_no_tasks_are_one_line(strategy: str) -> None:
    kind = STRATEGIES[strategy]
    parts, params, model_state = tiny.make_parts("conv_net")
    context = tiny.make_context(parts.model, params, model_state, 1)
    for episode, fields, message in (
        (None, {}, "train.sampling tells nothing; set train.sampling=episodic:6x5"),
        (Visit(2, 5), {"shots": 2}, "strategy.shots is 2 and train.sampling draws 2 examples of a class"),
    ):
        with pytest.raises(UserError, match=message):
            kind.build(kind.Config(**fields), context._replace(episode=episode))
    with pytest.raises(UserError, match="needs probabilities of classes"):
        kind.build(kind.Config(), context._replace(label_kind="regression"))


def test_leaves_that_the_inner_steps_should_move_and_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match=r"strategy.adapts 'blok3' matches no parameter; nearest: 'block3"):
        tiny.make_parts("conv_net", "maml", adapts=("blok3",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.batch_size": "12"}, "train.batch_size is 12, and a task of strategy 'maml' has 8 images"),
        ({"optim.accumulate": "2"}, "optim.accumulate is 2, and strategy 'maml' reads whole tasks"),
    ],
)
def test_batches_of_parts_of_tasks_are_refused(settings: dict[str, str], message: str) -> None:
    parts, *_ = tiny.make_parts("conv_net", "maml")
    parts = parts._replace(strategy=parts.strategy._replace(task_size=8))
    own = {"strategy.name": "maml", "train.sampling": "episodic:4x2", "train.batch_size": "16", **settings}
    with pytest.raises(UserError, match=message):
        slices.check(config.read("configs/smoke.py", list(own.items())), parts)
