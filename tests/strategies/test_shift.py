"""What domain adaptation is for, on points: clouds of classes that move between training and use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.models import Outputs
from jtl.strategies import STRATEGIES
from jtl.strategies.contract import TARGET, TRAIN, Context, Moment, plain_forward


def _adapted_accuracy(strategy: str, fields: dict[str, float]) -> float:
    """Accuracy on a shifted copy of three clouds, of a map and a head trained on the clouds as they are.

    The shift is along one dimension that says nothing of the class and, by less, along one that does.
    """
    steps, dim, random = 150, 6, np.random.default_rng(0)
    shapes = (jax.ShapeDtypeStruct((1, size), np.float32) for size in (dim, 3))
    outputs = Outputs(*shapes, {}, {})
    context = Context(layers=(("map",), ("head",)), num_steps=steps, outputs=lambda: outputs)
    built = STRATEGIES[strategy].build(STRATEGIES[strategy].Config(**fields), context)
    extra = built.extra(jax.random.key(0), {}, {})
    params = {"map": jnp.eye(dim), "head": jnp.zeros((dim, 3)), "extra": extra}
    optimizer = optax.adam(1e-2)

    def draw(size: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 3, size)
        centres = 3 * np.eye(3, dim)[labels] + shift * np.array([0.8, 0, 0, 1, 0, 0])
        return (centres + 0.5 * random.normal(size=(size, dim))).astype(np.float32), labels

    def outputs_of(params: Any, images: Any) -> Outputs:
        features = jnp.tanh(images @ params["map"] / 2)
        return Outputs(features, features @ params["head"], {}, {})

    def loss(params: Any, source: Any, labels: Any, target: Any, at_step: Any) -> Any:
        found = {TRAIN: outputs_of(params, source), TARGET: outputs_of(params, target)}
        batch = {name: {"mask": jnp.ones(len(source), bool)} for name in found}
        nats = -jnp.mean(
            jnp.sum(jax.nn.one_hot(labels, 3) * jax.nn.log_softmax(found[TRAIN].logits), axis=-1)
        )
        if built.penalty is None:
            return nats
        moment = Moment(plain_forward, params, batch, found, at_step, jax.random.key(0))
        return nats + built.penalty(moment)[0]

    @jax.jit
    def update(params: Any, state: Any, *batch: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for at_step in range(steps):
        params, state = update(params, state, *draw(32, 0.0), draw(32, 3.0)[0], jnp.asarray(at_step))
    images, labels = draw(1000, 3.0)
    return float(np.mean(np.argmax(outputs_of(params, images).logits, axis=-1) == labels))


@pytest.mark.slow
def test_every_method_undoes_a_shift_that_the_source_alone_does_not_show() -> None:
    plain: dict[str, dict[str, float]] = {"full": {}, "mcc": {}, "dan": {}}
    fields = plain | {name: {"max_lambda": 0.1} for name in ("dann", "cdan", "mdd")}
    found = {name: _adapted_accuracy(name, each) for name, each in fields.items()}
    assert found.pop("full") < 0.95
    assert min(found.values()) > 0.98, found
