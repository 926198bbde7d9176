"""Shapes of what a model gives for one example, with nothing computed."""

from functools import partial
from typing import Any

import jax

from jtl.models.contract import Model, Outputs, batch_of


def output_shapes(model: Model, params: Any, model_state: Any) -> Outputs:
    """Return the outputs in evaluation mode for a batch of one example, as `jax.ShapeDtypeStruct`s."""
    apply = partial(model.apply, train=False, key=None)
    return jax.eval_shape(apply, params, model_state, batch_of(model.spec))
