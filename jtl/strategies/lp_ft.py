"""LP-FT: probe first, then fine-tune everything from the probed head (Kumar et al. 2022, algorithm 1).

A fitted head keeps the first backbone updates from distorting pretrained features.
"""

from dataclasses import dataclass
from typing import Annotated

from jtl.models.layers import layer_of
from jtl.ranges import Range, Share, check
from jtl.strategies.contract import Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of LP-FT.

    `probe_fraction` is the part of the run that trains the head alone; the backbone then reaches its learning
    rate over `ramp` (fraction of the run).
    """

    name: str = "lp_ft"
    probe_fraction: Annotated[float, Range(above=0, below=1)] = 0.3
    ramp: Share = 0.05

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the two phases for a model's layers and a number of steps."""
    head = len(context.layers) - 1
    backbone = Group(
        start_step=max(1, round(config.probe_fraction * context.num_steps)),
        ramp_steps=round(config.ramp * context.num_steps),
    )
    return Strategy(
        groups=lambda names: {
            name: Group() if layer_of(name, context.layers) == head else backbone for name in names
        }
    )


KIND = StrategyKind(Config, build)
