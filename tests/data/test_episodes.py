"""Episodes: pure functions of seed and number, without an example on both sides."""

import numpy as np
import pytest

from jtl.data.episodes import Shape, episode, labels_of, members_of

LABELS = np.repeat([3, 0, 7, 5], [9, 6, 8, 7])
MEMBERS = members_of(LABELS)
SHAPE = Shape(ways=3, shots=2, queries=4)


def test_members_are_the_rows_of_each_class_in_their_order() -> None:
    assert [LABELS[rows].tolist() for rows in MEMBERS] == [[0] * 6, [3] * 9, [5] * 7, [7] * 8]


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    def rows(seed: int, number: int) -> list[int]:
        return np.concatenate(episode(MEMBERS, SHAPE, seed, number)).tolist()

    assert rows(1, 5) == rows(1, 5)
    assert len({tuple(rows(seed, number)) for seed in range(3) for number in range(20)}) == 60


@pytest.mark.parametrize("number", range(20))
def test_an_episode_has_its_classes_in_turn_and_no_example_twice(number: int) -> None:
    found = episode(MEMBERS, SHAPE, 0, number)
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == len(rows) == 3 * (2 + 4)
    classes = LABELS[found.support].reshape(3, 2)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0].tolist())) == 3
    np.testing.assert_array_equal(LABELS[found.queries], classes[labels_of(3, 4), 0])


def test_classes_and_examples_are_drawn_evenly() -> None:
    counts = np.zeros(len(LABELS))
    for number in range(3000):
        counts[np.concatenate(episode(MEMBERS, SHAPE, 0, number))] += 1
    for rows in MEMBERS:
        # A class is in 3 of 4 episodes, each of its examples in 6 / size of these; 5 standard deviations.
        expected = 3000 * 0.75 * 6 / len(rows)
        np.testing.assert_allclose(counts[rows], expected, atol=5 * np.sqrt(expected) + 1)


def test_other_shots_are_of_the_same_classes() -> None:
    one, five = (episode(MEMBERS, Shape(2, shots, 1), 0, 4) for shots in (1, 5))
    np.testing.assert_array_equal(LABELS[one.support], LABELS[five.support].reshape(2, 5)[:, 0])
