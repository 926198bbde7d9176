"""Probing: the backbone stays as pretrained, the head trains (linear, or an MLP of `model.head_widths`).

Several heads may train side by side, of which validation chooses (as Oquab et al. 2023, DINOv2, app. B.3), or
a linear head is solved for, in place of training it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from jtl.errors import UserError, nearest, shown
from jtl.models.head import TOKEN_POOLS
from jtl.models.layers import layer_of
from jtl.ranges import NotNegative, Positive, Range, ReadIf, check
from jtl.strategies.contract import FROZEN, Cell, Context, Group, Solver, Strategy, StrategyKind

SOLVERS = ("lbfgs",)
AXES = ("grid_learning_rates", "grid_weight_decays", "grid_layers", "grid_pools")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Config:
    """Settings of probing; the head's form is `model.head_widths` and `model.head_dropout`.

    Every combination of `grid_learning_rates`, `grid_weight_decays`, `grid_layers` (layers of
    `model.features` to read) and `grid_pools` (of `model.feature_pool` "cls_mean") is a head of its own; an
    axis without values is as `optim` and `model` have it. They train side by side, and the one that is best
    on validation becomes the run's. `solver` "lbfgs" solves for a linear head in place of training it: the
    task's loss, summed over the training examples, and half the squared kernel times one of `strengths`
    (1 / C of scikit-learn), the one with the least loss on examples held out in `folds` folds.
    """

    name: str = "probe"
    grid_learning_rates: tuple[Positive, ...] = ()
    grid_weight_decays: tuple[NotNegative, ...] = ()
    grid_layers: tuple[tuple[str, ...], ...] = ()
    grid_pools: tuple[str, ...] = ()
    solver: str = ""
    strengths: Annotated[tuple[Positive, ...], ReadIf("solver")] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3)
    folds: Annotated[int, Range(2, 100), ReadIf("solver")] = 5

    def __post_init__(self) -> None:
        check(self, "strategy")
        for name in AXES:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"strategy.{name} has a value twice: {shown(values)}; expected each once")
        for pool in self.grid_pools:
            if pool not in TOKEN_POOLS:
                raise UserError(
                    f"strategy.grid_pools names {shown(pool)}; expected of {nearest(pool, TOKEN_POOLS, 3)}"
                )
        if self.solver and self.solver not in SOLVERS:
            raise UserError(f"strategy.solver is {shown(self.solver)}; expected '' or {', '.join(SOLVERS)}")
        if self.solver and not self.strengths:
            raise UserError("strategy.strengths is (); expected one or more to choose from")
        if self.solver and any(getattr(self, name) for name in AXES):
            raise UserError("strategy.solver and strategy.grid_… are both set; expected one of them")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains the last layer, the head."""
    head = len(context.layers) - 1
    heads = _cells(config)
    asked = next((f"strategy.{name}" for name in AXES if getattr(config, name)), "")
    return Strategy(
        groups=lambda names: {
            name: Group() if layer_of(name, context.layers) == head else FROZEN for name in names
        },
        heads=heads,
        solver=Solver(config.strengths, config.folds) if config.solver else None,
        needs_features="strategy.solver is set" if config.solver else f"{asked} is set" if asked else "",
    )


def _cells(config: Config) -> tuple[Cell, ...]:
    """Return the heads of the grid, those of one weight decay one behind the other; () without a grid."""
    if not any(getattr(config, name) for name in AXES):
        return ()
    axes = itertools.product(
        _or(config.grid_weight_decays, None),
        _or(config.grid_layers, ()),
        _or(config.grid_pools, ""),
        _or(config.grid_learning_rates, None),
    )
    return tuple(Cell(rate, decay, layers, pool) for decay, layers, pool, rate in axes)


def _or(values: Sequence[Value], default: Value) -> Sequence[Value]:
    return values or (default,)


KIND = StrategyKind(Config, build)
