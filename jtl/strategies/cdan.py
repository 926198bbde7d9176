"""CDAN: a discriminator of features and the classes they are taken for (Long et al. 2018, eq. 5 to 8).

It sees the outer product of features and probabilities, or beyond `MAX_JOINT` values a random projection of
it. As in the authors' code no gradient passes through the probabilities of the product. There a reversed one
passes through the entropies that weigh the examples; here none does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jtl.ranges import NotNegative, Positive, Width, check
from jtl.strategies.contract import (
    EXTRA,
    FROZEN,
    OF_TARGET,
    TARGET,
    TRAIN,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import adversarial, masked

OWN, PROJECTIONS = "discriminator", "projections"
MAX_JOINT = 4096


@dataclass(frozen=True)
class Config:
    """Settings of CDAN.

    Lambda rises from 0 to `max_lambda`, faster for larger `gamma`. With `has_entropy_weights` (CDAN+E) the
    examples that the classifier is sure of count more. Where features times classes are more than 4096, the
    discriminator sees `projected_dim` random products of both. It has ReLU layers of `hidden_widths` and
    trains at `multiplier` times the learning rate.
    """

    name: str = "cdan"
    max_lambda: NotNegative = 0.03
    gamma: Positive = 10.0
    has_entropy_weights: bool = True
    projected_dim: Width = 1024
    hidden_widths: tuple[Width, ...] = (256, 256)
    multiplier: Positive = 10.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy for the model's features and classes.

    Raises:
        UserError: the task has no classes.
    """
    check_classes(config.name, context)

    def extra(key: Key[Array, ""], params: Any, model_state: Any) -> dict[str, Any]:
        del params, model_state
        shapes = context.outputs()
        dims = (shapes.features.shape[-1], shapes.logits.shape[-1])
        is_projected = dims[0] * dims[1] > MAX_JOINT
        num_inputs = config.projected_dim if is_projected else dims[0] * dims[1]
        network = adversarial.draw_network(key, num_inputs, config.hidden_widths, 1)
        projections = draw_projections(key, dims, config.projected_dim) if is_projected else {}
        return {OWN: network} | ({PROJECTIONS: projections} if projections else {})

    def groups(names: Sequence[str]) -> dict[str, Group]:
        assigned = adversarial.groups(config.multiplier)(names)
        fixed = f"{EXTRA}/{PROJECTIONS}/"
        return {name: FROZEN if name.startswith(fixed) else group for name, group in assigned.items()}

    return Strategy(
        groups=groups,
        extra=extra,
        penalty=partial(_penalty, config, context.num_steps),
        streams=OF_TARGET,
    )


def draw_projections(key: Key[Array, ""], dims: tuple[int, int], projected_dim: int) -> dict[str, Any]:
    """Return a fixed matrix of normal numbers for features and one for classes."""
    random = np.random.default_rng([int(word) for word in np.asarray(jax.random.key_data(key))])
    return {
        name: random.standard_normal((dim, projected_dim), np.float32)
        for name, dim in zip(("features", "classes"), dims, strict=True)
    }


def joint(
    features: Float[Array, "batch dim"],
    probabilities: Float[Array, "batch classes"],
    projections: Mapping[str, Any],
) -> Float[Array, "batch joint"]:
    """Return all products of a feature and a probability, or as many random ones as the projections have."""
    if not projections:
        return (features[:, :, None] * probabilities[:, None, :]).reshape(features.shape[0], -1)
    projected = (features @ projections["features"]) * (probabilities @ projections["classes"])
    return projected / jnp.sqrt(projected.shape[-1])


def _penalty(config: Config, num_steps: int, moment: Moment) -> Penalty:
    strength = adversarial.strength(moment.step, num_steps, config.max_lambda, config.gamma)
    own, inputs, means = moment.params[EXTRA], {}, {}
    for name in (TRAIN, TARGET):
        features, logits = moment.outputs[name].features, jax.lax.stop_gradient(moment.outputs[name].logits)
        features = joint(features, jax.nn.softmax(logits), own.get(PROJECTIONS, {}))
        inputs[name] = adversarial.reversed_gradient(features, strength)
        weights = _certainty(logits) if config.has_entropy_weights else 1.0
        means[name] = partial(masked.mean, mask=moment.batch[name]["mask"], weights=weights)
    loss, reported = adversarial.domain_loss(own[OWN], means, inputs)
    return loss, {**reported, "lambda": strength}


def _certainty(logits: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    """Return how much each example counts: 1 + exp(-entropy) (Long et al. 2018, sec. 3.3)."""
    return 1.0 + jnp.exp(-adversarial.entropy(logits))


KIND = StrategyKind(Config, build)
