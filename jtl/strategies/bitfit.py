"""BitFit: only biases, and the head, train (Ben Zaken et al. 2022); or only normalisation layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jtl.errors import UserError, shown
from jtl.models.layers import layer_of
from jtl.strategies.contract import FROZEN, Context, Group, Strategy, StrategyKind


@dataclass(frozen=True)
class Config:
    """Settings of BitFit: `train` is "bias" (every bias) or "norm" (scales and biases of normalisation)."""

    name: str = "bitfit"
    train: str = "bias"

    def __post_init__(self) -> None:
        if self.train not in TRAINED:
            raise UserError(f"strategy.train is {shown(self.train)}; expected one of {', '.join(TRAINED)}")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains the small vectors and the head."""
    head = len(context.layers) - 1

    def groups(names: Sequence[str]) -> dict[str, Group]:
        trained = TRAINED[config.train](names)
        return {
            name: Group() if name in trained or layer_of(name, context.layers) == head else FROZEN
            for name in names
        }

    return Strategy(groups=groups)


def _biases(names: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.rpartition("/")[2] == "bias")


def _norms(names: Sequence[str]) -> frozenset[str]:
    """Return what normalisation layers have: a scale, and what lies beside one."""
    layers = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == "scale"}
    return frozenset(name for name in names if name.rpartition("/")[0] in layers)


TRAINED: dict[str, Callable[[Sequence[str]], frozenset[str]]] = {"bias": _biases, "norm": _norms}
KIND = StrategyKind(Config, build)
