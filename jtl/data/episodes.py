"""Episodes of few-shot learning: which examples a task of a few classes is made of (Vinyals et al. 2016).

An episode is a pure function of (seed, number), so that any of them can be had without those before.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Shape(NamedTuple):
    """So many classes (`ways`), of each so many labelled (`shots`) and others to tell (`queries`)."""

    ways: int
    shots: int
    queries: int


class Episode(NamedTuple):
    """Rows of the labelled examples and of those to tell, class by class; the labels are 0 to ways - 1."""

    support: Int[np.ndarray, " support"]
    queries: Int[np.ndarray, " queries"]


def members_of(labels: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " members"]]:
    """Return the rows of every class that has any, in the order of the classes."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def episode(members: Sequence[np.ndarray], shape: Shape, seed: int, number: int) -> Episode:
    """Return an episode of classes, and of examples of each, drawn without replacement.

    Every class needs `shots + queries` members. With other shots and as many queries in all an episode of the
    same number is of the same classes.
    """
    random = np.random.default_rng([seed, number])
    classes = random.choice(len(members), shape.ways, replace=False)
    drawn = [random.permutation(members[place])[: shape.shots + shape.queries] for place in classes]
    return Episode(
        np.concatenate([rows[: shape.shots] for rows in drawn]),
        np.concatenate([rows[shape.shots :] for rows in drawn]),
    )


def labels_of(ways: int, count: int) -> Int[np.ndarray, " rows"]:
    """Return the labels of rows that lie class by class, so many of each.

    >>> labels_of(2, 3).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    return np.repeat(np.arange(ways), count)
