"""L2-SP and BSS: what their penalties are, where they vanish, and what they move."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import Outputs
from jtl.strategies import bss
from jtl.strategies.contract import TRAIN, Moment, plain_forward
from tests import tiny


def _penalty(parts: Any, params: Any, features: Any = None) -> tuple[float, dict[str, float]]:
    assert parts.strategy.penalty is not None
    features = jnp.zeros((2, 2)) if features is None else jnp.asarray(features)
    outputs, arrays = Outputs(features, features, {}, {}), jax.tree.map(jnp.asarray, params)
    moment = Moment(plain_forward, arrays, {}, {TRAIN: outputs}, jnp.zeros([], int), jax.random.key(0))
    value, reported = parts.strategy.penalty(moment)
    return float(value), {name: float(each) for name, each in reported.items()}


def test_l2_sp_is_zero_at_the_start() -> None:
    parts, params, _ = tiny.make_parts("vit", "l2_sp", beta=0.0)
    assert _penalty(parts, params) == (0.0, {"distance": 0.0})


def test_l2_sp_is_half_alpha_of_the_squared_distance_and_half_beta_of_the_heads_norm() -> None:
    parts, params, _ = tiny.make_parts("vit", "l2_sp", alpha=0.5, beta=0.25)
    head = sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(params["head"]))
    params["cls"] = params["cls"] + 2.0
    params["embedding"]["bias"] = params["embedding"]["bias"] - 1.0
    distance = 4.0 * params["cls"].size + params["embedding"]["bias"].size
    value, reported = _penalty(parts, params)
    assert value == pytest.approx(0.25 * distance + 0.125 * head, rel=1e-5)
    assert reported["distance"] == pytest.approx(np.sqrt(distance), rel=1e-5)


@pytest.mark.slow
def test_l2_sp_keeps_the_backbone_nearer_to_its_start_and_writes_no_copy_of_it() -> None:
    ends = {}
    for alpha in (0.0, 10.0):
        parts, params, model_state = tiny.make_parts("vit", "l2_sp", alpha=alpha, beta=0.0)
        batches = [tiny.make_batch(parts, seed=seed) for seed in range(4)]
        state, reported = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), batches)
        ends[alpha] = reported[-1]["distance"]
        merged = parts.strategy.merged(tree.merge(state.trainable, state.frozen))
        assert tree.flatten(merged).keys() == {
            name for name in tree.flatten(params) if not name.startswith("extra/")
        }
    assert ends[10.0] < 0.9 * ends[0.0]


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_bss_is_the_sum_of_the_smallest_squared_singular_values(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    squares = np.sort(np.square(np.linalg.svd(features, compute_uv=False)))
    for count in (1, 3):
        found = bss.smallest_squares(jnp.asarray(features), count)
        assert float(found) == pytest.approx(squares[:count].sum(), rel=1e-4)
    parts, params, _ = tiny.make_parts("vit", "bss", weight=0.5, num_singular=2)
    value, _ = _penalty(parts, params, features)
    assert value == pytest.approx(0.5 * squares[:2].sum(), rel=1e-4)


def test_bss_pushes_along_the_weakest_direction_alone() -> None:
    """The gradient of the smallest squared singular value is 2 s u vᵀ."""
    features = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    left, values, right = np.linalg.svd(features, full_matrices=False)
    found = jax.grad(lambda x: bss.smallest_squares(x, 1))(jnp.asarray(features))
    np.testing.assert_allclose(found, 2 * values[-1] * np.outer(left[:, -1], right[-1]), atol=1e-4)


@pytest.mark.parametrize(
    ("strategy", "fields", "message"),
    [
        ("l2_sp", {"alpha": -1.0}, "strategy.alpha is -1.0"),
        ("bss", {"num_singular": 0}, "strategy.num_singular is 0"),
    ],
)
def test_settings_out_of_range_are_refused(strategy: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", strategy, **fields)


def test_more_singular_values_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"strategy.num_singular is 3; features of \(2, 5\) have 2"):
        bss.smallest_squares(jnp.ones((2, 5)), 3)
