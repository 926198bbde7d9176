"""Attention followed from the features back to the input's tokens, plainly or weighed by slopes.

Rollout (Abnar and Zuidema 2020, sec. 3): each layer passes on half a token and half of what it attends to.
Gradient-weighted (Chefer et al. 2021, "Generic Attention-model Explainability", eq. 5 and 6): each layer adds
its attention times the slope of the class's logit there, where that is positive.

Weights are computed anew from queries and keys, which is what the layer does inside. Prompts, which stand
behind the tokens of a model that has them, are left out of what is passed on, and rows made whole again.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl.explain import taps
from jtl.explain.contract import Method
from jtl.explain.taps import Found, Tap
from jtl.inputs import Inputs
from jtl.models import Model
from jtl.models.contract import Attending, AttentionLayer
from jtl.predictor import Predictor, Values

Square = Float[Array, "batch tokens tokens"]


class Attended(NamedTuple):
    """One layer's attention: weights [batch, heads, queries, tokens], and their slopes."""

    weights: Float[Array, "batch heads queries tokens"]
    slopes: Float[Array, "batch heads queries tokens"]


def is_offered(model: Model) -> bool:
    """Return whether the model says how its tokens attend."""
    return model.inside.attention is not None


def rollout(
    predictor: Predictor, values: Values, inputs: Inputs, blank: Inputs, classes: Int[Array, " batch"]
) -> Array:
    """Return how much of each token reaches the features, the same for every class; it sums to 1."""
    del blank
    return _followed(predictor, values, inputs, classes, rolled)


def gradient_weighted(
    predictor: Predictor, values: Values, inputs: Inputs, blank: Inputs, classes: Int[Array, " batch"]
) -> Array:
    """Return how much of each token reaches the features on ways that raise the class's logit."""
    del blank
    return _followed(predictor, values, inputs, classes, weighed)


def rolled(before: Square, layer: Attended) -> Square:
    """Return what the tokens behind a layer are made of, given what those before it are made of."""
    mean = jnp.mean(layer.weights, axis=1)
    mixed = (mean + jnp.eye(mean.shape[-1])[None]) / 2
    return (mixed / jnp.sum(mixed, axis=-1, keepdims=True)) @ before


def weighed(before: Square, layer: Attended) -> Square:
    """Return the relevance behind a layer, given that before it (eq. 5 and 6)."""
    positive = jax.nn.relu(jnp.mean(jax.nn.relu(layer.weights * layer.slopes), axis=1))
    return before + positive @ before


def _followed(
    predictor: Predictor,
    values: Values,
    inputs: Inputs,
    classes: Int[Array, " batch"],
    passed: Callable[[Square, Attended], Square],
) -> Array:
    attending = predictor.model.inside.attention
    assert attending is not None, "the method is offered"
    layers = (*attending.layers, *((attending.pooling,) if attending.pooling else ()))
    wanted = [tap for layer in layers for tap in _taps(layer)]
    _, found, slopes = taps.slopes(predictor, values, inputs, wanted, taps.of_class(classes))
    seen = attending.seen(inputs)
    num_tokens = seen.shape[1]
    relevance = jnp.broadcast_to(jnp.eye(num_tokens), (len(seen), num_tokens, num_tokens))
    for layer in attending.layers:
        relevance = passed(relevance, _of_tokens(_attended(layer, found, slopes, seen), num_tokens))
    shares = attending.read(seen)
    if attending.pooling is not None:
        prefix = attending.grid.prefix if attending.grid else 0
        pooled = _attended(attending.pooling, found, slopes, seen[:, prefix:])
        shares = jnp.pad(jnp.mean(pooled.weights, axis=1)[:, 0], ((0, 0), (prefix, 0)))
    whole = jnp.einsum("bt,bts->bs", shares, relevance)
    return _as_read(whole, attending)


def _as_read(whole: Float[Array, "batch tokens"], attending: Attending) -> Array:
    """Return the relevance of the places of a picture, or of a text's tokens."""
    if attending.grid is None:
        return whole
    prefix, rows, columns = attending.grid
    return whole[:, prefix:].reshape(len(whole), rows, columns)


def _taps(layer: AttentionLayer) -> tuple[Tap, ...]:
    return Tap(layer.query), Tap(layer.key), Tap(layer.value), Tap(layer.out, is_input=True)


def _attended(
    layer: AttentionLayer, found: Found, slopes: Found, seen: Bool[Array, "batch tokens"]
) -> Attended:
    """Return the weights, and slopes by them: those by what was gathered, times the values."""
    query, key, value = (
        found[Tap(name)].astype(jnp.float32) for name in (layer.query, layer.key, layer.value)
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
    seen = jnp.pad(seen, ((0, 0), (0, key.shape[1] - seen.shape[1])), constant_values=True)
    weights = jax.nn.softmax(jnp.where(seen[:, None, None, :], scores, -jnp.inf), axis=-1)
    by_gathered = slopes[Tap(layer.out, is_input=True)].reshape(query.shape)
    return Attended(weights, jnp.einsum("bqhd,bkhd->bhqk", by_gathered, value))


def _of_tokens(layer: Attended, num_tokens: int) -> Attended:
    """Return the attention among the tokens alone, its rows summing to 1."""
    weights = layer.weights[:, :, :num_tokens, :num_tokens]
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return Attended(weights / total, layer.slopes[:, :, :num_tokens, :num_tokens])


ROLLOUT = Method(is_offered, rollout, False, "attention rollout, Abnar and Zuidema 2020")
GRADIENT_WEIGHTED = Method(
    is_offered, gradient_weighted, False, "gradient-weighted attention, Chefer et al. 2021"
)
