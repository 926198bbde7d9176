"""What a run computes in, what it keeps frozen values in, and what of it people are told."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import tree
from jtl.models import Model, layers
from jtl.models.contract import batch_of
from jtl.strategies.contract import EXTRA, Group
from jtl.training.config import Config

FLOAT32 = "float32"
# Operations that give the same values in another shape.
SHAPING = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice")


def frozen_dtype(config: Config) -> Any:
    """Return the dtype of frozen values on the devices where a layer casts them to it."""
    name = config.model.dtype if config.train.frozen_dtype == layers.AUTO else config.train.frozen_dtype
    return layers.compute_dtype(name)


def narrowing(config: Config, model: Model, params: Any, model_state: Any) -> Callable[[Any], tree.Tree]:
    """Return what casts those frozen parameters that the model casts anyway, which changes no bit it gives.

    What a layer reads in float32 stays as it is, and so does what a strategy keeps of its own.
    """
    dtype = frozen_dtype(config)
    own = {name: leaf for name, leaf in params.items() if name != EXTRA}
    names = frozenset() if dtype == jnp.float32 else _cast(model, own, model_state, dtype)
    return partial(tree.map_named, lambda name, leaf: leaf.astype(dtype) if name in names else leaf)


def widened(params: Mapping[str, Any], loaded: Mapping[str, Any]) -> tree.Tree:
    """Return host parameters in float32, each narrowed leaf as it was loaded if it is that one rounded."""
    whole = tree.flatten(loaded)

    def exact(name: str, leaf: Any) -> Any:
        if leaf.dtype != jnp.bfloat16:
            return leaf
        first = np.asarray(whole[name])
        return first if np.array_equal(first.astype(leaf.dtype), leaf) else np.asarray(leaf, np.float32)

    return tree.map_named(exact, params)


def described(config: Config) -> dict[str, str]:
    """Return what meta.json says: the dtypes, the precision of matrix products, and XLA's flags."""
    return {
        "dtype": np.dtype(layers.compute_dtype(config.model.dtype)).name,
        "frozen_dtype": np.dtype(frozen_dtype(config)).name,
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None) or "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def remarks(config: Config, groups: Mapping[str, Group]) -> list[str]:
    """Return the lines for people: what was chosen, and why; `groups` say which parameters are frozen."""
    found = described(config)
    why = (
        f" (model.dtype={layers.AUTO}: {layers.auto_dtype()[1]})" if config.model.dtype == layers.AUTO else ""
    )
    lines = [f"computes in {found['dtype']}{why}, matrix products at precision {found['matmul_precision']}"]
    if found["dtype"] != FLOAT32:
        lines[0] += "; softmax, statistics of norms, loss, metrics and optimizer in float32"
    if any(group.is_frozen for group in groups.values()) and found["frozen_dtype"] != FLOAT32:
        lines.append(
            f"frozen values that a layer casts to {found['frozen_dtype']} are kept so on the devices "
            f"(train.frozen_dtype={config.train.frozen_dtype}); the run folder has them as they were loaded"
        )
    return lines


def _cast(model: Model, params: Any, model_state: Any, dtype: Any) -> frozenset[str]:
    """Return the names of the parameters of which the model reads nothing but casts to the dtype."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, model_state))
    flat = tree.flatten(shapes[0])

    def apply(flat: Any, model_state: Any, inputs: Any) -> Any:
        return model.apply(tree.unflatten(flat), model_state, inputs)

    traced = jax.make_jaxpr(apply)(flat, shapes[1], batch_of(model.spec)).jaxpr
    variables = dict(zip(sorted(flat), traced.invars, strict=False))
    return frozenset(name for name, variable in variables.items() if _is_cast(traced, variable, dtype))


def _is_cast(traced: Any, variable: Any, dtype: Any) -> bool:
    """Return whether all that is done with a variable of a traced program is to cast it to the dtype."""
    if any(each is variable for each in traced.outvars):
        return False
    for operation in traced.eqns:
        places = [place for place, each in enumerate(operation.invars) if each is variable]
        name, inner = operation.primitive.name, _inner(operation)
        if not places or (name == "convert_element_type" and operation.params["new_dtype"] == dtype):
            continue
        if name in SHAPING:
            is_cast = all(_is_cast(traced, each, dtype) for each in operation.outvars)
        else:
            is_cast = (
                inner is not None
                and len(inner.invars) == len(operation.invars)
                and all(_is_cast(inner, inner.invars[place], dtype) for place in places)
            )
        if not is_cast:
            return False
    return True


def _inner(operation: Any) -> Any:
    """Return the program that an operation runs, None where it runs none."""
    found = operation.params.get("jaxpr")
    return getattr(found, "jaxpr", found)
