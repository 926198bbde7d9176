"""Orders of training examples: what they draw how often, at any position, from any start."""

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from grain import MapDataset

from jtl.data import pipeline
from jtl.data.contract import Info
from jtl.data.sampling import SAMPLINGS, check_name, check_source, drawn_counts, order_of
from jtl.data.sources.arrays import Arrays
from jtl.errors import UserError
from jtl.inputs import image

COUNTS = np.array([49, 16, 4, 1])
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4], COUNTS))
NAMES = ("a", "b", "none of these", "c", "d")
BY_CLASS = sorted(SAMPLINGS.keys() - {"uniform"})


def _source(labels: np.ndarray = LABELS, names: tuple[str, ...] = NAMES) -> Arrays:
    return Arrays(Info("set", names), np.zeros((len(labels), 4, 4, 3), np.uint8), labels)


def _drawn(sampling: str, count: int, seed: int = 0, start: int = 0) -> np.ndarray:
    order = order_of(_source(), sampling, seed)
    return np.array([order[position] for position in range(start, start + count)])


def _batches(**settings: Any) -> list[np.ndarray]:
    settings = {"batch_size": 8, "seed": 3, "config": pipeline.Config(threads=2), **settings}
    batches = pipeline.train_batches(_source(), lambda pixels, _: pixels, image.INPUT, **settings)
    found = [batch["id"] for batch in itertools.islice(batches, 20)]
    batches.close()
    return found


def test_any_as_many_positions_in_a_row_as_classes_have_each_class_once() -> None:
    labels = LABELS[_drawn("class_balanced", 200)]
    for start in range(200 - 4):
        assert sorted(labels[start : start + 4]) == [0, 1, 3, 4]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_examples_of_a_class_are_drawn_equally_often(sampling: str) -> None:
    drawn = np.bincount(_drawn(sampling, 10 * len(LABELS)), minlength=len(LABELS))
    for label in np.unique(LABELS):
        own = drawn[label == LABELS]
        assert own.max() - own.min() <= 1


def test_a_round_by_square_roots_has_the_classes_in_their_ratio() -> None:
    size = len(LABELS)
    # Shares of 70 by 7 : 4 : 2 : 1 are whole numbers.
    for epoch in range(3):
        labels = LABELS[_drawn("square_root", size, start=epoch * size)]
        assert np.bincount(labels).tolist() == [35, 20, 0, 10, 5]


def test_rounds_by_square_roots_mix_the_classes_anew_in_every_round_and_for_every_seed() -> None:
    size = len(LABELS)
    # Not neighbours: Grain seeds round r with seed + r. The pipeline's are words of a SeedSequence.
    rounds = [LABELS[_drawn("square_root", size, seed, start)] for seed in (0, 7) for start in (0, size)]
    assert len({tuple(each.tolist()) for each in rounds}) == 4


@pytest.mark.parametrize("counts", [[5, 5, 5], [1000, 1], [7, 5, 3, 1], [0, 3, 0, 8], [1]])
def test_drawn_counts_are_the_apportioned_roots(counts: list[int]) -> None:
    found = drawn_counts("square_root", np.array(counts))
    roots = np.sqrt(counts)
    shares = roots / roots.sum() * sum(counts)
    assert found.sum() == sum(counts)
    assert np.abs(found - shares).max() < 1
    assert ((found > 0) == (np.array(counts) > 0)).all()


@pytest.mark.parametrize("sampling", BY_CLASS)
def test_what_is_drawn_has_the_counts_that_the_loss_is_told(sampling: str) -> None:
    expected = drawn_counts(sampling, np.bincount(LABELS))
    drawn = np.bincount(LABELS[_drawn(sampling, int(expected.sum()))], minlength=5)
    assert drawn.tolist() == expected.tolist()


@pytest.mark.parametrize("sampling", BY_CLASS)
def test_seeds_give_other_orders_and_the_same_seed_the_same(sampling: str) -> None:
    own = [tuple(_drawn(sampling, 40, seed)) for seed in (0, 1, 2, 0)]
    assert own[0] == own[3]
    assert len(set(own)) == 3
    big, other = (
        [each for each in _drawn(sampling, 2 * 4 * 49, seed).tolist() if LABELS[each] == 0] for seed in (0, 1)
    )
    assert big[:49] != other[:49]
    assert big[:49] != big[49 : 2 * 49]


@pytest.mark.parametrize("sampling", BY_CLASS)
def test_classes_do_not_share_an_order(sampling: str) -> None:
    labels = np.arange(60) % 2
    order = order_of(_source(labels, ("a", "b")), sampling, 0)
    drawn = np.array([order[position] for position in range(60)])
    assert (drawn[labels[drawn] == 0] // 2).tolist() != (drawn[labels[drawn] == 1] // 2).tolist()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("start", [1, 7, 13])
def test_starting_at_a_step_is_skipping_to_it(sampling: str, start: int) -> None:
    whole = _batches(sampling=sampling)
    later = _batches(sampling=sampling, start_step=start)
    np.testing.assert_array_equal(later[: 20 - start], whole[start:])


@pytest.mark.parametrize("sampling", BY_CLASS)
def test_shards_cut_the_same_batches(sampling: str) -> None:
    parts = [_batches(sampling=sampling, shard_index=index, num_shards=2) for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), _batches(sampling=sampling))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_orders_reach_worker_processes(sampling: str) -> None:
    order = order_of(_source(), sampling, 5)
    again = pickle.loads(pickle.dumps(order))
    assert [again[position] for position in range(90)] == [order[position] for position in range(90)]


def test_uniform_is_the_default_and_a_permutation_an_epoch_seeded_as_ever() -> None:
    word = np.random.SeedSequence(3).generate_state(2, np.uint64)[0]
    expected = MapDataset.range(len(LABELS)).shuffle(seed=int(word >> np.uint64(32))).repeat()
    found = np.concatenate(_batches())
    assert found.tolist() == [expected[position] for position in range(160)]
    np.testing.assert_array_equal(found, np.concatenate(_batches(sampling="uniform")))


@pytest.mark.parametrize(
    ("labels", "names"),
    [(np.eye(4, dtype=np.float32), tuple("abcd")), (np.ones((4, 1), np.float32), ())],
)
@pytest.mark.parametrize("sampling", BY_CLASS)
def test_examples_without_one_class_each_are_refused(
    sampling: str, labels: np.ndarray, names: tuple[str, ...]
) -> None:
    with pytest.raises(
        UserError, match=rf"train.sampling is '{sampling}', but the examples of set have not one"
    ):
        check_source(sampling, _source(labels, names))
    check_source("uniform", _source(labels, names))


@pytest.mark.parametrize("sampling", ["episodic:4", "episodic:4x3"])
def test_no_example_is_twice_in_a_visit_of_a_class_that_visits_do_not_divide(sampling: str) -> None:
    labels = np.repeat(np.arange(5), [4, 5, 7, 9, 11])
    order = order_of(_source(labels, NAMES), sampling, 0)
    visits = np.array([order[position] for position in range(4 * 300)]).reshape(-1, 4)
    assert all(len(set(visit)) == 4 for visit in visits.tolist())
    assert (labels[visits] == labels[visits[:, :1]]).all()
    # Over many rounds all examples of a class have been drawn alike, to 5 standard deviations.
    counts = np.bincount(visits.reshape(-1), minlength=len(labels))
    for label in range(5):
        own = counts[labels == label]
        np.testing.assert_allclose(own, own.mean(), atol=5 * np.sqrt(own.mean()))


def test_no_class_is_twice_in_an_episode_of_so_many_classes() -> None:
    labels = np.repeat(np.arange(5), 6)
    order = order_of(_source(labels, NAMES), "episodic:2x3", 1)
    episodes = labels[[order[position] for position in range(6 * 100)]].reshape(-1, 3, 2)
    assert all(len(set(each)) == 3 for each in episodes[:, :, 0].tolist())
    counts = np.bincount(episodes.reshape(-1), minlength=5)
    np.testing.assert_allclose(counts, counts.mean(), rtol=0.3)


@pytest.mark.parametrize(
    ("sampling", "sizes", "message"),
    [
        ("episodic:4", [4, 3], "draws 4 examples of a class, and 'b' has 3 for training; lower it, or leave"),
        ("episodic:2x3", [4, 4], "episodes are of 3 classes or more, and there are training examples of 2"),
        ("episodic:2", [4], "episodes are of 2 classes or more, and there are training examples of 1; give"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_one_line(sampling: str, sizes: list[int], message: str) -> None:
    with pytest.raises(UserError, match=f"train.sampling is '{sampling}', .*{message}"):
        check_source(sampling, _source(np.repeat(np.arange(len(sizes)), sizes)))


def test_an_episode_has_so_many_examples_of_each_class_in_a_row() -> None:
    labels = np.repeat(np.arange(5), 12)
    order = order_of(_source(labels, NAMES), "episodic:4", 0)
    drawn = np.array([order[position] for position in range(5 * 4 * 9)]).reshape(9, 5, 4)
    for number in range(9):
        # A round has every class once, and of each four examples that differ: 4 divides 12.
        classes = labels[drawn[number]]
        assert (classes == classes[:, :1]).all()
        assert sorted(classes[:, 0]) == [0, 1, 2, 3, 4]
        assert len(np.unique(drawn[number])) == 20
    assert len({tuple(labels[each[:, 0]]) for each in drawn}) > 5


@pytest.mark.parametrize(
    "sampling",
    [
        "episodic:0",
        "episodic:x",
        "episodic:",
        "uniform:3",
        f"episodic:{2**31}",
        "episodic:2x",
        "episodic:2x3x4",
    ],
)
def test_a_number_that_is_none_or_goes_with_no_sampling_is_refused(sampling: str) -> None:
    with pytest.raises(UserError, match=r"of which episodic may have a number behind it, such as episodic:8"):
        check_name(sampling)


def test_episodes_of_one_class_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"'episodic:8x1', whose episodes are of one class; expected 2 or more"
    ):
        check_name("episodic:8x1")


def test_unknown_sampling_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"train.sampling is 'balanced'; nearest: 'class_balanced'"):
        check_name("balanced")
