"""NLEEP: LEEP on the components of a Gaussian mixture of the features (Li et al. 2021)."""

import warnings

import numpy as np

from jtl.ranking.contract import Classes, Features
from jtl.ranking.leep import leep

# As the paper has it: of the variance of the features so much is kept, and so many components a class.
KEPT, COMPONENTS_A_CLASS = 0.8, 5
# A component is of two examples or more.
LEAST_MEMBERS = 2


def nleep(features: Features, labels: Classes) -> float:
    """Return LEEP of the components' posteriors; the mixture begins by seed 0."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    num_classes = int(labels.max()) + 1
    reduced = PCA(KEPT, svd_solver="full").fit_transform(np.asarray(features, np.float64))
    # Directions have the unit of the widest, so that what keeps covariances regular means the same for all.
    reduced = reduced / max(float(reduced.std(axis=0).max()), np.finfo(np.float64).tiny)
    count = max(1, min(COMPONENTS_A_CLASS * num_classes, len(labels) // LEAST_MEMBERS))
    mixture = GaussianMixture(count, random_state=0)
    with warnings.catch_warnings():
        # The posteriors of the last iteration are as good a start for LEEP, and equal on every machine.
        warnings.simplefilter("ignore", ConvergenceWarning)
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return leep(posteriors, labels)
