import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss

from jtl import metrics
from jtl.errors import UserError
from jtl.tasks import multilabel
from tests.tasks.asked import summary_of


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    # Scores are multiples of 0.001 off a bin's edge, so that binning keeps their order exactly.
    scores = (rng.permutation(800).reshape(200, 4) + 0.5) / 1000
    labels = (rng.random((200, 4)) < scores).astype(np.float32)
    return np.log(scores / (1 - scores)).astype(np.float32), labels


def _summary(logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> metrics.Summary:
    task = multilabel.build(multilabel.Config(), multilabel.stats(labels, tuple("abcd")))
    return summary_of(task, logits, labels, mask)


def test_metrics_equal_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    found = _summary(logits, labels, np.ones(200, bool)).scalars
    predicted, scores = logits >= 0, 1 / (1 + np.exp(-logits))
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(labels, scores), rel=1e-6)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert found["exact_match"] == pytest.approx(np.mean(np.all(predicted == labels, axis=1)))
    nats = np.mean([log_loss(labels[:, column], scores[:, column]) for column in range(4)])
    assert found["loss"] == pytest.approx(nats, rel=1e-5)


def test_masked_examples_do_not_count(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    padded = _summary(logits, labels, np.arange(200) < 90).scalars
    assert padded == pytest.approx(_summary(logits[:90], labels[:90], np.ones(90, bool)).scalars, rel=1e-6)


def test_positive_weight_scales_the_loss_of_positives_only() -> None:
    stats = multilabel.stats(np.array([[1.0, 0.0], [0.0, 1.0]]), ("a", "b"))
    plain = multilabel.build(multilabel.Config(), stats)
    heavy = multilabel.build(multilabel.Config(positive_weight=(3.0,)), stats)
    logits, positive, negative = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.zeros((1, 2))
    assert float(heavy.loss(logits, positive)[0]) == pytest.approx(
        3 * float(plain.loss(logits, positive)[0]), rel=1e-6
    )
    assert float(heavy.loss(logits, negative)[0]) == float(plain.loss(logits, negative)[0])


def test_balanced_positive_weight_is_negatives_over_positives() -> None:
    labels = np.array([[1, 1], [0, 1], [0, 1], [0, 0]], np.float32)
    task = multilabel.build(
        multilabel.Config(positive_weight=("balanced",)), multilabel.stats(labels, ("a", "b"))
    )
    first = float(task.loss(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))[0]) * 2 / np.log(2)
    assert first == pytest.approx(3.0 + 1.0, rel=1e-6)


def test_positive_weight_of_wrong_number_is_refused() -> None:
    stats = multilabel.stats(np.ones((2, 3)), ("a", "b", "c"))
    with pytest.raises(UserError, match=r"task.positive_weight .* or 3 positive numbers"):
        multilabel.build(multilabel.Config(positive_weight=(1.0, 2.0)), stats)
