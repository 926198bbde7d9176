"""IA3: learned factors on keys, values and hidden activations, and a new head (Liu et al. 2022, sec. 3.3).

Everything else is frozen. The factors start at 1, act on activations in training, so that the gradient of a
kernel is never computed, and are multiplied into kernels and biases for what is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jtl import tree
from jtl.errors import UserError
from jtl.models import Outputs, rescale
from jtl.models.layers import layer_of
from jtl.strategies.contract import EXTRA, FROZEN, Context, Group, Strategy, StrategyKind, without_extra

OWN = "ia3"


@dataclass(frozen=True)
class Config:
    """Settings of IA3.

    `outputs` and `inputs` are regular expressions on the names of linear layers' kernels (`re.search`), each
    of which must match: what these layers give, and what they are given, is scaled. By default keys and
    values, and the hidden activations that enter an MLP's last layer. A convolutional network's are named by
    you, such as outputs=("conv2/kernel$",), inputs=(); what a batch normalisation follows is scaled as it
    says only while that layer's statistics are frozen. The head trains as itself.
    """

    name: str = "ia3"
    outputs: tuple[str, ...] = ("/(key|value)/kernel$",)
    inputs: tuple[str, ...] = (r"/(MlpBlock_\d+/(Dense_1|down)|layer/\d+/output/dense)/kernel$",)

    def __post_init__(self) -> None:
        if not self.outputs and not self.inputs:
            raise UserError(
                "strategy.outputs and strategy.inputs are both empty; expected a regular expression in one"
            )


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy for a model's linear layers.

    Raises:
        UserError: an expression matches no linear layer's kernel.
    """
    head = len(context.layers) - 1

    def is_trained(name: str) -> bool:
        return name.startswith(f"{EXTRA}/") or layer_of(name, context.layers) == head

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: Group() if is_trained(name) else FROZEN for name in names}

    return Strategy(groups=groups, extra=partial(_ones, config, context), forward=_forward, merged=_merged)


def _ones(
    config: Config, context: Context, key: Key[Array, ""], params: Any, model_state: Any
) -> dict[str, Any]:
    """Return factors of 1 for every kernel the expressions match, by side."""
    del key, params, model_state
    head = len(context.layers) - 1
    linear = {
        name: shapes for name, shapes in context.linear().items() if layer_of(name, context.layers) < head
    }
    factors: dict[str, Any] = {}
    for side, patterns in enumerate((config.inputs, config.outputs)):
        setting = (rescale.INPUTS, rescale.OUTPUTS)[side]
        matches = tree.first_match(patterns, linear, f"strategy.{setting}")
        for name in (name for name, pattern in matches.items() if pattern is not None):
            factors[f"{OWN}/{name}/{setting}"] = np.ones(rescale.shape(linear[name][side]), np.float32)
    return tree.unflatten(factors)


def _forward(
    apply: Callable[..., Outputs], params: Any, inputs: Any, *, train: bool, key: Any, **hooks: Any
) -> Outputs:
    return apply(without_extra(params), inputs, train=train, key=key, scales=_scales(params), **hooks)


def _merged(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own parameters with the factors multiplied into kernels and biases."""
    own = tree.flatten(without_extra(params))
    for name, factors in _scales(params).items():
        bias_name = f"{name.removesuffix('kernel')}bias"
        own[name], bias = rescale.folded(own[name], own.get(bias_name), factors)
        if bias is not None:
            own[bias_name] = bias
    return tree.unflatten(own)


def _scales(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, values in tree.flatten(params[EXTRA][OWN]).items():
        name, _, side = path.rpartition("/")
        found.setdefault(name, {})[side] = values
    return found


KIND = StrategyKind(Config, build)
