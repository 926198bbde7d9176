"""The contract between strategy and step: which leaves train when, the forward pass, what the loss adds.

A parameter is named by its '/'-joined path; what a strategy adds to the model (adapters, discriminators)
lives under the reserved top-level name "extra".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array

from jtl.models import Outputs

EXTRA = "extra"
Forward = Callable[..., Outputs]


@dataclass(frozen=True)
class Group:
    """How one leaf trains.

    `multiplier` scales its learning rate (0: frozen, stored and checkpointed but never differentiated). It
    starts to train at `start_step` and reaches its full rate `ramp_steps` later.
    """

    multiplier: float = 1.0
    start_step: int = 0
    ramp_steps: int = 0

    @property
    def is_frozen(self) -> bool:
        """Whether the leaf never trains."""
        return self.multiplier == 0.0


FROZEN = Group(multiplier=0.0)


class Context(NamedTuple):
    """What a strategy may depend on: `Model.layers`, the run's number of steps, and `Model.linear`."""

    layers: tuple[tuple[str, ...], ...]
    num_steps: int
    linear: Callable[[], Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]] = dict


def no_extra(key: Array, params: Any) -> dict[str, Any]:
    """Add nothing to the model."""
    return {}


def without_extra(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own parameters."""
    return {name: leaf for name, leaf in params.items() if name != EXTRA}


def plain_forward(
    apply: Callable[..., Outputs], params: Any, inputs: Array, *, train: bool, key: Any
) -> Outputs:
    """Run the model as it is.

    `apply(params, inputs, *, train, key, **hooks)` has the model's state bound; `hooks` are `Model.apply`'s.
    """
    return apply(params, inputs, train=train, key=key)


class Strategy(NamedTuple):
    """A built strategy: pure functions, each with a default.

    `groups(names)` → Group a leaf, by name. `extra(key, params)` → parameters the strategy adds.
    `forward(apply, params, inputs, *, train, key)` → Outputs, shared by training, evaluation and export.
    `penalty(forward, params, batch, outputs, step, key)` → (scalar added to the mean loss, metrics by name);
    None adds nothing. `merged(params)` → the parameters to write and serve, where what was added is folded
    into the model's own.
    """

    groups: Callable[[Sequence[str]], Mapping[str, Group]]
    extra: Callable[[Array, Any], dict[str, Any]] = no_extra
    forward: Forward = plain_forward
    penalty: Callable[..., tuple[Array, dict[str, Array]]] | None = None
    merged: Callable[[Mapping[str, Any]], dict[str, Any]] = without_extra


class StrategyKind(NamedTuple):
    """One kind of strategy: its settings and how to build it for a model and a number of steps."""

    Config: type
    build: Callable[[Any, Context], Strategy]
