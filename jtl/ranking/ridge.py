"""Ridge regression whose strength is chosen by leaving one example out, in closed form (Golub et al. 1979).

The residual of an example that was left out is that of the fit divided by 1 - its leverage, so one
decomposition serves all strengths.
"""

import numpy as np
from jaxtyping import Float, Int

from jtl.ranking.contract import Features, one_hot

# Against the mean squared length of the features.
STRENGTHS = 10.0 ** np.arange(-6.0, 4.0)
# Of squared singular values, against the largest: below are rounding errors.
SMALLEST = 1e-13


def predicted(
    features: Features, targets: Float[np.ndarray, "n v"], others: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "m v"]:
    """Return what the ridge of the best strength gives for others; offsets are free."""
    features = np.asarray(features, np.float64)
    mean, offset = features.mean(axis=0, keepdims=True), targets.mean(axis=0, keepdims=True)
    apart = targets - offset
    known, asked, sigma = _principal(features - mean, np.asarray(others, np.float64) - mean)
    inside = known.T @ apart
    scale = max(float(np.sum(sigma)) / len(features), np.finfo(np.float64).tiny)
    errors = []
    for strength in STRENGTHS * scale:
        leverage = known**2 @ (1.0 / (sigma + strength)) + 1.0 / len(features)
        fitted = known @ (inside / (sigma + strength)[:, None])
        free = np.maximum(1.0 - leverage, 1e-12)
        errors.append(np.sum(((apart - fitted) / free[:, None]) ** 2))
    strength = STRENGTHS[int(np.argmin(errors))] * scale
    return asked @ (inside / (sigma + strength)[:, None]) + offset


def _principal(
    centred: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "m k"], Float[np.ndarray, " k"]]:
    """Return both along the directions in which the first spread, and how much they do (squared).

    Of the smaller of the two Gram matrices, which takes a tenth of the time of the decomposition itself.
    """
    num_examples, dim = centred.shape
    is_wide = dim > num_examples
    gram = centred @ centred.T if is_wide else centred.T @ centred
    sigma, vectors = np.linalg.eigh(gram)
    is_kept = sigma > SMALLEST * max(float(sigma[-1]), np.finfo(np.float64).tiny)
    sigma, vectors = sigma[is_kept], vectors[:, is_kept]
    directions = centred.T @ vectors / np.sqrt(sigma)[None] if is_wide else vectors
    return centred @ directions, others @ directions, sigma


def classified(
    features: Features, labels: Int[np.ndarray, " n"], others: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, " m"]:
    """Return the class whose one-hot column the ridge gives most for others."""
    return predicted(features, one_hot(labels), others).argmax(axis=1)
