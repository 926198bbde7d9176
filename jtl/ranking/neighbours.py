"""Nearest neighbours by the cosine of features: what the examples that look most alike say of one."""

import numpy as np
from jaxtyping import Float, Shaped

from jtl.ranking.contract import Features, one_hot
from jtl.ranking.nearest_mean import unit

NUM_NEIGHBOURS = 5


def voted(
    features: Features, labels: Shaped[np.ndarray, " n"], others: Float[np.ndarray, "m d"]
) -> Shaped[np.ndarray, " m"]:
    """Return the class that most of the nearest have; of equal counts the one that lies closer in sum."""
    similar, nearest = _nearest(features, others)
    votes = one_hot(labels)[nearest]
    # Cosines are at most 1, so that they decide between equal counts alone.
    weights = 1.0 + 0.5 * similar / NUM_NEIGHBOURS
    return np.sum(votes * weights[:, :, None], axis=1).argmax(axis=1)


def averaged(
    features: Features, targets: Float[np.ndarray, "n v"], others: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "m v"]:
    """Return the mean of the targets of the nearest."""
    _, nearest = _nearest(features, others)
    return targets[nearest].mean(axis=1)


def _nearest(
    features: Features, others: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "m k"], Shaped[np.ndarray, "m k"]]:
    """Return the cosines and the rows of the nearest of each; of equal ones the first rows."""
    cosines = unit(np.asarray(others, np.float64)) @ unit(np.asarray(features, np.float64)).T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    return np.take_along_axis(cosines, nearest, axis=1), nearest
