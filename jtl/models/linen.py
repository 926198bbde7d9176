"""A Flax Linen module as the contract's pure functions over plain nested dicts."""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jtl import tree
from jtl.models import contract, initial, low_rank, rescale, statistics
from jtl.models.contract import Inside, Model, Outputs

NUM_KEPT = 64
NOTHING = Inside()


def as_model(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    rules: initial.Rules,
    layers: tuple[tuple[str, ...], ...],
    *,
    spec: Any,
    check: Callable[[Any], None],
    pool: Callable[[Array, Any, str], Array],
    preprocess: Any,
    inside: Inside = NOTHING,
) -> Model:
    """Return the Model of `make_module(train, frozen_stats)`, which gives (features, logits, intermediates).

    `rules` draw the initial values of parameters and of running statistics, by name. `check(inputs)` raises
    UserError unless the model can read inputs of these shapes; the others are as in `Model`.
    """
    example = contract.batch_of(spec)
    leaves, structure = jax.tree.flatten(example)

    def shapes() -> tuple[Any, Any]:
        return _shapes(make_module(False, frozenset()), tuple(leaves), structure)

    def init(key: Array, names: Collection[str] | None = None) -> tuple[Any, Any]:
        params, model_state = shapes()
        return initial.draw(key, params, rules, names), initial.draw(key, model_state, rules, names)

    def apply(
        params: Mapping[str, Any],
        model_state: Mapping[str, Any],
        inputs: Any,
        *,
        train: bool = False,
        key: Array | None = None,
        frozen_stats: frozenset[str] = frozenset(),
        updates: low_rank.Updates = MappingProxyType({}),
        scales: rescale.Scales = MappingProxyType({}),
    ) -> Outputs:
        check(inputs)
        assert frozen_stats <= module_names(model_state), (
            "frozen_stats names modules without running statistics"
        )
        module = make_module(train, frozen_stats)
        variables, arrays = jax.tree.map(jnp.asarray, ({"params": params, **model_state}, inputs))
        with low_rank.applied(updates), rescale.applied(scales):
            if not train:
                return _outputs(module.apply(variables, arrays), model_state)
            rngs = {} if key is None else {"dropout": key}
            result, updated = module.apply(variables, arrays, rngs=rngs, mutable=list(model_state))
        return _outputs(result, dict(updated))

    def linear() -> low_rank.Shapes:
        return low_rank.shapes(make_module(False, frozenset()), example)

    moments = partial(_moments, make_module)
    return Model(init, apply, shapes, linear, moments, pool, layers, spec, preprocess, inside)


def module_names(model_state: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the modules that keep running statistics, as `frozen_stats` takes them.

    >>> module_names({"batch_stats": {"block1": {"bn1": {"mean": 0, "var": 1}}}})
    frozenset({'block1/bn1'})
    """
    return frozenset(name.split("/", 1)[1].rsplit("/", 1)[0] for name in tree.flatten(model_state))


@lru_cache(maxsize=NUM_KEPT)
def _shapes(module: nn.Module, leaves: tuple[Any, ...], structure: Any) -> tuple[Any, Any]:
    """Return shapes of parameters and model state: a file is recognised by tracing the same model often."""
    inputs = jax.tree.unflatten(structure, leaves)
    variables = dict(jax.eval_shape(module.init, jax.random.key(0), inputs))
    return variables.pop("params"), variables


def _moments(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    params: Mapping[str, Any],
    model_state: Mapping[str, Any],
    inputs: Any,
    mask: Bool[Array | np.ndarray, " batch"],
) -> Any:
    variables, arrays = jax.tree.map(jnp.asarray, ({"params": params, **model_state}, inputs))
    with statistics.measured(jnp.asarray(mask)):
        _, measured = make_module(False, frozenset()).apply(variables, arrays, mutable=list(model_state))
    return dict(measured)


def _outputs(result: Any, model_state: Any) -> Outputs:
    features, logits, intermediates = result
    return Outputs(features, logits, model_state, intermediates)
