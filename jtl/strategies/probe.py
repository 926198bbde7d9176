"""Probing: the backbone stays as pretrained, the head trains (linear, or an MLP of `model.head_widths`)."""

from dataclasses import dataclass

from jtl.models.layers import layer_of
from jtl.strategies.contract import FROZEN, Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Probing has no settings; the head's form is `model.head_widths` and `model.head_dropout`."""

    name: str = "probe"


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains the last layer, the head."""
    del config
    head = len(context.layers) - 1
    return Strategy(
        groups=lambda names: {
            name: Group() if layer_of(name, context.layers) == head else FROZEN for name in names
        }
    )


KIND = StrategyKind(Config, build)
