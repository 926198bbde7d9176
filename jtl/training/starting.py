"""How the state at step 0 comes of a model's values: of arrays, and of shapes where nothing is run."""

from collections.abc import Callable
from typing import Any

import jax

from jtl.training import optim, precision
from jtl.training import state as states
from jtl.training.config import Config
from jtl.training.state import State
from jtl.training.step import Parts


def creator(parts: Parts, config: Config, params: Any, model_state: Any) -> Callable[[Any, Any], State]:
    """Return the function (params, model_state) → the state at step 0, of such values or shapes."""
    narrow = precision.narrowing(config, parts.model, params, model_state)

    def create(params: Any, model_state: Any) -> State:
        return states.create(
            params,
            model_state,
            parts.groups,
            parts.optimizer,
            has_ema=optim.has_average(config.optim),
            memory=parts.strategy.memory(),
            narrow=narrow,
        )

    return create


def shapes(parts: Parts, config: Config, params: Any, model_state: Any) -> State:
    """Return the shapes and dtypes of the state at step 0."""
    return jax.eval_shape(creator(parts, config, params, model_state), params, model_state)
