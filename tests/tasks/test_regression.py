import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from jtl.tasks import regression
from tests.tasks.asked import summary_of, targets_of


@pytest.fixture
def task_and_labels() -> tuple[regression.Task, np.ndarray]:
    labels = (np.random.default_rng(0).normal(size=(80, 2)) * [1.0, 300.0] + [5.0, -40_000.0]).astype(
        np.float32
    )
    return regression.build(regression.Config(), regression.stats(labels, ())), labels


def test_metrics_equal_scikit_learn_in_the_labels_own_unit(task_and_labels: tuple) -> None:
    task, labels = task_and_labels
    predicted = labels + np.random.default_rng(1).normal(size=labels.shape).astype(np.float32) * [0.3, 90.0]
    logits = targets_of(task, predicted.astype(np.float32))
    found = summary_of(task, logits, labels, np.ones(80, bool)).scalars
    assert found["mean_squared_error"] == pytest.approx(mean_squared_error(labels, predicted), rel=1e-3)
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(labels, predicted), rel=1e-3)
    assert found["r2"] == pytest.approx(r2_score(labels, predicted), abs=1e-3)


def test_targets_are_standardised(task_and_labels: tuple) -> None:
    task, labels = task_and_labels
    targets = np.asarray(targets_of(task, labels))
    np.testing.assert_allclose(targets.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(targets.std(0), 1.0, atol=1e-3)


def test_huber_is_quadratic_inside_the_delta_and_linear_outside() -> None:
    error = jnp.array([[0.5], [3.0]])
    found = regression.loss(error, jnp.zeros((2, 1)), huber_delta=1.0)
    np.testing.assert_allclose(found, [0.125, 2.5], rtol=1e-6)


def test_masked_examples_do_not_count(task_and_labels: tuple) -> None:
    task, labels = task_and_labels
    logits = np.zeros((80, 2), np.float32)
    padded = summary_of(task, logits, labels, np.arange(80) < 33).scalars
    cut = summary_of(task, logits[:33], labels[:33], np.ones(33, bool)).scalars
    assert padded == pytest.approx(cut, rel=1e-5)


@pytest.mark.parametrize("value", [0.3, 5.0, -41_000.0])
def test_r2_of_equal_labels_has_no_value(task_and_labels: tuple, value: float) -> None:
    """The sums' rounding is no variance: once it gave an R² of minus a million."""
    task, _ = task_and_labels
    equal = np.full((80, 2), value, np.float32)
    found = summary_of(task, np.zeros((80, 2), np.float32), equal, np.ones(80, bool))
    assert np.isnan(found.scalars["r2"])
    assert np.isfinite(found.scalars["mean_squared_error"])
