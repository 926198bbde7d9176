"""Full fine-tuning: every parameter trains from the first step."""

from dataclasses import dataclass

from jtl.strategies.contract import Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """No settings; per-layer rates are `optim.layer_decay` and `optim.head_multiplier`."""

    name: str = "full"


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything."""
    del config, context
    return Strategy(groups=lambda names: dict.fromkeys(names, Group()))


KIND = StrategyKind(Config, build)
