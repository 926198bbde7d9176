"""Scores against independent references: closed forms, scikit-learn and SciPy, and second derivations."""

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from jtl.ranking import SCORES, h_score, leep, log_me, nleep, parc, sfda
from jtl.ranking.contract import CLASS, PROBABILITIES, class_means, one_hot

RANDOM = np.random.default_rng(0)
NUM = 30
LABELS = np.arange(NUM) % 3
FEATURES = RANDOM.normal(size=(NUM, 5)) + 1.5 * np.eye(3, 5)[LABELS]
WIDE = RANDOM.normal(size=(NUM, 50)) + np.eye(3, 50)[LABELS]


@pytest.mark.parametrize("features", [FEATURES, WIDE], ids=["narrow", "wide"])
def test_log_me_is_the_largest_marginal_likelihood(features: np.ndarray) -> None:
    def lost(logs: np.ndarray, target: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = np.eye(NUM) / beta + features @ features.T / alpha
        _, determinant = np.linalg.slogdet(2 * np.pi * covariance)
        return 0.5 * (determinant + target @ np.linalg.solve(covariance, target)) / NUM

    for target, found in zip(one_hot(LABELS).T, log_me.evidences(features, one_hot(LABELS)), strict=True):
        best = min(
            optimize.minimize(lost, start, (target,), "L-BFGS-B", bounds=[(-8.0, 20.0)] * 2, tol=1e-12).fun
            for start in ((0.0, 0.0), (3.0, 1.0), (0.0, 5.0))
        )
        assert found == pytest.approx(-best, abs=1e-5)


def test_log_me_of_features_that_say_nothing_is_that_of_noise_alone() -> None:
    targets = RANDOM.normal(size=(NUM, 1))
    found = log_me.log_me(np.zeros((NUM, 4)), targets)
    standard = (targets - targets.mean()) / targets.std()
    expected = stats.norm(0.0, standard.std()).logpdf(standard).mean()
    assert found == pytest.approx(expected, abs=1e-6)


def test_log_me_of_numbers_does_not_see_their_unit() -> None:
    targets = FEATURES[:, :2] + 0.1 * RANDOM.normal(size=(NUM, 2))
    assert log_me.log_me(FEATURES, 1e3 * targets + 7.0) == pytest.approx(log_me.log_me(FEATURES, targets))


def test_h_score_of_one_feature_is_the_share_of_variance_between_classes() -> None:
    feature = FEATURES[:, :1]
    means = np.array([feature[each == LABELS].mean() for each in range(3)])
    between = np.var(means[LABELS])
    assert h_score.h_score(feature, LABELS) == pytest.approx(between / np.var(feature))


@pytest.mark.parametrize("features", [FEATURES, WIDE], ids=["narrow", "wide"])
def test_h_score_is_the_sum_of_generalised_eigenvalues(features: np.ndarray) -> None:
    found = LedoitWolf().fit(features)
    between = np.cov(class_means(features, LABELS)[LABELS].T, bias=True)
    values = linalg.eigh((1 - found.shrinkage_) * between, found.covariance_, eigvals_only=True)
    assert h_score.h_score(features, LABELS) == pytest.approx(values.sum())


def test_leep_of_numbers_worked_out_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    labels = np.array([0, 0, 1])
    # P(y, z): y = 0 has 1.4 and 0.6 of z, y = 1 has 0.1 and 0.9, a third of each.
    first = {0: (1.4 / 1.5, 0.6 / 1.5), 1: (0.1 / 1.5, 0.9 / 1.5)}
    expected = np.mean(
        [np.log(np.dot(first[int(label)], row)) for label, row in zip(labels, probabilities, strict=True)]
    )
    assert leep.leep(probabilities, labels) == pytest.approx(expected)


def test_leep_is_zero_where_the_source_tells_the_classes_apart_and_entropy_where_it_says_nothing() -> None:
    assert leep.leep(one_hot(LABELS), LABELS) == pytest.approx(0.0)
    labels = np.array([0, 0, 0, 1])
    expected = 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert leep.leep(np.full((4, 7), 1 / 7), labels) == pytest.approx(expected)


def test_nleep_is_zero_for_classes_far_apart_and_entropy_for_a_point() -> None:
    apart = 100.0 * np.eye(3)[LABELS] + 0.01 * RANDOM.normal(size=(NUM, 3))
    assert nleep.nleep(apart, LABELS) == pytest.approx(0.0, abs=1e-6)
    assert nleep.nleep(apart, LABELS) == nleep.nleep(apart, LABELS)
    assert nleep.nleep(apart[:, ::-1], np.zeros(NUM, np.int64)) == pytest.approx(0.0)


def test_sfda_is_shrunk_discriminant_analysis_fitted_twice() -> None:
    classes = [FEATURES[each == LABELS] for each in range(3)]
    within = sum(np.cov(each.T, bias=True) for each in classes) / 3
    shrinkage = np.exp(-5 * np.linalg.eigvalsh(within).max())

    def probabilities(features: np.ndarray) -> np.ndarray:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        return model.fit(features, LABELS).predict_proba(features)

    first = np.exp(probabilities(FEATURES))
    sure = (first / first.sum(1, keepdims=True))[np.arange(NUM), LABELS]
    others = np.array(
        [np.mean([classes[k].mean(0) for k in range(3) if k != each], axis=0) for each in range(3)]
    )
    moved = sure[:, None] * FEATURES + (1 - sure[:, None]) * others[LABELS]
    expected = probabilities(moved)[np.arange(NUM), LABELS].mean()
    assert sfda.sfda(FEATURES, LABELS) == pytest.approx(expected, rel=1e-9)


def test_parc_is_the_rank_correlation_of_two_dissimilarities() -> None:
    scaled = StandardScaler().fit_transform(FEATURES)
    pairs = np.triu_indices(NUM, 1)
    # Rounded, so that classes that are equal are equally far apart.
    first, second = 1 - np.corrcoef(scaled), np.round(1 - np.corrcoef(one_hot(LABELS)), 9)
    expected = 100 * stats.spearmanr(first[pairs], second[pairs]).statistic
    assert parc.parc(FEATURES, LABELS) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_higher_for_features_that_tell_classes_apart(name: str) -> None:
    score = SCORES[name]
    assert CLASS in score.label_kinds
    noise = RANDOM.normal(size=(NUM, 3))
    telling = noise + 3.0 * np.eye(3)[LABELS]

    def read(features: np.ndarray) -> np.ndarray:
        shares = np.exp(features)
        return shares / shares.sum(1, keepdims=True) if score.reads == PROBABILITIES else features

    assert score.compute(read(telling), LABELS) > score.compute(read(noise), LABELS)


@pytest.mark.parametrize("name", SCORES)
def test_no_score_changes_what_it_reads_or_sees_the_order_of_examples(name: str) -> None:
    score, order = SCORES[name], np.random.default_rng(1).permutation(NUM)
    features = np.exp(FEATURES) / np.exp(FEATURES).sum(1, keepdims=True)
    before = features.copy()
    found = score.compute(features, LABELS)
    np.testing.assert_array_equal(features, before)
    # A mixture begins where the order of the examples leads it.
    if name != "nleep":
        assert score.compute(features[order], LABELS[order]) == pytest.approx(found, rel=1e-6)
