"""FixMatch: a strong view of an unlabelled example learns what the model is sure of on a weak one.

Sohn et al. 2020, eq. 4 and algorithm 1.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from jtl.ranges import Count, NotNegative, Share, check
from jtl.strategies.contract import Context, Group, Moment, Penalty, Strategy, StrategyKind, check_classes
from jtl.strategies.shared import unlabelled


@dataclass(frozen=True)
class Config:
    """Settings of FixMatch; the defaults are the paper's (table 4).

    There are `times` as many unlabelled examples in a batch as labelled ones. One counts where the
    probability of its likeliest class is `threshold` or more; their loss is added `weight` times.
    """

    name: str = "fix_match"
    times: Count = 7
    threshold: Share = 0.95
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        streams=unlabelled.two_views(config.times),
        shown=unlabelled.SHOWN,
    )


def _penalty(config: Config, moment: Moment) -> Penalty:
    weak, strong, mask = unlabelled.views(moment)
    is_used = jnp.max(weak, axis=-1) >= config.threshold
    return unlabelled.consistency(strong, jnp.argmax(weak, axis=-1), is_used, mask, config.weight)


KIND = StrategyKind(Config, build)
