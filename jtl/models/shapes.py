"""Shapes of what a model gives for one example, with nothing computed."""

from typing import Any

import jax

from jtl.inputs import Input
from jtl.models.contract import Model, Outputs


def output_shapes(kind: Input, preprocess: Any, model: Model, params: Any, model_state: Any) -> Outputs:
    """Return the outputs in evaluation mode for a batch of one example, as `jax.ShapeDtypeStruct`s."""

    def run(params: Any, model_state: Any, raw: Any) -> Outputs:
        inputs = kind.normalise(raw, preprocess)
        return model.apply(params, model_state, inputs, train=False, key=None)

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), kind.spec(preprocess))
    return jax.eval_shape(run, params, model_state, one)
