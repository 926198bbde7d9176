"""Pseudo-labels: the class that the model finds likeliest is taken for an unlabelled example's (Lee 2013).

The loss of unlabelled examples counts for nothing at first and then more and more (eq. 15 and 16), as labels
are wrong where the model knows nothing yet.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jtl.errors import UserError
from jtl.ranges import Count, NotNegative, Share, check
from jtl.strategies.contract import (
    UNLABELLED,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    Stream,
    check_classes,
)
from jtl.strategies.shared import unlabelled

VIEW = unlabelled.WEAK


@dataclass(frozen=True)
class Config:
    """Settings of pseudo-labels.

    There are `times` as many unlabelled examples in a batch as labelled ones (8 in the paper: 256 and 32).
    Their loss is added `weight` times (3 in the paper), risen to that between the parts `rise` of the run
    (the paper has steps, whose number hangs on a run's length). An example counts where the probability of
    its class is `threshold` or more: in the paper all do.
    """

    name: str = "pseudo_label"
    times: Count = 8
    threshold: Share = 0.0
    weight: NotNegative = 3.0
    rise: tuple[Share, Share] = (0.1, 0.6)

    def __post_init__(self) -> None:
        check(self, "strategy")
        if self.rise[0] > self.rise[1]:
            raise UserError(f"strategy.rise is {self.rise}; expected the earlier part of the run first")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config, context.num_steps),
        streams={VIEW: Stream(UNLABELLED, config.times)},
        shown=unlabelled.SHOWN,
    )


def _penalty(config: Config, num_steps: int, moment: Moment) -> Penalty:
    logits = moment.outputs[VIEW].logits
    likeliest = jnp.max(jax.nn.softmax(jax.lax.stop_gradient(logits)), axis=-1)
    weight = config.weight * unlabelled.risen(moment.step, num_steps, config.rise)
    loss, told = unlabelled.consistency(
        logits,
        jnp.argmax(logits, axis=-1),
        likeliest >= config.threshold,
        moment.batch[VIEW]["mask"],
        weight,
    )
    return loss, {**told, "unlabelled_weight": weight}


KIND = StrategyKind(Config, build)
