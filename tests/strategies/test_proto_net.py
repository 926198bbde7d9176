"""Prototypical networks: the loss against a loop over queries, and a head that teaches nothing below."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.strategies import proto_net
from tests import tiny

# Class 1 has one real example, which is a prototype that nothing is told by but all compete with.
LABELS = np.asarray([0, 2, 0, 1, 2, 0, 2, 1])
MASK = np.asarray([True] * 7 + [False])


def _looped(features: np.ndarray, labels: np.ndarray, shots: int, temperature: float) -> tuple[float, float]:
    classes = sorted(set(labels.tolist()))
    members = {each: np.flatnonzero(labels == each) for each in classes}
    means = np.stack([np.float64(features)[members[each][:shots]].mean(axis=0) for each in classes])
    nats, right = [], []
    for place, each in enumerate(classes):
        for query in members[each][shots:]:
            logits = -np.sum((features[query] - means) ** 2, axis=1) / temperature
            nats.append(-log_softmax(logits)[place])
            right.append(logits.argmax() == place)
    return float(np.mean(nats)), float(np.mean(right))


@pytest.mark.parametrize(("shots", "temperature"), [(1, 1.0), (2, 4.0)])
def test_loss_is_that_of_each_query_against_the_means(shots: int, temperature: float) -> None:
    features = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    found = proto_net.episode_loss(
        jnp.asarray(features), jnp.asarray(LABELS), jnp.asarray(MASK), shots, temperature
    )
    expected = _looped(features[MASK], LABELS[MASK], shots, temperature)
    assert [float(each) for each in found] == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_queries_has_no_loss_and_no_gradient() -> None:
    labels, mask = jnp.arange(4), jnp.ones(4, bool)

    def loss(features: Any) -> Any:
        return proto_net.episode_loss(features, labels, mask, 1)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.ones((4, 3)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))


def test_the_head_learns_beside_and_sends_nothing_below() -> None:
    parts, params, model_state = tiny.make_parts("vit", "proto_net")
    images = jax.random.normal(jax.random.key(2), (4, *parts.preprocess.image_px, 3))

    def apply(params: Any, inputs: Any, **options: Any) -> Any:
        return parts.model.apply(params, model_state, inputs, **options)

    def logits(params: Any, train: bool) -> Any:
        return parts.strategy.forward(apply, params, images, train=train, key=None).logits

    found, plain = (jax.jit(logits, static_argnums=1)(params, train) for train in (True, False))
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    gradients = tree.flatten(jax.jit(jax.grad(lambda params: jnp.sum(logits(params, True) ** 2)))(params))
    assert {name.partition("/")[0] for name, leaf in gradients.items() if np.any(leaf)} == {"head"}


def test_the_head_beside_costs_no_second_forward_pass() -> None:
    flops = []
    for strategy in ("full", "proto_net"):
        parts, params, model_state = tiny.make_parts("vit", strategy)
        compiled = tiny.compiled(parts, tiny.make_batch(parts, size=16), params, model_state)
        flops.append(compiled.cost_analysis()["flops"])
    assert flops[1] < 1.1 * flops[0]


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = MODELS["vit"].Config(**{**vars(MODELS["vit"].tiny()), "head_widths": (8,)})
    with pytest.raises(UserError, match=r"a linear head beside them; set model\.head_widths=\(\)"):
        tiny.make_parts("vit", "proto_net", model_config=model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": 0}, r"strategy.shots is 0"),
        ({"temperature": 0.0}, r"strategy.temperature is 0.0; expected a positive number"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        proto_net.Config(**fields)
