"""LogME: the largest evidence, per example, of a Bayesian linear model of the labels (You et al. 2021).

y ~ N(F w, 1 / beta), w ~ N(0, 1 / alpha): the evidence is maximised over alpha and beta and averaged over
the classes (one-hot) or target values. For a ratio t = alpha / beta the best beta has a closed form, so one
number is searched for, on a grid that narrows, in place of the paper's fixed-point iteration.
Of zero singular values the log determinant counts none; the authors' code counts them where d > n.
"""

import numpy as np
from jaxtyping import Float

from jtl.ranking.contract import Features, one_hot

# log10 of t against the largest eigenvalue of F Fᵀ; beyond, nothing or everything is explained.
LOW, HIGH = -12.0, 6.0
NUM_POINTS, NUM_ROUNDS = 37, 8
TINY = 1e-300


def log_me(features: Features, labels: np.ndarray) -> float:
    """Return the evidence per example in nats; numbers are standardised, so that their unit plays no part."""
    targets = one_hot(labels) if labels.ndim == 1 else _standardised(labels)
    return float(np.mean(evidences(features, targets)))


def evidences(features: Features, targets: Float[np.ndarray, "n v"]) -> Float[np.ndarray, " v"]:
    """Return the largest evidence per example of each target."""
    left, singular, _ = np.linalg.svd(np.asarray(features, np.float64), full_matrices=False)
    sigma = singular**2
    inside = (left.T @ targets) ** 2
    outside = np.maximum(np.sum(targets**2, axis=0) - inside.sum(axis=0), 0.0)
    scale = float(np.log10(max(sigma.max(), TINY)))
    # [points v]: each target has a grid of its own, around its own best.
    grid = np.linspace(LOW, HIGH, NUM_POINTS)[:, None] + scale + np.zeros((1, targets.shape[1]))
    best = np.full(targets.shape[1], -np.inf)
    for _ in range(NUM_ROUNDS):
        found = _evidence(10.0**grid, sigma, inside, outside, len(targets))
        place = found.argmax(axis=0)
        best = np.maximum(best, found.max(axis=0))
        middle = np.take_along_axis(grid, place[None], axis=0)
        width = 2.0 * (grid[1] - grid[0])[None]
        grid = middle + width * np.linspace(-0.5, 0.5, NUM_POINTS)[:, None]
    return best


def _evidence(
    ratio: Float[np.ndarray, "points v"],
    sigma: Float[np.ndarray, " k"],
    inside: Float[np.ndarray, "k v"],
    outside: Float[np.ndarray, " v"],
    num_examples: int,
) -> Float[np.ndarray, "points v"]:
    """Return log N(y; 0, (I + F Fᵀ / t) / beta) / n for each ratio t, with the beta that is best for it."""
    stretch = 1.0 + sigma[None, :, None] / ratio[:, None, :]
    square = np.sum(inside[None] / stretch, axis=1) + outside[None]
    variance = np.maximum(square / num_examples, TINY)
    determinant = np.sum(np.log(stretch), axis=1)
    return -0.5 * (np.log(2.0 * np.pi * variance) + 1.0 + determinant / num_examples)


def _standardised(targets: Float[np.ndarray, "n v"]) -> Float[np.ndarray, "n v"]:
    spread = targets.std(axis=0, keepdims=True)
    return (targets - targets.mean(axis=0, keepdims=True)) / np.where(spread > 0, spread, 1.0)
