"""The training state: one pytree, in which what trains and what is frozen are apart from the start."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jtl import tree
from jtl.strategies.contract import Group


class State(NamedTuple):
    """Everything a step changes, and the frozen parameters beside it.

    `trainable` and `frozen` are nested dicts with disjoint names (the model's own, plus "extra/…" of the
    strategy); `model_state` holds running statistics; `ema` averages `trainable`, or is {}; `memory` is what
    the strategy keeps from step to step, or is ().
    """

    step: Int[Array, ""]
    trainable: Any
    frozen: Any
    model_state: Any
    opt_state: Any
    ema: Any
    memory: Any = ()


def create(
    params: Mapping[str, Any],
    model_state: Any,
    groups: Mapping[str, Group],
    optimizer: optax.GradientTransformation,
    *,
    has_ema: bool,
    memory: Any = (),
    narrow: Callable[[Any], Any] = lambda frozen: frozen,
) -> State:
    """Return the state at step 0; leaves whose group is frozen go to `frozen`, as `narrow` gives them."""
    trainable, frozen = tree.split(params, lambda name: not groups[name].is_frozen)
    ema = jax.tree.map(jnp.array, trainable) if has_ema else {}
    opt_state = optimizer.init(tree.flatten(trainable))
    return State(jnp.zeros([], jnp.int32), trainable, narrow(frozen), model_state, opt_state, ema, memory)


def params_for_evaluation(state: State) -> dict[str, Any]:
    """Return all parameters, the averaged ones where an average is kept."""
    return tree.merge(state.ema or state.trainable, state.frozen)
