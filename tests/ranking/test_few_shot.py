"""What few labels are fitted by, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from jtl.ranking import FEW_SHOT, logistic, nearest_mean

RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 2)
FEATURES = RANDOM.normal(size=(6, 8)) + 1.5 * np.eye(3, 8)[LABELS] + 2.0
OTHERS = RANDOM.normal(size=(600, 8)) + 1.5 * np.eye(3, 8)[np.arange(600) % 3] + 2.0


@pytest.mark.parametrize("centre", [None, np.full((1, 8), 1.8)], ids=["own", "base"])
def test_nearest_mean_is_that_of_centred_features_of_length_one(centre: np.ndarray | None) -> None:
    middle = FEATURES.mean(axis=0) if centre is None else centre
    model = NearestCentroid().fit(normalize(FEATURES - middle), LABELS)
    found = nearest_mean.classified(FEATURES, LABELS, OTHERS, centre)
    np.testing.assert_array_equal(found, model.predict(normalize(OTHERS - middle)))


def test_probe_of_few_is_logistic_regression_of_features_of_length_one() -> None:
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(normalize(FEATURES), LABELS)
    found = logistic.of_few(FEATURES, LABELS, OTHERS)
    np.testing.assert_array_equal(found, model.predict(normalize(OTHERS)))


@pytest.mark.parametrize("name", FEW_SHOT)
def test_one_example_a_class_tells_classes_that_lie_apart(name: str) -> None:
    features = 10.0 * np.eye(4) + 1.0
    others = features[[2, 0, 3, 1]] + 0.1 * RANDOM.normal(size=(4, 4))
    assert FEW_SHOT[name](features, np.arange(4), others, None).tolist() == [2, 0, 3, 1]
