"""Gradual unfreezing: the head first, then the backbone from the last layer down, on a schedule of steps.

Howard and Ruder 2018 (ULMFiT), sec. 3.3. When a leaf thaws is a pure function of the step, so a resumed run
is in the phase an uninterrupted one would be in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jtl.errors import UserError
from jtl.models.layers import layer_of
from jtl.strategies.contract import Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of gradual unfreezing.

    The head trains alone in the first of `num_stages` stages of equal length; each further stage thaws an
    equal share of the backbone's layers, and everything trains from `complete_at` (fraction of the run) on. A
    thawed leaf reaches its full learning rate over `ramp` (fraction of the run).
    """

    name: str = "gradual"
    num_stages: int = 4
    complete_at: float = 0.5
    ramp: float = 0.02

    def __post_init__(self) -> None:
        if self.num_stages < 2:
            raise UserError(f"strategy.num_stages is {self.num_stages}; expected 2 or more")
        if not 0.0 < self.complete_at < 1.0 or not 0.0 <= self.ramp <= 1.0:
            raise UserError(
                f"strategy.complete_at is {self.complete_at} and strategy.ramp {self.ramp}; "
                f"expected fractions of the run"
            )


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

    return Strategy(groups=groups)


KIND = StrategyKind(Config, build)
