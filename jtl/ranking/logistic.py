"""A logistic probe: the head that `training.solve` solves for, its strength chosen by folds of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from jtl.ranking.contract import Features, one_hot
from jtl.ranking.nearest_mean import unit
from jtl.strategies.contract import Solver
from jtl.training import solve

# For features of mean square 1, so that they mean the same for all models.
SOLVER = Solver((1.0, 10.0, 100.0, 1000.0), 3)
OF_FEW = Solver((1.0,), 2)


def classified(
    features: Features, labels: Int[np.ndarray, " n"], others: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, " m"]:
    """Return the most probable class of others."""
    mean = features.mean(axis=0, keepdims=True)
    scale = max(float(np.sqrt(np.mean((features - mean) ** 2))), np.finfo(np.float64).tiny)
    folds = np.zeros(len(labels), np.int64)
    for rows in (np.flatnonzero(column) for column in one_hot(labels).T):
        folds[rows] = np.arange(len(rows)) % SOLVER.folds
    found = solve.solved(
        (features - mean) / scale, jnp.asarray(labels), folds, _loss, int(labels.max()) + 1, SOLVER
    )
    return ((others - mean) / scale @ found.kernel + found.bias[None]).argmax(axis=1)


def of_few(
    features: Features,
    labels: Int[np.ndarray, " n"],
    others: Float[np.ndarray, "m d"],
    centre: Float[np.ndarray, "1 d"] | None = None,
) -> Int[np.ndarray, " m"]:
    """Return the most probable class of others, for few labels: features of length 1, strength 1.

    As Tian et al. 2020 have it (their C is 1), which need no centre.
    """
    del centre
    rows = unit(np.asarray(features, np.float64))
    folds = np.zeros(len(labels), np.int64)
    found = solve.solved(rows, jnp.asarray(labels), folds, _loss, int(labels.max()) + 1, OF_FEW)
    return (unit(np.asarray(others, np.float64)) @ found.kernel + found.bias[None]).argmax(axis=1)


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
