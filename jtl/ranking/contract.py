"""The contract of a score: how well features, or a source head's probabilities, suit labels.

Shape legend: n examples, d features, z outputs of the source's head, v target values. Labels are classes
0, 1, … each of which has an example [n], or numbers [n v].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

FEATURES, PROBABILITIES = "features", "probabilities"
CLASS, REGRESSION = "class", "regression"
Classes = Int[np.ndarray, " n"]
Features = Float[np.ndarray, "n d"]


class Score(NamedTuple):
    """One score, of which more is better: `compute(reads, labels)` for labels of these kinds.

    `reads` is what it is computed of: the features, or the probabilities that the weights' own head gives for
    its own classes. `max_examples` (0: any number) is what it can be computed of.
    """

    compute: Callable[[Any, Any], float]
    label_kinds: tuple[str, ...]
    reads: str = FEATURES
    max_examples: int = 0


def one_hot(labels: Classes) -> Float[np.ndarray, "n classes"]:
    """Return a column for every class, 1 where an example is of it."""
    return np.eye(int(labels.max()) + 1)[labels]


def class_means(features: Features, labels: Classes) -> Float[np.ndarray, "classes d"]:
    """Return the mean of the features of each class."""
    members = one_hot(labels)
    return members.T @ features / members.sum(axis=0)[:, None]
