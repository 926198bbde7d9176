"""LEEP: how likely the source's own classes make the labels (Nguyen et al. 2020, eq. 2)."""

import numpy as np
from jaxtyping import Float

from jtl.ranking.contract import Classes, one_hot


def leep(probabilities: Float[np.ndarray, "n z"], labels: Classes) -> float:
    """Return the mean over the examples of log Σ_z P(label | z) P(z | example): 0 at best.

    P(label | z) is the share of the label in what the probabilities give to z.
    """
    probabilities = np.asarray(probabilities, np.float64)
    joint = one_hot(labels).T @ probabilities / len(labels)
    total = joint.sum(axis=0, keepdims=True)
    conditional = joint / np.where(total > 0, total, 1.0)
    expected = np.sum(probabilities * conditional[labels], axis=1)
    return float(np.mean(np.log(expected)))
