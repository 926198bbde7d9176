"""Fusion in weight space: the laws of soups, interpolation and pooled moments, against numpy."""

import itertools
from typing import Any

import numpy as np
import pytest

from jtl import tree
from jtl.verbs.fuse import fusion

# One rounding to float32: half of its last bit, and of the smallest number it has.
HALF_A_BIT, DENORMAL = 2.0**-24 * (1 + 1e-6), 2.0**-150


def _tree(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    kernel, sign = random.normal(size=(7, 5)).astype(np.float32), (-1) ** seed
    # What a careless sum changes: the sign of zero, and values of very different size.
    return {
        "head": {"kernel": kernel, "bias": np.float32([-0.0, 0.0, 1e-40, 3e38]) * np.float32(sign)},
        "scale": np.exp(20 * random.normal(size=50)).astype(np.float32),
    }


def _bits(values: Any) -> dict[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in tree.flatten(values).items()}


def test_interpolation_has_the_ends_bits() -> None:
    start, end = _tree(0), _tree(1)
    assert _bits(fusion.interpolate(start, end, 0.0)) == _bits(start)
    assert _bits(fusion.interpolate(start, end, 1.0)) == _bits(end)
    assert _bits(fusion.interpolate(start, start, 0.3)) == _bits(start)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_interpolation_is_the_formula(alpha: float) -> None:
    start, end = (tree.flatten(_tree(seed)) for seed in (0, 1))
    found = tree.flatten(fusion.interpolate(start, end, alpha))
    for name, leaf in start.items():
        wide = (1 - np.longdouble(alpha)) * leaf + np.longdouble(alpha) * end[name]
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wide, rtol=HALF_A_BIT, atol=DENORMAL)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_soup_of_copies_is_the_copy(count: int) -> None:
    assert _bits(fusion.mean(_tree(0) for _ in range(count))) == _bits(_tree(0))


def test_soup_is_the_mean_and_does_not_hang_on_the_order() -> None:
    members = [_tree(seed) for seed in range(4)]
    soups = [fusion.mean(order) for order in itertools.permutations(members)]
    for name, leaf in tree.flatten(soups[0]).items():
        stacked = np.stack([tree.flatten(each)[name] for each in members]).astype(np.longdouble)
        for soup in soups:
            found = tree.flatten(soup)[name]
            np.testing.assert_allclose(found, stacked.mean(0), rtol=HALF_A_BIT, atol=DENORMAL)
            np.testing.assert_allclose(found, leaf, rtol=2 * HALF_A_BIT)


def test_greedy_soup_tries_the_members_in_order_and_keeps_those_that_do_no_harm() -> None:
    values = {(1,): 0.5, (1, 0): 0.4, (1, 2): 0.5, (1, 2, 3): 0.6}
    chosen, decisions = fusion.greedy([1, 0, 2, 3], values.__getitem__)
    assert chosen == (1, 2, 3)
    assert [tuple(each) for each in decisions] == [
        (1, 0.5, True),
        (0, 0.4, False),
        (2, 0.5, True),
        (3, 0.6, True),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_soup_is_never_worse_than_its_best_member(seed: int) -> None:
    random = np.random.default_rng(seed)
    values: dict[tuple[int, ...], float] = {}

    def value(members: tuple[int, ...]) -> float:
        return values.setdefault(members, random.random())

    ranking = sorted(range(6), key=lambda member: -value((member,)))
    chosen, _ = fusion.greedy(ranking, value)
    assert values[chosen] >= max(values[(member,)] for member in range(6))


def test_member_without_a_value_is_left_out() -> None:
    chosen, _ = fusion.greedy([0, 1], lambda members: float("nan") if 1 in members else 0.5)
    assert chosen == (0,)


def test_pooled_moments_are_those_of_all_examples() -> None:
    random = np.random.default_rng(0)
    batches = [1000 + random.normal(size=(size, 9, 4)) for size in (5, 1, 12)]
    pooled = None
    for batch in batches:
        state = {"batch_stats": {"bn": {"mean": batch.mean((0, 1)), "var": batch.var((0, 1))}}}
        found = fusion.moments(len(batch), state)
        pooled = found if pooled is None else fusion.pool(pooled, found)
    every = np.concatenate(batches)
    made = fusion.as_statistics(pooled)["batch_stats"]["bn"]
    np.testing.assert_allclose(made["mean"], every.mean((0, 1)), rtol=1e-7)
    np.testing.assert_allclose(made["var"], every.var((0, 1)), rtol=1e-6)
