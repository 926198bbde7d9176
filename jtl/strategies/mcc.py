"""MCC: classes that the classifier confuses on the target are pulled apart (Jin et al. 2020, eq. 2 to 7).

No discriminator and no second network: a loss on the target's logits alone.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.ranges import NotNegative, Positive, check
from jtl.strategies.contract import (
    OF_TARGET,
    TARGET,
    Compared,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import adversarial


@dataclass(frozen=True)
class Config:
    """Settings of MCC: `weight` times the confusion of probabilities at `temperature`."""

    name: str = "mcc"
    weight: NotNegative = 1.0
    temperature: Positive = 2.5

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has no classes.
    """
    check_classes(config.name, context)
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        streams=OF_TARGET,
        compares=Compared(),
    )


def confusion(
    logits: Float[Array, "batch classes"], mask: Bool[Array, " batch"], temperature: float
) -> Float[Array, ""]:
    """Return the mean over classes of how much each is confused with all others, between 0 and 1.

    Examples are weighted by 1 + exp(-entropy), which passes no gradient, as in the authors' code.
    """
    scaled = logits / temperature
    probabilities = jax.nn.softmax(scaled)
    certainty = 1.0 + jnp.exp(-adversarial.entropy(jax.lax.stop_gradient(scaled)))
    weights = mask.astype(jnp.float32) * certainty
    weights *= jnp.sum(mask) / jnp.maximum(jnp.sum(weights), 1.0)
    correlation = probabilities.T @ (weights[:, None] * probabilities)
    rows = jnp.maximum(jnp.sum(correlation, axis=1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    normalised = correlation / rows
    return (jnp.sum(normalised) - jnp.trace(normalised)) / logits.shape[-1]


def _penalty(config: Config, moment: Moment) -> Penalty:
    found = confusion(moment.outputs[TARGET].logits, moment.batch[TARGET]["mask"], config.temperature)
    return config.weight * found, {"class_confusion": found}


KIND = StrategyKind(Config, build)
