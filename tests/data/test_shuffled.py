"""Orders of small sets, against Grain's own."""

import pickle

import numpy as np
import pytest
from grain import MapDataset

from jtl.data.sampling import _permuted
from jtl.data.shuffled import MAX_SIZE, Shuffled


@pytest.mark.parametrize("size", [1, 2, 10, 397, 4097, MAX_SIZE - 1, MAX_SIZE])
def test_order_is_grains(size: int) -> None:
    for seed in (0, 5, 2**32 - 1):
        theirs, ours = MapDataset.range(size).shuffle(seed=seed).repeat(), Shuffled(size, seed)
        positions = np.random.default_rng(0).integers(0, 5 * size, 20).tolist()
        assert [ours[each] for each in positions] == [theirs[each] for each in positions]


def test_an_epoch_has_each_once_and_few_epochs_are_kept() -> None:
    order = Shuffled(50, 3)
    for epoch in range(5):
        assert sorted(order[50 * epoch + place] for place in range(50)) == list(range(50))
    assert sorted(order.kept) == [2, 3, 4]
    again = pickle.loads(pickle.dumps(order))
    assert [again[each] for each in range(100)] == [order[each] for each in range(100)]


def test_larger_sets_have_grains_order_itself() -> None:
    assert isinstance(_permuted(MAX_SIZE, 0), Shuffled)
    assert not isinstance(_permuted(MAX_SIZE + 1, 0), Shuffled)
