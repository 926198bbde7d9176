"""MDD: a second classifier looks for target examples it can disagree on (Zhang et al. 2019, eq. 27 to 30).

It agrees with the first on the source by a margin and disagrees on the target; features are learned on which
it cannot. In one step, by a reversed gradient.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jtl.ranges import NotNegative, Positive, Width, check
from jtl.strategies.contract import (
    EXTRA,
    OF_TARGET,
    TARGET,
    TRAIN,
    Context,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import adversarial, masked

OWN = "adversary"


@dataclass(frozen=True)
class Config:
    """Settings of MDD.

    `margin` is the paper's gamma, the weight of agreeing on the source. The strength of the reversed gradient
    (the paper's eta) rises from 0 to `max_lambda`, faster for larger `gamma`. The second classifier has ReLU
    layers of `hidden_widths` and trains at `multiplier` times the learning rate.
    """

    name: str = "mdd"
    margin: Positive = 2.0
    max_lambda: NotNegative = 0.03
    gamma: Positive = 10.0
    hidden_widths: tuple[Width, ...] = (256,)
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
        return {OWN: adversarial.draw_network(key, dims[0], config.hidden_widths, dims[1])}

    return Strategy(
        groups=adversarial.groups(config.multiplier),
        extra=extra,
        penalty=partial(_penalty, config, context.num_steps),
        streams=OF_TARGET,
    )


def agreement_loss(
    adversary: Float[Array, "batch classes"], logits: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Return minus the log of the adversary's probability of the classifier's class, for each example."""
    chosen = jnp.argmax(logits, axis=-1)
    return -jnp.take_along_axis(jax.nn.log_softmax(adversary), chosen[:, None], axis=-1)[:, 0]


def disagreement_loss(
    adversary: Float[Array, "batch classes"], logits: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Return minus the log of the adversary's probability of all but the classifier's class.

    The sum of the others' exponentials is taken itself: 1 - p of a p close to 1 has no digits left.
    """
    is_chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    others = jnp.where(is_chosen, -jnp.inf, adversary)
    return jax.nn.logsumexp(adversary, axis=-1) - jax.nn.logsumexp(others, axis=-1)


def _penalty(config: Config, num_steps: int, moment: Moment) -> Penalty:
    strength = adversarial.strength(moment.step, num_steps, config.max_lambda, config.gamma)
    means = []
    for name, loss in ((TRAIN, agreement_loss), (TARGET, disagreement_loss)):
        outputs = moment.outputs[name]
        features = adversarial.reversed_gradient(outputs.features, strength)
        found = loss(adversarial.apply_network(moment.params[EXTRA][OWN], features), outputs.logits)
        means.append(masked.mean(found, moment.batch[name]["mask"]))
    reported = {"agreement_loss": means[0], "disagreement_loss": means[1], "lambda": strength}
    return config.margin * means[0] + means[1], reported


KIND = StrategyKind(Config, build)
