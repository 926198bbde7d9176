"""Nearest class mean of centred features of length 1: SimpleShot's CL2N (Wang et al. 2019).

The paper centres by the mean of its base classes; without such examples the mean of the labelled ones stands
in for it.
"""

import numpy as np
from jaxtyping import Float, Int

from jtl.ranking.contract import Features, class_means


def classified(
    features: Features,
    labels: Int[np.ndarray, " n"],
    others: Float[np.ndarray, "m d"],
    centre: Float[np.ndarray, "1 d"] | None = None,
) -> Int[np.ndarray, " m"]:
    """Return the class whose mean lies nearest to each of the others; `centre` is that of base classes."""
    features = np.asarray(features, np.float64)
    middle = features.mean(axis=0, keepdims=True) if centre is None else centre
    means = class_means(unit(features - middle), labels)
    found = unit(np.asarray(others, np.float64) - middle)
    # Of |x - m|² what differs between classes.
    return (found @ means.T - 0.5 * np.sum(means**2, axis=1)[None]).argmax(axis=1)


def by_prototypes(
    features: Features,
    labels: Int[np.ndarray, " n"],
    others: Float[np.ndarray, "m d"],
    centre: Float[np.ndarray, "1 d"] | None = None,
) -> Int[np.ndarray, " m"]:
    """Return the class whose mean lies nearest to each of the others, of features as they are.

    What prototypical networks learn for (Snell et al. 2017, eq. 2), which need no centre.
    """
    del centre
    means = class_means(np.asarray(features, np.float64), labels)
    return (np.asarray(others, np.float64) @ means.T - 0.5 * np.sum(means**2, axis=1)[None]).argmax(axis=1)


def unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return the features with length 1; what has none stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)
