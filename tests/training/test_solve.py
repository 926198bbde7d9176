"""A head that is solved for is scikit-learn's, for every kind of labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from jtl.strategies.contract import Solver
from jtl.tasks import TASKS
from jtl.training import solve

# Compiles for long.
pytestmark = pytest.mark.slow

NUM, DIM = 60, 5


def _solved(task: str, labels: np.ndarray, solver: Solver) -> tuple[np.ndarray, solve.Solved]:
    features = np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)
    kind = TASKS[task]
    built = kind.build(kind.Config(), kind.stats(labels, tuple("abc")), None)
    targets = built.targets({"label": jnp.asarray(labels)}, jax.random.key(0))
    return np.float64(features), solve.solved(
        features, targets, np.arange(NUM) % solver.folds, built.loss, 3, solver
    )


def _labels(task: str) -> np.ndarray:
    """Return labels that the features say something of."""
    features = np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)
    random = np.random.default_rng(1)
    logits = features @ random.normal(size=(DIM, 3)) + random.normal(size=(NUM, 3))
    return {
        "multiclass": logits.argmax(1),
        "multilabel": (logits > 0).astype(np.float32),
        "regression": logits.astype(np.float32),
    }[task]


def test_classes_are_solved_as_multinomial_logistic_regression() -> None:
    labels = _labels("multiclass")
    features, found = _solved("multiclass", labels, Solver((0.5,), 5))
    expected = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(features, labels)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    # A softmax does not see a shift of all biases.
    shift = found.bias - expected.intercept_
    np.testing.assert_allclose(shift, shift[0], atol=1e-4)


def test_several_labels_are_solved_as_a_logistic_regression_each() -> None:
    labels = _labels("multilabel")
    features, found = _solved("multilabel", labels, Solver((0.5,), 5))
    for place in range(3):
        # The task's loss is the mean of three.
        expected = LogisticRegression(C=2.0 / 3, tol=1e-10, max_iter=5000).fit(features, labels[:, place])
        np.testing.assert_allclose(found.kernel[:, place], expected.coef_[0], atol=1e-4)


def test_numbers_are_solved_as_ridge_regression() -> None:
    labels = _labels("regression")
    features, found = _solved("regression", labels, Solver((0.5,), 5))
    targets = (labels - labels.mean(0)) / labels.std(0)
    # The task's loss is half the squared error, the mean of three.
    expected = Ridge(alpha=3 * 0.5, tol=1e-10).fit(features, targets)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(found.bias, expected.intercept_, atol=1e-4)


def test_the_strength_is_the_one_with_the_least_loss_on_what_folds_hold_out() -> None:
    labels, solver = _labels("multiclass"), Solver((100.0, 1.0, 1e-3), 3)
    features, found = _solved("multiclass", labels, solver)
    held_out = []
    for strength in sorted(solver.strengths):
        losses = []
        for fold in range(3):
            is_held = np.arange(NUM) % 3 == fold
            model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=5000)
            model.fit(features[~is_held], labels[~is_held])
            probabilities = model.predict_proba(features[is_held])
            losses.append(-np.log(probabilities[np.arange(is_held.sum()), labels[is_held]]).mean())
        held_out.append(np.mean(losses))
    np.testing.assert_allclose(found.held_out, held_out, rtol=1e-3)
    assert found.strength == sorted(solver.strengths)[int(np.argmin(held_out))]
    assert f"with strength {found.strength:g}, which of these has the least loss" in solve.text(found, solver)


def test_a_strength_at_the_end_of_those_tried_is_told() -> None:
    _, found = _solved("multiclass", np.arange(NUM) % 3, Solver((1.0, 1000.0), 2))
    assert found.strength == 1000.0
    assert solve.text(found, Solver((1.0, 1000.0), 2)).endswith(
        "it is the last of them: add others (strategy.strengths)"
    )
