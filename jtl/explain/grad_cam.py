"""Grad-CAM (Selvaraju et al. 2017, eq. 1 and 2): the last map, each channel weighed by its mean slope."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl.explain import taps
from jtl.explain.contract import Method
from jtl.inputs import Inputs
from jtl.models import Model
from jtl.predictor import Predictor, Values


def is_offered(model: Model) -> bool:
    """Return whether the model says which layer gives its last feature map."""
    return bool(model.inside.feature_map)


def explain(
    predictor: Predictor, values: Values, inputs: Inputs, blank: Inputs, classes: Int[Array, " batch"]
) -> Float[Array, "batch rows columns"]:
    """Return where channels that raise the class's logit are active."""
    del blank
    tap = taps.Tap(predictor.model.inside.feature_map)
    _, found, slopes = taps.slopes(predictor, values, inputs, (tap,), taps.of_class(classes))
    return weighed(found[tap].astype(jnp.float32), slopes[tap])


def weighed(
    maps: Float[Array, "batch rows columns channels"], slopes: Float[Array, "batch rows columns channels"]
) -> Float[Array, "batch rows columns"]:
    """Return the sum over the channels of a map times its mean slope, where that is positive."""
    weights = jnp.mean(slopes, (1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(maps * weights, axis=-1))


METHOD = Method(is_offered, explain, False, "Grad-CAM, Selvaraju et al. 2017")
