"""Looking into a model while it runs: what goes in and out of its layers by name, and slopes of the logits.

No model is written for it: Flax's interception sees every layer's call, as low-rank updates do.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl.inputs import Inputs
from jtl.predictor import Predictor, Values
from jtl.training import step

Score = Callable[[Float[Array, "batch outputs"]], Float[Array, " batch"]]


class Tap(NamedTuple):
    """A place in a model: the output of the layer of this name, or its (first) input."""

    name: str
    is_input: bool = False


Found = dict[Tap, Array]


def seen(
    predictor: Predictor,
    values: Values,
    inputs: Inputs,
    taps: Iterable[Tap],
    shifts: Mapping[Tap, Array] | None = None,
) -> tuple[Float[Array, "batch outputs"], Found]:
    """Return the logits of normalised inputs and what is at the taps, each with its shift added; for jit."""
    wanted, moved, found = frozenset(taps), shifts or {}, {}

    def at(tap: Tap, value: Array) -> Array:
        if tap in moved:
            value = value + moved[tap].astype(value.dtype)
        if tap in wanted:
            found[tap] = value
        return value

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or not context.module.path:
            return following(*args, **kwargs)
        name = "/".join(context.module.path)
        tap = Tap(name, is_input=True)
        args = (at(tap, args[0]), *args[1:]) if tap in wanted or tap in moved else args
        outputs, tap = following(*args, **kwargs), Tap(name)
        return at(tap, outputs) if tap in wanted or tap in moved else outputs

    with nn.intercept_methods(intercept):
        outputs = step.forward_normalised(predictor, values["params"], values["model_state"], inputs)
    missing = [tap.name for tap in wanted if tap not in found]
    assert not missing, f"the model runs no layer of the name {missing}"
    return outputs.logits, found


def slopes(
    predictor: Predictor,
    values: Values,
    inputs: Inputs,
    taps: Iterable[Tap],
    score: Score,
    shifts: Mapping[Tap, Array] | None = None,
) -> tuple[Float[Array, "batch outputs"], Found, Found]:
    """Return the logits, what is at the taps, and the slope there of each example's own score.

    Places among the taps are moved by their `shifts` first.
    """
    taps = tuple(taps)
    _, shapes = jax.eval_shape(lambda: seen(predictor, values, inputs, taps))
    start = {tap: jnp.zeros(each.shape, jnp.float32) for tap, each in shapes.items()} | dict(shifts or {})

    def total(moved: Found) -> tuple[Array, Any]:
        logits, found = seen(predictor, values, inputs, taps, moved)
        # Examples do not see each other in evaluation: the sum's slope is each one's own.
        return jnp.sum(score(logits)), (logits, found)

    found_slopes, (logits, found) = jax.grad(total, has_aux=True)(start)
    return logits, found, found_slopes


def of_class(classes: Int[Array, " batch"]) -> Score:
    """Return the score that is the logit of each example's class."""

    def score(logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
        return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]

    return score
