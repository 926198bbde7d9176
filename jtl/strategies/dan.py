"""DAN: source and target features with equal kernel means (MK-MMD; Long et al. 2015, eq. 1 to 4).

All pairs of a batch are compared (Gretton et al. 2012, eq. 3), not the linear-time sample of them: a batch is
small, and the estimate from all of its pairs varies less. tllib's default is the linear-time sample, and its
kernels are added up, not averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.errors import UserError, nearest, shown
from jtl.models import Outputs
from jtl.ranges import NotNegative, Range, check
from jtl.strategies.contract import (
    OF_TARGET,
    TARGET,
    TRAIN,
    Compared,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_labels,
)

MIN_ROWS = 2
# Of 2: a bandwidth beyond has no float32.
Power = Annotated[int, Range(-60, 60)]


@dataclass(frozen=True)
class Config:
    """Settings of DAN: `weight` times the squared discrepancy, added up over `layers`.

    A kernel has one Gaussian for each of `bandwidth_powers`, of bandwidth 2 to that power times the batch's
    mean squared distance, all of equal weight. `is_unbiased` leaves out the pairs of an example with itself:
    the mean over batches is then right, and a single value can be below 0.
    """

    name: str = "dan"
    weight: NotNegative = 1.0
    layers: tuple[str, ...] = ("features", "logits")
    bandwidth_powers: tuple[Power, ...] = (-2, -1, 0, 1, 2)
    is_unbiased: bool = True

    def __post_init__(self) -> None:
        check(self, "strategy")
        if not self.layers or not self.bandwidth_powers:
            raise UserError(
                f"strategy.layers is {shown(self.layers)} and strategy.bandwidth_powers "
                f"{shown(self.bandwidth_powers)}; "
                f"expected at least one of each"
            )
        for name in self.layers:
            if name not in LAYERS:
                raise UserError(f"strategy.layers names {shown(name)}; expected of {nearest(name, LAYERS)}")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has no labels.
    """
    check_labels(config.name, context)
    least = MIN_ROWS if config.is_unbiased else 1
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        streams=OF_TARGET,
        compares=Compared(least, "set strategy.is_unbiased=false"),
    )


def squared_mmd(
    source: Float[Array, "source dim"],
    target: Float[Array, "target dim"],
    source_mask: Bool[Array, " source"],
    target_mask: Bool[Array, " target"],
    *,
    powers: tuple[int, ...],
    is_unbiased: bool,
) -> Float[Array, ""]:
    """Return the squared maximum mean discrepancy of the real examples under a mean of Gaussian kernels.

    Bandwidths follow the batch and have no gradient.

    Raises:
        UserError: the unbiased estimate has no pair of a stream with itself.
    """
    num_rows = min(len(source), len(target))
    if is_unbiased and num_rows < MIN_ROWS:
        raise UserError(
            f"strategy.is_unbiased compares different examples of a stream and found {num_rows} in a slice "
            f"(train.batch_size / optim.accumulate); expected {MIN_ROWS} or more: raise train.batch_size, "
            f"lower optim.accumulate, or set strategy.is_unbiased=false"
        )
    joint = jnp.concatenate([source, target]).astype(jnp.float32)
    of_source = jnp.concatenate([source_mask, jnp.zeros_like(target_mask)]).astype(jnp.float32)
    of_target = jnp.concatenate([jnp.zeros_like(source_mask), target_mask]).astype(jnp.float32)
    distances = _squared_distances(joint, of_source + of_target)
    is_other = 1.0 - jnp.eye(len(joint))
    is_pair = (of_source + of_target)[:, None] * (of_source + of_target)[None, :] * is_other
    mean = jax.lax.stop_gradient(_ratio(jnp.sum(distances * is_pair), jnp.sum(is_pair)))
    scales = [mean * 2.0**power + jnp.finfo(jnp.float32).eps for power in powers]
    kernel = sum((jnp.exp(-distances / scale) for scale in scales), jnp.zeros_like(distances)) / len(powers)

    def mean_kernel(rows: Array, columns: Array, counted: Array) -> Array:
        weights = rows[:, None] * columns[None, :] * counted
        return _ratio(jnp.sum(weights * kernel), jnp.sum(weights))

    within = is_other if is_unbiased else jnp.ones_like(is_other)
    same = mean_kernel(of_source, of_source, within) + mean_kernel(of_target, of_target, within)
    return same - 2.0 * mean_kernel(of_source, of_target, is_other)


def _squared_distances(x: Float[Array, "batch dim"], weights: Float[Array, " batch"]) -> Array:
    """Return all squared distances, from the Gram matrix of what is left once the mean is taken away.

    Distances do not see the mean; the norms that are subtracted here do, and would lose digits by it.
    """
    mean = _ratio(weights @ x, jnp.sum(weights))
    x = x - jax.lax.stop_gradient(mean)[None, :]
    norms = jnp.sum(jnp.square(x), axis=-1)
    return jnp.maximum(norms[:, None] + norms[None, :] - 2.0 * x @ x.T, 0.0)


def _ratio(total: Array, count: Array) -> Array:
    return total / jnp.maximum(count, 1.0)


def _penalty(config: Config, moment: Moment) -> Penalty:
    masks = [moment.batch[name]["mask"] for name in (TRAIN, TARGET)]
    found = {
        f"mmd_{layer}": squared_mmd(
            *(LAYERS[layer](moment.outputs[name]) for name in (TRAIN, TARGET)),
            *masks,
            powers=config.bandwidth_powers,
            is_unbiased=config.is_unbiased,
        )
        for layer in config.layers
    }
    return config.weight * sum(found.values(), jnp.zeros([])), found


LAYERS: dict[str, Callable[[Outputs], Array]] = {
    "features": lambda outputs: outputs.features,
    "logits": lambda outputs: outputs.logits,
}
KIND = StrategyKind(Config, build)
