"""L2-SP: every backbone parameter is drawn to where it started, not to zero (Li et al. 2018, eq. 4).

It takes the place of weight decay: set optim.weight_decay to 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jtl import tree
from jtl.models.layers import layer_of
from jtl.ranges import NotNegative, check
from jtl.strategies.contract import (
    EXTRA,
    FROZEN,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    without_extra,
)

START = "start"


@dataclass(frozen=True)
class Config:
    """Settings of L2-SP, added to the loss.

    Half of `alpha` times the squared distance of the backbone from its start, and half of `beta` times the
    squared norm of the head, which has none.
    """

    name: str = "l2_sp"
    alpha: NotNegative = 0.01
    beta: NotNegative = 0.01

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything and remembers where the backbone began."""
    head = len(context.layers) - 1

    def is_head(name: str) -> bool:
        return layer_of(name, context.layers) == head

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: FROZEN if name.startswith(f"{EXTRA}/") else Group() for name in names}

    def extra(key: Key[Array, ""], params: Mapping[str, Any], model_state: Any) -> dict[str, Any]:
        del key, model_state
        own = {f"{START}/{name}": leaf for name, leaf in tree.flatten(params).items() if not is_head(name)}
        return tree.unflatten({name: np.array(leaf) for name, leaf in own.items()})

    return Strategy(groups=groups, extra=extra, penalty=partial(_penalty, config, is_head), holds_start=True)


def _penalty(config: Config, is_head: Callable[[str], bool], moment: Moment) -> Penalty:
    own, start = tree.flatten(without_extra(moment.params)), tree.flatten(moment.params[EXTRA][START])
    distance = sum((_squared(own[name] - begun) for name, begun in start.items()), jnp.zeros([]))
    norm = sum((_squared(leaf) for name, leaf in own.items() if is_head(name)), jnp.zeros([]))
    penalty = 0.5 * config.alpha * distance + 0.5 * config.beta * norm
    return penalty, {"distance": jnp.sqrt(distance)}


def _squared(leaf: Array) -> Array:
    return jnp.sum(jnp.square(leaf.astype(jnp.float32)))


KIND = StrategyKind(Config, build)
