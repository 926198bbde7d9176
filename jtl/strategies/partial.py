"""Partial fine-tuning: ordered rules freeze subtrees or scale their learning rate, first match wins."""

from collections.abc import Sequence
from dataclasses import dataclass

from jtl import tree
from jtl.errors import UserError, shown
from jtl.ranges import NotNegative, check
from jtl.strategies.contract import FROZEN, Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of partial fine-tuning.

    `rules` are (regular expression, learning-rate multiplier) pairs, tried in order with `re.search` on names
    such as "Transformer/encoderblock_11/MlpBlock_3/Dense_0/kernel"; multiplier 0 freezes. `default` is the
    multiplier of what no rule matches.
    """

    name: str = "partial"
    rules: tuple[tuple[str, NotNegative], ...] = (("^head/", 1.0),)
    default: NotNegative = 0.0

    def __post_init__(self) -> None:
        check(self, "strategy")
        patterns = [pattern for pattern, _ in self.rules]
        if len(set(patterns)) < len(patterns):
            raise UserError(f"strategy.rules name a pattern twice: {shown(patterns)}; expected each once")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that follows the rules.

    Raises:
        UserError: when the groups are made, if a rule matches no parameter or everything ends up frozen.
    """
    del context

    def groups(names: Sequence[str]) -> dict[str, Group]:
        multipliers = dict(config.rules)
        matches = tree.first_match(multipliers, names, "strategy.rules")
        chosen = {
            name: config.default if rule is None else multipliers[rule] for name, rule in matches.items()
        }
        if not any(chosen.values()):
            raise UserError("strategy.rules freeze every parameter; give at least one a multiplier above 0")
        return {name: FROZEN if value == 0 else Group(multiplier=value) for name, value in chosen.items()}

    return Strategy(groups=groups)


KIND = StrategyKind(Config, build)
