import math

import pytest

from jtl.training import progress


def _history(*values: float) -> progress.History:
    return [{"step": number, "accuracy": value} for number, value in enumerate(values, start=1)]


def test_best_is_the_largest_or_the_smallest() -> None:
    history = _history(0.1, 0.7, 0.3)
    assert progress.best(history, "accuracy", is_maximized=True) == history[1]
    assert progress.best(history, "accuracy", is_maximized=False) == history[0]


def test_best_of_equals_is_the_earliest() -> None:
    for is_maximized in (True, False):
        assert progress.best(_history(0.5, 0.5), "accuracy", is_maximized=is_maximized)["step"] == 1


def test_best_of_equals_is_the_one_with_the_lowest_loss() -> None:
    history = [
        {**entry, "loss": loss} for entry, loss in zip(_history(0.5, 0.5, 0.5), (0.3, 0.1, 0.2), strict=True)
    ]
    assert progress.best(history, "accuracy", is_maximized=True) == history[1]


def test_best_passes_over_nan_and_is_none_without_evaluations() -> None:
    assert progress.best(_history(math.nan, 0.2), "accuracy", is_maximized=True)["step"] == 2
    assert progress.best([], "accuracy", is_maximized=True) is None


@pytest.mark.parametrize(("num_entries", "expected"), [(3, False), (4, False), (5, True)])
def test_patience_counts_evaluations_since_the_last_gain(num_entries: int, expected: bool) -> None:
    history = _history(0.1, 0.5, 0.4, 0.5, 0.3)[:num_entries]
    found = progress.is_exhausted(history, "accuracy", is_maximized=True, patience=3, min_gain=0.0)
    assert found is expected


def test_gain_below_the_minimum_does_not_reset_patience() -> None:
    history = _history(0.5, 0.505, 0.509)
    assert progress.is_exhausted(history, "accuracy", is_maximized=True, patience=2, min_gain=0.01)
    assert not progress.is_exhausted(history, "accuracy", is_maximized=True, patience=2, min_gain=0.001)


def test_no_patience_never_stops() -> None:
    assert not progress.is_exhausted(
        _history(*[0.5] * 50), "accuracy", is_maximized=True, patience=0, min_gain=0.0
    )


def test_evaluations_without_a_value_do_not_stop_a_run() -> None:
    history = [{"step": 1, "loss": 1.0}, *_history(0.5, *[math.nan] * 9)]
    assert not progress.is_exhausted(history, "accuracy", is_maximized=True, patience=2, min_gain=0.0)
    history += _history(0.5, 0.5)
    assert progress.is_exhausted(history, "accuracy", is_maximized=True, patience=2, min_gain=0.0)
