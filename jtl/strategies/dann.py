"""DANN: features from which a discriminator cannot tell source from target (Ganin et al. 2016, eq. 13 to 15).

The discriminator minimises its loss, the backbone maximises lambda times it, in one step, by a gradient that
is reversed between them. Labels of the target are not used.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Array, Key

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
    check_labels,
)
from jtl.strategies.shared import adversarial, masked

OWN = "discriminator"


@dataclass(frozen=True)
class Config:
    """Settings of DANN.

    Lambda rises from 0 to `max_lambda`, faster for larger `gamma`. The discriminator has ReLU layers of
    `hidden_widths` and trains at `multiplier` times the learning rate.
    """

    name: str = "dann"
    max_lambda: NotNegative = 0.1
    gamma: Positive = 10.0
    hidden_widths: tuple[Width, ...] = (256, 256)
    multiplier: Positive = 10.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy for the model's features.

    Raises:
        UserError: the task has no labels.
    """
    check_labels(config.name, context)

    def extra(key: Key[Array, ""], params: Any, model_state: Any) -> dict[str, Any]:
        del params, model_state
        num_features = context.outputs().features.shape[-1]
        return {OWN: adversarial.draw_network(key, num_features, config.hidden_widths, 1)}

    return Strategy(
        groups=adversarial.groups(config.multiplier),
        extra=extra,
        penalty=partial(_penalty, config, context.num_steps),
        streams=OF_TARGET,
    )


def _penalty(config: Config, num_steps: int, moment: Moment) -> Penalty:
    strength = adversarial.strength(moment.step, num_steps, config.max_lambda, config.gamma)
    features, means = {}, {}
    for name in (TRAIN, TARGET):
        features[name] = adversarial.reversed_gradient(moment.outputs[name].features, strength)
        means[name] = partial(masked.mean, mask=moment.batch[name]["mask"])
    loss, reported = adversarial.domain_loss(moment.params[EXTRA][OWN], means, features)
    return loss, {**reported, "lambda": strength}


KIND = StrategyKind(Config, build)
