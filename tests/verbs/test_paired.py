"""Paired statistics against SciPy's own test, and what they say of few runs."""

import math

import numpy as np
import pytest
from scipy import stats

from jtl.verbs.compare.paired import Gain, gain, spread, verdict

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_is_that_of_the_paired_t_test(count: int) -> None:
    ours, theirs = RANDOM.normal(0.8, 0.1, count), RANDOM.normal(0.7, 0.1, count)
    found = gain(dict(enumerate(ours)), dict(enumerate(theirs)))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(ours - theirs))
    assert found.std == pytest.approx(np.std(ours - theirs, ddof=1))
    assert found.num_pairs == count


def test_interval_over_folds_is_wider_by_what_the_folds_share() -> None:
    ours, theirs = RANDOM.normal(0.8, 0.1, 5), RANDOM.normal(0.7, 0.1, 5)
    found = gain(dict(enumerate(ours)), dict(enumerate(theirs)), shared_fraction=1 / 4)
    difference = ours - theirs
    # Nadeau & Bengio 2003: t = mean / sqrt((1 / k + n_test / n_train) s^2), here 1 / 5 + 1 / 4.
    half = stats.t.ppf(0.975, 4) * math.sqrt((1 / 5 + 1 / 4) * difference.var(ddof=1))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half))


def test_only_runs_that_both_have_are_compared() -> None:
    found = gain({0: 0.9, 1: 0.5, 7: 0.1}, {1: 0.4, 0: 0.7, 9: 1.0})
    assert found is not None
    assert found.num_pairs == 2
    assert found.mean == pytest.approx(0.15)
    assert gain({0: 0.9}, {1: 0.9}) is None


def test_less_is_better_where_the_metric_is_minimised() -> None:
    ours, theirs = {0: 0.2, 1: 0.3, 2: 0.25}, {0: 1.2, 1: 1.1, 2: 1.0}
    found = gain(ours, theirs, is_maximized=False)
    assert found is not None
    assert (found.mean > 0, verdict(found)) == (True, "better")
    back = gain(theirs, ours, is_maximized=False)
    assert back is not None
    assert verdict(back) == "worse"


def test_one_pair_has_no_interval_and_equal_runs_no_winner() -> None:
    single = gain({0: 0.9}, {0: 0.1})
    assert single is not None
    assert (single.low, single.std, verdict(single)) == (None, None, "single")
    same = gain({0: 0.9, 1: 0.8}, {0: 0.9, 1: 0.8})
    assert same is not None
    assert verdict(same) == "unclear"
    alike = gain({0: 0.9, 1: 0.8}, {0: 0.8, 1: 0.7})
    assert alike is not None
    assert (alike.mean, alike.low, alike.high, verdict(alike)) == (0.1, 0.1, 0.1, "alike")


@pytest.mark.parametrize(
    ("low", "high", "word"), [(-1, -0.1, "worse"), (-0.1, 0.0, "unclear"), (0.1, 1, "better")]
)
def test_verdict_is_the_side_of_zero_the_interval_is_on(low: float, high: float, word: str) -> None:
    assert verdict(Gain((low + high) / 2, low, high, 0.1, 3)) == word


def test_spread_of_one_value_has_no_deviation() -> None:
    assert spread([0.5]) == (0.5, None, 0.5, 0.5, 1)
    assert spread([0.5, 0.7, 0.9]).std == pytest.approx(np.std([0.5, 0.7, 0.9], ddof=1))
