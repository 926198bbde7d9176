"""Gradual unfreezing: the head first, then the backbone from the last layer down, on a schedule of steps.

Howard and Ruder 2018 (ULMFiT), sec. 3.3. When a leaf thaws is a pure function of the step, so a resumed run
is in the phase an uninterrupted one would be in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from jtl.models.layers import layer_of
from jtl.ranges import Range, Share, check
from jtl.strategies.contract import Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of gradual unfreezing.

    The head trains alone in the first of `num_stages` stages of equal length; each further stage thaws an
    equal share of the backbone's layers, and everything trains from `complete_at` (fraction of the run) on. A
    thawed leaf reaches its full learning rate over `ramp` (fraction of the run).
    """

    name: str = "gradual"
    num_stages: Annotated[int, Range(2)] = 4
    complete_at: Annotated[float, Range(above=0, below=1)] = 0.5
    ramp: Share = 0.02

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the schedule for a model's layers and a number of steps."""
    num_backbone = len(context.layers) - 1
    ramp_steps = round(config.ramp * context.num_steps)

    def start_step(layer: int) -> int:
        depth_from_top = num_backbone - layer
        stage = -(-depth_from_top * (config.num_stages - 1) // num_backbone)
        return round(stage / (config.num_stages - 1) * config.complete_at * context.num_steps)

    def groups(names: Sequence[str]) -> dict[str, Group]:
        starts = {name: start_step(layer_of(name, context.layers)) for name in names}
        return {
            name: Group(start_step=start, ramp_steps=ramp_steps if start else 0)
            for name, start in starts.items()
        }

    remark = (
        f"strategy.num_stages is {config.num_stages} and the backbone has {num_backbone} layers: "
        f"{config.num_stages - 1 - num_backbone} stages thaw nothing"
    )
    return Strategy(groups=groups, remarks=(remark,) if config.num_stages - 1 > num_backbone else ())


KIND = StrategyKind(Config, build)
