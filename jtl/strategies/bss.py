"""Batch spectral shrinkage: a batch's weakest feature directions are weakened (Chen et al. 2019, eq. 4).

They are the ones that do not transfer.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.ranges import Count, NotNegative, check
from jtl.strategies.contract import TRAIN, Compared, Context, Group, Moment, Penalty, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of BSS: `weight` times the sum of the `num_singular` smallest squared singular values."""

    name: str = "bss"
    weight: NotNegative = 1e-3
    num_singular: Count = 1

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the model has fewer features than singular values are asked for.
    """
    width = context.outputs().features.shape[-1]
    if config.num_singular > width:
        raise UserError(
            f"strategy.num_singular is {config.num_singular}; the model has {width} features, and as many "
            f"singular values: lower it"
        )
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        compares=Compared(config.num_singular, "lower strategy.num_singular"),
    )


def smallest_squares(features: Float[Array, "batch dim"], count: int) -> Float[Array, ""]:
    """Return the sum of the `count` smallest squared singular values, from the smaller Gram matrix.

    Raises:
        UserError: there are not so many.
    """
    if count > min(features.shape):
        raise UserError(
            f"strategy.num_singular is {count}; features of {features.shape} have {min(features.shape)} "
            f"singular values: lower it, or raise train.batch_size"
        )
    x = features.astype(jnp.float32)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return jnp.sum(jnp.linalg.eigvalsh(gram)[:count])


def _penalty(config: Config, moment: Moment) -> Penalty:
    smallest = smallest_squares(moment.outputs[TRAIN].features, config.num_singular)
    return config.weight * smallest, {"smallest_squares": smallest}


KIND = StrategyKind(Config, build)
