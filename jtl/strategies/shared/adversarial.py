"""What adversarial adaptation shares: reversed gradients, their strength over a run, and small networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jtl.models import initial
from jtl.strategies.contract import EXTRA, TARGET, TRAIN, Group

RULES: initial.Rules = ((r"/kernel$", initial.xavier_uniform), (r"/bias$", initial.zeros))


@jax.custom_vjp
def reversed_gradient(x: Float[Array, "batch dim"], strength: Float[Array, ""]) -> Float[Array, "batch dim"]:
    """Return `x`; its gradient is minus `strength` times what arrives (Ganin et al. 2016, eq. 16 and 17)."""
    del strength
    return x


def _forward(x: Any, strength: Any) -> tuple[Any, Any]:
    return x, strength


def _backward(strength: Any, gradient: Any) -> tuple[Any, Any]:
    return -strength * gradient, jnp.zeros_like(strength)


reversed_gradient.defvjp(_forward, _backward)


def strength(step: Array, num_steps: int, max_lambda: float, gamma: float) -> Float[Array, ""]:
    """Return lambda at a step: `max_lambda` (2 / (1 + exp(-gamma p)) - 1), p the part of the run so far.

    Ganin et al. 2016, sec. 5.2.2, where gamma is 10: 0 at the first step, 0.99 of `max_lambda` at half of the
    run. The discriminator itself always trains at strength 1, as there.

    The papers' `max_lambda` is 1 (MDD: 0.1), by SGD. Under AdamW, and with a head that starts at zero, the
    reversed gradient of a ViT soon outweighs the task's and the target's classes become one: hence the
    strategies' smaller defaults, with a discriminator ten times as fast as the backbone. docs/results.md says
    how they were chosen.
    """
    part = step / num_steps
    return max_lambda * (2.0 / (1.0 + jnp.exp(-gamma * part)) - 1.0)


def groups(multiplier: float) -> Callable[[Sequence[str]], dict[str, Group]]:
    """Return the groups in which all trains, the adversary at `multiplier` times the learning rate."""

    def assigned(names: Sequence[str]) -> dict[str, Group]:
        own = Group(multiplier=multiplier)
        return {name: own if name.startswith(f"{EXTRA}/") else Group() for name in names}

    return assigned


def draw_network(
    key: Key[Array, ""], num_inputs: int, hidden_widths: Sequence[int], num_outputs: int
) -> dict[str, Any]:
    """Return the initial values of a network of ReLU layers: `hidden0/…`, `hidden1/…`, `out/…`."""
    names = [*(f"hidden{index}" for index in range(len(hidden_widths))), "out"]
    widths = [num_inputs, *hidden_widths, num_outputs]
    shapes = {
        name: {
            "kernel": jax.ShapeDtypeStruct((width, following), np.float32),
            "bias": jax.ShapeDtypeStruct((following,), np.float32),
        }
        for name, width, following in zip(names, widths, widths[1:], strict=False)
    }
    return initial.draw(key, shapes, RULES)


def apply_network(params: Mapping[str, Any], x: Float[Array, "batch dim"]) -> Float[Array, "batch outputs"]:
    """Return what a network of `draw_network` makes of each row."""
    for index in range(len(params) - 1):
        x = jax.nn.relu(_dense(params[f"hidden{index}"], x))
    return _dense(params["out"], x)


def entropy(logits: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    """Return the entropy of each row's softmax in nats."""
    logs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1)


def domain_loss(
    discriminator: Mapping[str, Any],
    means: Mapping[str, Callable[[Float[Array, " batch"]], Float[Array, ""]]],
    features: Mapping[str, Float[Array, "batch dim"]],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Return the discriminator's mean losses on both streams, added up, and its accuracy.

    Source is 0 and target 1 (Ganin et al. 2016, eq. 9); chance is a loss of 2 log 2 and half of the examples.
    `means` average each stream's examples.
    """
    on_source, on_target = (apply_network(discriminator, features[name])[:, 0] for name in (TRAIN, TARGET))
    loss = means[TRAIN](jax.nn.softplus(on_source)) + means[TARGET](jax.nn.softplus(-on_target))
    is_right = {TRAIN: on_source <= 0, TARGET: on_target > 0}
    shares = [means[name](each.astype(jnp.float32)) for name, each in is_right.items()]
    return loss, {"domain_loss": loss, "domain_accuracy": (shares[0] + shares[1]) / 2}


def _dense(layer: Mapping[str, Any], x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"].reshape(1, -1)
