"""H-score, regularised: what classes explain of the features' covariance (Ibrahim et al. 2022).

tr(Σ⁻¹ Σ_between), where Σ is shrunk to a multiple of the identity by Ledoit and Wolf's rule and Σ_between by
the same share, so that it means something where there are more features than examples.
"""

import numpy as np

from jtl.ranking.contract import Classes, Features, class_means


def h_score(features: Features, labels: Classes) -> float:
    """Return the score: between 0 and the number of classes less one."""
    from sklearn.covariance import ledoit_wolf

    centred = np.asarray(features, np.float64)
    centred = centred - centred.mean(axis=0, keepdims=True)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = class_means(centred, labels)
    counts = np.bincount(labels)
    between = (means * (counts / len(labels))[:, None]).T @ means
    return float((1.0 - shrinkage) * np.trace(np.linalg.pinv(covariance, hermitian=True) @ between))
