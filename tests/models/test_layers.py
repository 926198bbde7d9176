"""Shared layers: batch normalisation, stochastic depth, activations, initial values, the order of layers."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS, initial, layers

SHAPE = (6, 5, 4, 3)


def _batch_norm(x: np.ndarray, train: bool, mean: float = 0.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    state = {"mean": jnp.full(3, mean), "var": jnp.ones(3)}
    variables = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "batch_stats": state}
    y, updated = layers.BatchNorm(train=train).apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    return np.asarray(y), dict(updated)["batch_stats"]


def test_batch_norm_normalises_by_the_biased_and_keeps_the_unbiased_variance() -> None:
    x = (3 + 2 * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)
    y, state = _batch_norm(x, train=True)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(state["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(state["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_batch_norm_is_the_same_over_maps_sequences_and_vectors() -> None:
    x = (3 + 2 * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)
    y, state = _batch_norm(x, train=True)
    for shape in ((30, 4, 3), (120, 3)):
        other, updated = _batch_norm(x.reshape(shape), train=True)
        np.testing.assert_allclose(other.reshape(SHAPE), y, rtol=1e-5, atol=1e-6)
        for name, value in state.items():
            np.testing.assert_allclose(updated[name], value, rtol=1e-6)


def test_batch_norms_variance_survives_a_large_mean_that_it_has_learned() -> None:
    x = (1e4 + np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)
    _, state = _batch_norm(x, train=True, mean=1e4)
    np.testing.assert_allclose(
        state["var"], 0.9 + 0.1 * x.astype(np.float64).var((0, 1, 2), ddof=1), rtol=1e-5
    )


def test_batch_norm_of_one_value_a_channel_is_its_bias() -> None:
    y, state = _batch_norm(np.full((1, 1, 1, 3), 7, np.float32), train=True)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_allclose(state["var"], 0.9, rtol=1e-6)


def test_drop_path_drops_whole_examples_and_keeps_the_expectation() -> None:
    x = jnp.ones((2000, 2, 3))
    dropped = layers.DropPath(0.25, True).apply({}, x, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(dropped)
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1, :1], x.shape))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1, abs=0.05)


def test_drop_path_needs_no_key_in_evaluation() -> None:
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(layers.DropPath(0.5, False).apply({}, x), x)


def test_gelus_are_their_formulas() -> None:
    x = np.linspace(-6, 6, 201)
    exact = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(layers.GELUS["exact"](jnp.asarray(x, jnp.float32)), exact, atol=1e-6)
    np.testing.assert_allclose(layers.GELUS["tanh"](jnp.asarray(x, jnp.float32)), tanh, atol=1e-6)


def test_a_name_under_no_layer_is_refused() -> None:
    with pytest.raises(
        UserError, match="parameter 'heat/kernel' belongs to no layer of the model; nearest: 'head'"
    ):
        layers.layer_of("heat/kernel", (("embedding",), ("head",)))


def test_a_prefix_matches_whole_components_of_a_name() -> None:
    order = (("encoderblock_1",), ("encoderblock_10",), ("head",))
    assert layers.layer_of("encoderblock_10/LayerNorm_0/scale", order) == 1


@pytest.mark.parametrize(
    ("distribution", "shape", "stddev"),
    [
        (initial.he_normal, (3, 3, 16, 64), (2 / (9 * 64)) ** 0.5),
        (initial.lecun_normal, (8, 8, 3, 64), (1 / (64 * 3)) ** 0.5),
        (initial.xavier_uniform, (96, 384), (2 / (96 + 384)) ** 0.5),
        (initial.split_heads(initial.xavier_uniform), (96, 3, 32), (2 / (96 + 96)) ** 0.5),
        (initial.joined_heads(initial.xavier_uniform), (3, 32, 96), (2 / (96 + 96)) ** 0.5),
        (initial.normal(0.02), (1, 65, 96), 0.02),
    ],
)
def test_distributions_have_their_formulas_variance(
    distribution: initial.Draw, shape: tuple[int, ...], stddev: float
) -> None:
    values = distribution(np.random.default_rng(0), shape)
    assert values.shape == shape
    assert values.std() == pytest.approx(stddev, rel=0.04)
    assert abs(values.mean()) < 0.05 * stddev


def test_a_leafs_initial_values_depend_on_key_and_name_alone() -> None:
    rules: initial.Rules = ((".", initial.normal(1.0)),)
    leaf = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    few = tree.flatten(initial.draw(jax.random.key(0), {"a": leaf}, rules))
    many = tree.flatten(initial.draw(jax.random.key(0), {"b": leaf, "a": leaf}, rules))
    np.testing.assert_array_equal(few["a"], many["a"])
    assert not np.array_equal(many["a"], many["b"])


def test_a_leaf_without_a_rule_is_refused() -> None:
    with pytest.raises(AssertionError, match="no rule says how a begins"):
        initial.draw(
            jax.random.key(0), {"a": jax.ShapeDtypeStruct((1,), jnp.float32)}, (("b", initial.zeros),)
        )


@pytest.mark.parametrize(
    ("family", "size", "setting", "value", "otherwise"),
    [
        ("vit", "clip_b32", "has_pre_norm", False, True),
        ("vit", "clip_b32", "has_patch_bias", True, False),
        ("vit", "ti16", "has_pre_norm", True, False),
        ("vit", "ti16", "has_patch_bias", False, True),
        ("resnet", "keras50", "is_v1", False, True),
        ("resnet", "keras50", "has_conv_bias", False, True),
        ("mobilenet_v2", "110d", "has_fixed_ends", False, True),
        ("bert", "bert_base", "num_segments", 0, 2),
        ("bert", "roberta_base", "position_offset", 0, 2),
    ],
)
def test_false_and_zero_are_chosen_and_only_none_is_the_sizes_own(
    family: str, size: str, setting: str, value: Any, otherwise: Any
) -> None:
    kind = MODELS[family]
    assert getattr(kind.resolve(kind.Config(size=size, **{setting: value})), setting) == value
    assert getattr(kind.resolve(kind.Config(size=size)), setting) == otherwise


@pytest.mark.parametrize("family", MODELS)
def test_every_setting_that_can_be_false_of_a_size_can_be_chosen(family: str) -> None:
    """A size never overrides what a user can have meant: what it sets is None by default, or 0 is none."""
    kind = MODELS[family]
    kinds_of_setting = {each.name: each for each in fields(kind.Config)}
    for name in {name for size in kind.sizes.values() for name in size}:
        values = {size[name] for size in kind.sizes.values() if name in size}
        if any(isinstance(value, bool) or value == 0 for value in values):
            assert kinds_of_setting[name].default is None, name


def test_settings_that_were_saved_before_are_unset_where_they_were() -> None:
    saved = {"size": "clip_b32", "has_pre_norm": False, "has_patch_bias": True, "dim": 0}
    assert layers.as_now_written(saved) == {**saved, "has_pre_norm": None, "has_patch_bias": None}
    assert layers.as_now_written({"has_patch_bias": False}) == {"has_patch_bias": False}
