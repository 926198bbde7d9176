"""What each token's embedding adds to a logit: gradient times input, and integrated gradients.

Integrated gradients (Sundararajan et al. 2017, eq. 1) go straight from the blank text's embeddings to the
text's own; the integral is a Gauss-Legendre sum, so that what the tokens add up to is the difference of the
two logits (completeness) to a few digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jtl.explain import taps
from jtl.explain.contract import Method
from jtl.explain.taps import Tap
from jtl.inputs import Inputs
from jtl.models import Model
from jtl.predictor import Predictor, Values

NUM_POINTS = 24


def is_offered(model: Model) -> bool:
    """Return whether the model says which layer embeds its tokens."""
    return bool(model.inside.embedding)


def gradient_x_input(
    predictor: Predictor, values: Values, inputs: Inputs, blank: Inputs, classes: Int[Array, " batch"]
) -> Float[Array, "batch tokens"]:
    """Return the slope of the class's logit by each token's embedding, times that."""
    del blank
    tap = Tap(predictor.model.inside.embedding)
    _, found, slopes = taps.slopes(predictor, values, inputs, (tap,), taps.of_class(classes))
    return jnp.sum(found[tap].astype(jnp.float32) * slopes[tap], axis=-1)


def integrated_gradients(
    predictor: Predictor, values: Values, inputs: Inputs, blank: Inputs, classes: Int[Array, " batch"]
) -> Float[Array, "batch tokens"]:
    """Return what each token adds to the class's logit on the way from the blank text to the text."""
    tap, score = Tap(predictor.model.inside.embedding), taps.of_class(classes)
    ends = (taps.seen(predictor, values, each, (tap,))[1][tap] for each in (inputs, blank))
    own, base = (each.astype(jnp.float32) for each in ends)
    points, weights = np.polynomial.legendre.leggauss(NUM_POINTS)

    def add(total: Array, point: Array) -> tuple[Array, None]:
        share, weight = point
        shift = {tap: (1 - share) * (base - own)}
        _, _, slopes = taps.slopes(predictor, values, inputs, (tap,), score, shift)
        return total + weight * slopes[tap], None

    along = jnp.asarray(np.stack([(points + 1) / 2, weights / 2], axis=1), jnp.float32)
    mean, _ = jax.lax.scan(add, jnp.zeros_like(own), along)
    return jnp.sum(mean * (own - base), axis=-1)


GRADIENT_X_INPUT = Method(is_offered, gradient_x_input, True, "gradient times input, Shrikumar et al. 2016")
INTEGRATED = Method(is_offered, integrated_gradients, True, "integrated gradients, Sundararajan et al. 2017")
