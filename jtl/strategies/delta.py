"""DELTA: the outputs of chosen layers are drawn to those of the model at the start (Li et al. 2019, eq. 4-6).

Every channel of a layer weighs the same, one over the mean square of what the layer gave at the start: the
paper's attention (eq. 6) disables one filter after another, and needs a forward pass of all training examples
for each. Holds a second copy of the model, and runs it forward once a step: parameters twice in memory and in
a checkpoint, about four thirds of the time of a plain step.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jtl import tree
from jtl.errors import UserError, nearest
from jtl.models.layers import layer_of
from jtl.ranges import NotNegative, check
from jtl.strategies.contract import (
    EXTRA,
    FROZEN,
    TRAIN,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    without_extra,
)

START = "start"
NUM_DEFAULT_LAYERS = 4


@dataclass(frozen=True)
class Config:
    """Settings of DELTA, added to the loss.

    `alpha` times the distance of the outputs of `layers`, a mean over them, from those at the start: the
    squared difference relative to the squares at the start, 0 where nothing moved and 1 for a layer that
    gives zero; and half of `beta` times the squared norm of the head, which has no start. Layers are named as
    for `model.features`; () takes the stages' outputs, or four blocks spread over the depth. Dropout and
    stochastic depth move outputs too: a `model.drop_path` of 0.1 alone is a distance of about 0.25. So does
    BatchNorm: the model that trains uses the batch's statistics, the copy its running ones (0.24 at the first
    step of a CIFAR ResNet-20).
    """

    name: str = "delta"
    alpha: NotNegative = 1.0
    beta: NotNegative = 0.01
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything and remembers the model at the start.

    Raises:
        UserError: `config.layers` names a layer the model has not.
    """
    head = len(context.layers) - 1
    known = context.outputs().intermediates
    for name in config.layers:
        if name not in known:
            raise UserError(
                f"strategy.layers names {name!r}, which is no layer; nearest: {nearest(name, known)}"
            )
    chosen = config.layers or spread(known)

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: FROZEN if name.startswith(f"{EXTRA}/") else Group() for name in names}

    def is_head(name: str) -> bool:
        return layer_of(name, context.layers) == head

    return Strategy(
        groups=groups, extra=_start, penalty=partial(_penalty, config, chosen, is_head), holds_start=True
    )


def spread(names: Iterable[str]) -> tuple[str, ...]:
    """Return the layers that end stages; without stages, four blocks at equal distances, the last with them.

    >>> spread(["embedding", "block0", "block1", "block2", "block10", "block3", "pre_head"])
    ('block0', 'block1', 'block2', 'block10')
    >>> spread(["root", "block1/unit1", "stage1", "stage2"])
    ('stage1', 'stage2')
    """
    names = list(names)
    stages = [name for name in names if re.fullmatch(r"stage\d+", name)]
    blocks = [name for name in names if re.fullmatch(r"block\d+", name)]
    found = sorted(stages or blocks, key=lambda name: int(re.sub(r"\D", "", name)))
    assert found, "every family has stages or blocks"
    count = len(found) if stages else min(NUM_DEFAULT_LAYERS, len(found))
    return tuple(found[len(found) * (index + 1) // count - 1] for index in range(count))


def distance(
    now: Float[Array, "batch ..."], start: Float[Array, "batch ..."], mask: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Return the squared difference of two outputs of a layer over the squares of the second, in float32."""
    weight = mask.astype(jnp.float32).reshape(-1, *(1,) * (now.ndim - 1))
    now, start = now.astype(jnp.float32), start.astype(jnp.float32)
    squares = jnp.sum(weight * jnp.square(start))
    return jnp.sum(weight * jnp.square(now - start)) / jnp.maximum(squares, jnp.finfo(jnp.float32).tiny)


def _start(key: Key[Array, ""], params: Mapping[str, Any], model_state: Any) -> dict[str, Any]:
    del key
    return {START: jax.tree.map(np.array, {"params": params, "model_state": model_state})}


def _penalty(
    config: Config, layers: tuple[str, ...], is_head: Callable[[str], bool], moment: Moment
) -> Penalty:
    start, examples = moment.params[EXTRA][START], moment.batch[TRAIN]
    # A model without running statistics leaves no branch for them.
    state = start.get("model_state", {})
    was = moment.forward(
        start["params"], examples["inputs"], key=None, train=False, model_state=state
    ).intermediates
    now = moment.outputs[TRAIN].intermediates
    apart = jnp.stack([distance(now[name], was[name], examples["mask"]) for name in layers])
    own = tree.flatten(without_extra(moment.params))
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for name, leaf in own.items() if is_head(name)]
    penalty = config.alpha * jnp.mean(apart) + 0.5 * config.beta * sum(squares, jnp.zeros([]))
    return penalty, {"layer_distance": jnp.mean(apart)}


KIND = StrategyKind(Config, build)
