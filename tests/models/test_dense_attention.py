"""Attention in the order CPUs like: the same as jax's, padding of no weight, one matrix of weights kept."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.dense_attention import attend

BATCH, TOKENS, HEADS, HEAD_DIM = 2, 5, 3, 4


def _arrays(num_tokens: int = TOKENS, dtype: Any = jnp.float32) -> list[jax.Array]:
    shapes = [(BATCH, num_tokens, HEADS, HEAD_DIM), *[(BATCH, TOKENS, HEADS, HEAD_DIM)] * 2]
    keys = jax.random.split(jax.random.key(0), 3)
    return [3 * jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def _mask() -> jax.Array:
    return jnp.asarray([[True] * TOKENS, [True] * 3 + [False] * (TOKENS - 3)])


def _with_gradients(attention: Any, arrays: list[jax.Array]) -> list[jax.Array]:
    mixed, pull = jax.vjp(attention, *arrays)
    return [mixed, *pull(jnp.cos(mixed))]


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_and_its_gradients_are_those_of_jax(has_mask: bool, is_causal: bool) -> None:
    mask = _mask() if has_mask else None
    wide = None if mask is None else jnp.broadcast_to(mask[:, None, None, :], (BATCH, 1, TOKENS, TOKENS))
    found = _with_gradients(lambda *arrays: attend(*arrays, mask=mask, is_causal=is_causal), _arrays())
    expected = _with_gradients(
        lambda *arrays: jax.nn.dot_product_attention(*arrays, mask=wide, is_causal=is_causal), _arrays()
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_one_query_attends_to_many_sources_and_bfloat16_stays_near_float32() -> None:
    exact = attend(*_arrays(num_tokens=1))
    expected = jax.nn.dot_product_attention(*_arrays(num_tokens=1))
    np.testing.assert_allclose(exact, expected, rtol=1e-5, atol=1e-5)
    coarse = attend(*[each.astype(jnp.bfloat16) for each in _arrays(num_tokens=1)])
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(jnp.float32), exact, atol=0.05)


def test_what_stands_where_there_is_padding_is_read_by_nothing() -> None:
    queries, keys, values = _arrays()
    padding = ~_mask()[:, :, None, None]
    other = attend(queries, jnp.where(padding, 50.0, keys), jnp.where(padding, -9.0, values), mask=_mask())
    np.testing.assert_array_equal(other, attend(queries, keys, values, mask=_mask()))


def test_an_example_of_padding_alone_gives_the_mean_of_its_sources() -> None:
    queries, keys, values = _arrays()
    mixed = attend(queries, keys, values, mask=jnp.zeros((BATCH, TOKENS), bool))
    mean = jnp.broadcast_to(values.mean(1, keepdims=True), mixed.shape)
    np.testing.assert_allclose(mixed, mean, rtol=1e-5, atol=1e-5)


def test_dropped_weights_are_dropped_after_the_softmax() -> None:
    factor = 2.0 * jax.random.bernoulli(jax.random.key(1), 0.5, (BATCH, HEADS, TOKENS, TOKENS))

    def spelled_out(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / HEAD_DIM**0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores) * factor, values)

    found = _with_gradients(lambda *each: attend(*each, drop=lambda weights: weights * factor), _arrays())
    for one, other in zip(found, _with_gradients(spelled_out, _arrays()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_training_keeps_less_than_by_jaxs_own() -> None:
    shape = jax.ShapeDtypeStruct((2, 64, 2, 8), jnp.float32)

    def temporary_bytes(attention: Any) -> int:
        def both(queries: Any, keys: Any, values: Any, grad: Any) -> Any:
            return jax.vjp(attention, queries, keys, values)[1](grad)

        return jax.jit(both).lower(*[shape] * 4).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(attend) < 0.8 * temporary_bytes(jax.nn.dot_product_attention)
