"""SFDA: Fisher discriminants of features that are drawn towards the other classes (Shao et al. 2022).

Shrunk discriminant analysis gives every example a probability of its class; examples that are less sure are
moved towards the mean of the other classes (the paper's self-challenge), and discriminants of the same
shrinkage are fitted anew. As in the authors' code the result is the mean probability, not its logarithm.
"""

import numpy as np
from jaxtyping import Float

from jtl.ranking.contract import Classes, Features, class_means

DECAY, LEAST_SHRINKAGE = 5.0, 1e-10


def sfda(features: Features, labels: Classes) -> float:
    """Return the mean probability of the right class, between 0 and 1."""
    from scipy.special import softmax

    features = np.asarray(features, np.float64)
    within = _within(features, labels)
    # The paper's rule: little spread within the classes is shrunk the most.
    largest = float(np.linalg.eigvalsh(within)[-1])
    shrinkage = max(float(np.exp(-DECAY * largest)), LEAST_SHRINKAGE)
    rows = np.arange(len(labels))
    first = np.exp(_log_probabilities(features, labels, within, shrinkage))
    # Softened once more, so that few are left where they are.
    sure = softmax(first, axis=1)[rows, labels][:, None]
    means = class_means(features, labels)
    others = (means.sum(axis=0, keepdims=True) - means) / max(len(means) - 1, 1)
    moved = sure * features + (1.0 - sure) * others[labels]
    second = _log_probabilities(moved, labels, _within(moved, labels), shrinkage)
    return float(np.mean(np.exp(second[rows, labels])))


def _within(features: Features, labels: Classes) -> Float[np.ndarray, "d d"]:
    """Return the covariance around the means of the classes."""
    apart = features - class_means(features, labels)[labels]
    return apart.T @ apart / len(labels)


def _log_probabilities(
    features: Features, labels: Classes, within: Float[np.ndarray, "d d"], shrinkage: float
) -> Float[np.ndarray, "n classes"]:
    """Return log posteriors of Gaussian classes with one covariance, shrunk to a multiple of the identity."""
    from scipy.special import log_softmax

    num_features = len(within)
    shrunk = (1.0 - shrinkage) * within
    shrunk = shrunk + shrinkage * np.trace(within) / num_features * np.eye(num_features)
    means = class_means(features, labels)
    kernel = np.linalg.lstsq(shrunk, means.T, rcond=None)[0]
    bias = np.log(np.bincount(labels) / len(labels)) - 0.5 * np.sum(means.T * kernel, axis=0)
    return log_softmax(features @ kernel + bias[None], axis=1)
