"""LoRA: frozen kernels with trainable low-rank updates beside them (Hu et al. 2022, eq. 3), and a new head.

The update runs on activations in training, so the gradient of a full kernel is never computed; for export it
is added to the kernel.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import Inputs
from jtl.models import Outputs
from jtl.models.layers import layer_of
from jtl.ranges import Count, Positive, check
from jtl.strategies.contract import EXTRA, FROZEN, Context, Group, Strategy, StrategyKind, without_extra

OWN = "lora"


@dataclass(frozen=True)
class Config:
    """Settings of LoRA.

    `targets` are regular expressions on the names of linear layers' kernels (`re.search`); each must match.
    The update of a kernel is `alpha / rank` times down · up, where up starts at zero. The head trains as
    itself.
    """

    name: str = "lora"
    targets: tuple[str, ...] = ("/(query|value)/kernel$",)
    rank: Count = 8
    alpha: Positive = 16.0

    def __post_init__(self) -> None:
        check(self, "strategy")
        if not self.targets:
            raise UserError("strategy.targets is (); expected at least one regular expression")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy for a model's linear layers.

    Raises:
        UserError: a target matches no linear layer's kernel.
    """
    head = len(context.layers) - 1

    def is_trained(name: str) -> bool:
        return name.startswith(f"{EXTRA}/") or layer_of(name, context.layers) == head

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: Group() if is_trained(name) else FROZEN for name in names}

    return Strategy(
        groups=groups,
        extra=partial(_adapters, config, context),
        forward=partial(_forward, config),
        merged=partial(_merged, config),
    )


def _adapters(
    config: Config, context: Context, key: Key[Array, ""], params: Any, model_state: Any
) -> dict[str, Any]:
    """Return `down` (variance 1 / its inputs) and `up` (zero) for every kernel the targets match."""
    del params, model_state
    head = len(context.layers) - 1
    linear = {
        name: shapes for name, shapes in context.linear().items() if layer_of(name, context.layers) < head
    }
    matches = tree.first_match(config.targets, linear, "strategy.targets")
    chosen = [name for name, target in matches.items() if target is not None]
    full = max(min(math.prod(side) for side in linear[name]) for name in chosen)
    if config.rank > full:
        raise UserError(
            f"strategy.rank is {config.rank}; expected at most {full}, the full rank of the largest kernel "
            f"that strategy.targets match"
        )
    adapters: dict[str, Any] = {}
    for index, name in enumerate(chosen):
        inputs, outputs = linear[name]
        scale = 1 / math.sqrt(math.prod(inputs))
        down = scale * jax.random.normal(jax.random.fold_in(key, index), (*inputs, config.rank))
        adapters[f"{OWN}/{name}/down"] = np.asarray(down)
        adapters[f"{OWN}/{name}/up"] = np.zeros((config.rank, *outputs), np.float32)
    return tree.unflatten(adapters)


def _forward(
    config: Config,
    apply: Callable[..., Outputs],
    params: Any,
    inputs: Inputs,
    *,
    train: bool,
    key: Any,
    **hooks: Any,
) -> Outputs:
    updates = {name: (down * _scale(config), up) for name, (down, up) in _pairs(params).items()}
    return apply(without_extra(params), inputs, train=train, key=key, updates=updates, **hooks)


def _merged(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own parameters with the updates added to their kernels."""
    own = tree.flatten(without_extra(params))
    for name, (down, up) in _pairs(params).items():
        own[name] = own[name] + _scale(config) * jnp.tensordot(down, up, 1)
    return tree.unflatten(own)


def _pairs(params: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat = tree.flatten(params[EXTRA][OWN])
    names = [name.removesuffix("/down") for name in flat if name.endswith("/down")]
    return {name: (flat[f"{name}/down"], flat[f"{name}/up"]) for name in names}


def _scale(config: Config) -> float:
    return config.alpha / config.rank


KIND = StrategyKind(Config, build)
