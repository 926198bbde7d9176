"""Ridge regression whose strength is chosen by leaving one example out, in closed form (Golub et al. 1979).

The residual of an example that was left out is that of the fit divided by 1 - its leverage, so one singular
value decomposition serves all strengths.
"""

import numpy as np
from jaxtyping import Float, Int

from jtl.ranking.contract import Features, one_hot

# Against the mean squared length of the features.
STRENGTHS = 10.0 ** np.arange(-6.0, 4.0)


def predicted(
    features: Features, targets: Float[np.ndarray, "n v"], others: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "m v"]:
    """Return what the ridge of the best strength gives for others; offsets are free."""
    features = np.asarray(features, np.float64)
    mean, offset = features.mean(axis=0, keepdims=True), targets.mean(axis=0, keepdims=True)
    centred, apart = features - mean, targets - offset
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    sigma, inside = singular**2, left.T @ apart
    scale = max(float(np.sum(sigma)) / len(features), np.finfo(np.float64).tiny)
    errors = []
    for strength in STRENGTHS * scale:
        kept = sigma / (sigma + strength)
        leverage = (left**2) @ kept + 1.0 / len(features)
        fitted = left @ (kept[:, None] * inside)
        free = np.maximum(1.0 - leverage, 1e-12)
        errors.append(np.sum(((apart - fitted) / free[:, None]) ** 2))
    strength = STRENGTHS[int(np.argmin(errors))] * scale
    kernel = right.T @ ((singular / (sigma + strength))[:, None] * inside)
    return (np.asarray(others, np.float64) - mean) @ kernel + offset


def classified(
    features: Features, labels: Int[np.ndarray, " n"], others: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, " m"]:
    """Return the class whose one-hot column the ridge gives most for others."""
    return predicted(features, one_hot(labels), others).argmax(axis=1)
