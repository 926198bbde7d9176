"""Prompt tuning: learned tokens beside those of the input, and a new head, train alone (Jia et al. 2022).

The prompts are the model's own (`model.num_prompts`; with `model.has_deep_prompts` eq. 5, else eq. 4): they
are written, loaded and served with it, and nothing is merged. They take part in the attention, so features at
the start are not those of the pretrained model without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jtl.errors import UserError
from jtl.models.layers import layer_of
from jtl.strategies.contract import FROZEN, Context, Group, Strategy, StrategyKind

PROMPTS = "prompts"


@dataclass(frozen=True)
class Config:
    """No settings: the prompts are the model's."""

    name: str = "vpt"


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains prompts and head.

    Raises:
        UserError: when the groups are made, if the model has no prompts.
    """
    head = len(context.layers) - 1

    def is_trained(name: str) -> bool:
        return name.rpartition("/")[2] == PROMPTS or layer_of(name, context.layers) == head

    def groups(names: Sequence[str]) -> dict[str, Group]:
        if not any(name.rpartition("/")[2] == PROMPTS for name in names):
            raise UserError(
                f"strategy {config.name!r} trains prompts and this model has none; set model.num_prompts, "
                f"such as 10, on a model of family 'vit' or 'bert'"
            )
        return {name: Group() if is_trained(name) else FROZEN for name in names}

    return Strategy(groups=groups)


KIND = StrategyKind(Config, build)
