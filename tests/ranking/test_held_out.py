"""What is fitted to some folds and asked about another: against scikit-learn, and its quality."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import normalize

from jtl.ranking import HELD_OUT, NEIGHBOURS, OF_LAYERS, held_out, logistic, neighbours, ridge
from jtl.report.bootstrap import Settings
from jtl.strategies.contract import Solver

RANDOM = np.random.default_rng(0)
NUM, DIM = 40, 6
LABELS = np.arange(NUM) % 3
FEATURES = RANDOM.normal(size=(NUM, DIM)) + 1.5 * np.eye(3, DIM)[LABELS]
OTHERS = RANDOM.normal(size=(9, DIM)) + 1.5 * np.eye(3, DIM)[np.arange(9) % 3]
TARGETS = FEATURES @ RANDOM.normal(size=(DIM, 2)) + 3.0 + 0.5 * RANDOM.normal(size=(NUM, 2))
FOLDS = np.arange(NUM) // 3 % 4


def test_votes_are_those_of_the_nearest_by_cosine() -> None:
    model = KNeighborsClassifier(5, metric="cosine").fit(FEATURES, LABELS)
    shares = model.predict_proba(OTHERS)
    found = neighbours.voted(FEATURES, LABELS, OTHERS)
    assert (shares[np.arange(9), found] == shares.max(axis=1)).all()
    is_tie = np.sum(shares == shares.max(axis=1, keepdims=True), axis=1) > 1
    assert (found == model.predict(OTHERS))[~is_tie].all()


def test_equal_votes_go_to_the_class_that_lies_closer() -> None:
    angles = np.radians([1.0, 20.0, 2.0, 3.0, 80.0, 90.0])
    labels = np.array([0, 0, 1, 1, 2, 2])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert neighbours.voted(features, labels, np.array([[1.0, 0.0]])).tolist() == [1]


def test_numbers_of_neighbours_are_averaged() -> None:
    # Of unit vectors the nearest by distance are the nearest by cosine.
    model = KNeighborsRegressor(5).fit(normalize(FEATURES), TARGETS)
    found = neighbours.averaged(FEATURES, TARGETS, OTHERS)
    np.testing.assert_allclose(found, model.predict(normalize(OTHERS)))


@pytest.mark.parametrize("dim", [DIM, 90], ids=["narrow", "wide"])
def test_ridge_is_that_of_the_strength_that_leaves_one_out_best(dim: int) -> None:
    random = np.random.default_rng(2)
    features = np.concatenate([FEATURES, 0.7 * random.normal(size=(NUM, dim - DIM))], axis=1)
    others = np.concatenate([OTHERS, 0.7 * random.normal(size=(9, dim - DIM))], axis=1)
    centred = features - features.mean(0)
    alphas = ridge.STRENGTHS * np.sum(centred**2) / NUM
    model = RidgeCV(alphas).fit(features, TARGETS)
    assert dim > DIM or alphas[0] < model.alpha_ < alphas[-1]
    np.testing.assert_allclose(ridge.predicted(features, TARGETS, others), model.predict(others), rtol=1e-7)


def test_leverage_counts_where_examples_are_few() -> None:
    for seed in range(40):
        random = np.random.default_rng(seed)
        features, others = random.normal(size=(6, 3)), random.normal(size=(4, 3))
        targets = features[:, :1] + random.normal(size=(6, 1))
        alphas = ridge.STRENGTHS * np.sum((features - features.mean(0)) ** 2) / 6
        expected = RidgeCV(alphas).fit(features, targets).predict(others).reshape(4, 1)
        np.testing.assert_allclose(ridge.predicted(features, targets, others), expected, rtol=1e-6)


def test_probe_is_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "SOLVER", Solver((5.0,), 2))
    mean = FEATURES.mean(0)
    scale = np.sqrt(np.mean((FEATURES - mean) ** 2))
    model = LogisticRegression(C=1 / 5.0, tol=1e-10, max_iter=5000).fit((FEATURES - mean) / scale, LABELS)
    found = logistic.classified(FEATURES, LABELS, OTHERS)
    np.testing.assert_array_equal(found, model.predict((OTHERS - mean) / scale))


def test_an_example_has_no_part_in_its_own_prediction() -> None:
    # Labels by chance: seen ones would be told by heart.
    labels = np.random.default_rng(3).integers(0, 2, 300)
    features = np.random.default_rng(4).normal(size=(300, 400))
    folds = np.arange(300) % 5
    for fitted in (OF_LAYERS["class"], HELD_OUT[NEIGHBOURS]["class"]):
        assert np.mean(fitted(features, labels, features) == labels) > 0.6
        found = held_out.predictions(fitted, features, labels, folds)
        assert abs(np.mean(found == labels) - 0.5) < 0.1


def test_quality_is_accuracy_of_classes_and_r2_of_numbers() -> None:
    ones = np.ones((1, NUM))
    guessed = np.where(np.arange(NUM) < 10, LABELS, (LABELS + 1) % 3)
    assert held_out.quality(guessed, LABELS, ones) == pytest.approx([0.25])
    predicted = TARGETS + RANDOM.normal(size=TARGETS.shape)
    counts = RANDOM.integers(0, 3, (2, NUM)).astype(np.float64)
    expected = [r2_score(TARGETS, predicted, sample_weight=each) for each in counts]
    assert held_out.quality(predicted, TARGETS, counts) == pytest.approx(expected)


def test_differences_are_of_the_same_sets_of_examples() -> None:
    right = np.random.default_rng(1).integers(0, 2, 400).astype(bool)
    labels = np.zeros(400, np.int64)
    one, other = np.where(right, 0, 1), np.where(right, 0, 1)
    other[:4] = 1 - one[:4]
    found = held_out.intervals({"one": one, "other": other}, labels, Settings(200))
    apart = held_out.intervals({"one": one, "other": other}, labels, Settings(200), reference="one")
    width = found["one"].high - found["one"].low
    assert apart["other"].high - apart["other"].low < width / 3
    assert apart["one"].value == apart["one"].high == 0.0
