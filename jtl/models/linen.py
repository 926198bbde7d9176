"""A Flax Linen module as the contract's pure functions over plain nested dicts."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl import tree
from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import initial, low_rank, rescale, statistics
from jtl.models.contract import Model, Outputs, TokenGrid


def as_model(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    rules: initial.Rules,
    layers: tuple[tuple[str, ...], ...],
    preprocess: Preprocess,
    token_grid: TokenGrid | None = None,
) -> Model:
    """Return the Model of `make_module(train, frozen_stats)`, which gives (features, logits, intermediates).

    `rules` draw the initial values of parameters and of running statistics, by name.
    """
    image_shape = (*preprocess.image_px, preprocess.num_channels)

    def shapes() -> tuple[Any, Any]:
        module = make_module(False, frozenset())
        inputs = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        variables = dict(jax.eval_shape(module.init, jax.random.key(0), inputs))
        return variables.pop("params"), variables

    def init(key: Array) -> tuple[Any, Any]:
        params, model_state = shapes()
        return initial.draw(key, params, rules), initial.draw(key, model_state, rules)

    def apply(
        params: Mapping[str, Any],
        model_state: Mapping[str, Any],
        inputs: Float[Array | np.ndarray, "batch height width channels"],
        *,
        train: bool = False,
        key: Array | None = None,
        frozen_stats: frozenset[str] = frozenset(),
        updates: low_rank.Updates = MappingProxyType({}),
        scales: rescale.Scales = MappingProxyType({}),
    ) -> Outputs:
        if inputs.shape[1:] != image_shape:
            raise UserError(
                f"images are {inputs.shape[1:]}; the model expects {image_shape}; change model.image_px"
            )
        assert frozen_stats <= module_names(model_state), (
            "frozen_stats names modules without running statistics"
        )
        module = make_module(train, frozen_stats)
        variables, images = jax.tree.map(jnp.asarray, ({"params": params, **model_state}, inputs))
        with low_rank.applied(updates), rescale.applied(scales):
            if not train:
                return _outputs(module.apply(variables, images), model_state)
            rngs = {} if key is None else {"dropout": key}
            result, updated = module.apply(variables, images, rngs=rngs, mutable=list(model_state))
        return _outputs(result, dict(updated))

    def linear() -> low_rank.Shapes:
        inputs = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        return low_rank.shapes(make_module(False, frozenset()), inputs)

    return Model(init, apply, shapes, linear, partial(_moments, make_module), layers, preprocess, token_grid)


def module_names(model_state: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the modules that keep running statistics, as `frozen_stats` takes them.

    >>> module_names({"batch_stats": {"block1": {"bn1": {"mean": 0, "var": 1}}}})
    frozenset({'block1/bn1'})
    """
    return frozenset(name.split("/", 1)[1].rsplit("/", 1)[0] for name in tree.flatten(model_state))


def _moments(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    params: Mapping[str, Any],
    model_state: Mapping[str, Any],
    inputs: Float[Array | np.ndarray, "batch height width channels"],
    mask: Bool[Array | np.ndarray, " batch"],
) -> Any:
    variables, images = jax.tree.map(jnp.asarray, ({"params": params, **model_state}, inputs))
    with statistics.measured(jnp.asarray(mask)):
        _, measured = make_module(False, frozenset()).apply(variables, images, mutable=list(model_state))
    return dict(measured)


def _outputs(result: Any, model_state: Any) -> Outputs:
    features, logits, intermediates = result
    return Outputs(features, logits, model_state, intermediates)
