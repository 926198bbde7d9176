import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, log_loss, recall_score

from jtl import metrics
from jtl.errors import UserError
from jtl.tasks import multiclass
from tests.tasks.asked import summary_of, sums_of, targets_of

NAMES = tuple("abcdefg")


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 7)).astype(np.float32), rng.integers(0, 6, 60)


def _summary(logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> metrics.Summary:
    task = multiclass.build(multiclass.Config(), multiclass.stats(labels, NAMES))
    return summary_of(task, logits, labels, mask)


def test_metrics_equal_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    found = _summary(logits, labels, np.ones(60, bool))
    predicted = logits.argmax(1)
    probabilities = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    assert found.scalars["accuracy"] == pytest.approx(np.mean(predicted == labels))
    f1 = f1_score(labels, predicted, average="macro", labels=np.arange(6))
    assert found.scalars["macro_f1"] == pytest.approx(f1)
    recall = recall_score(labels, predicted, average="macro", labels=np.arange(6))
    assert found.scalars["balanced_accuracy"] == pytest.approx(recall)
    assert found.scalars["loss"] == pytest.approx(
        log_loss(labels, probabilities, labels=np.arange(7)), rel=1e-5
    )
    top5 = np.mean(
        [label in row for label, row in zip(labels, np.argsort(-logits, axis=1)[:, :5], strict=True)]
    )
    assert found.scalars["top5_accuracy"] == pytest.approx(top5)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, predicted, labels=np.arange(7)))


def test_masked_examples_do_not_count(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    mask = np.arange(60) < 37
    padded, cut = _summary(logits, labels, mask), _summary(logits[:37], labels[:37], np.ones(37, bool))
    assert padded.scalars == pytest.approx(cut.scalars, rel=1e-6)
    np.testing.assert_array_equal(padded.confusion, cut.confusion)


def test_sums_of_parts_add_up_to_the_whole(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    totals, measure = None, jax.jit(multiclass.sums)
    for part in np.split(np.arange(60), [7, 31]):
        totals = metrics.merge(totals, measure(logits[part], labels[part], np.ones(len(part), bool)))
    assert totals is not None
    whole = _summary(logits, labels, np.ones(60, bool))
    assert multiclass.summarize(totals).scalars == pytest.approx(whole.scalars, rel=1e-6)


def test_more_classes_than_a_confusion_matrix_holds_give_the_same_scalars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    with_matrix = _summary(logits, labels, np.ones(50, bool))
    monkeypatch.setattr(metrics, "MAX_CONFUSION_CLASSES", 3)
    without = _summary(logits, labels, np.ones(50, bool))
    assert without.confusion is None
    assert without.scalars == with_matrix.scalars


def test_loss_is_the_negative_log_likelihood_and_smoothing_mixes_in_the_uniform_one() -> None:
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    labels = np.array([0, 1, 2])
    plain = multiclass.build(multiclass.Config(), multiclass.stats(labels, ("a", "b", "c")))
    smooth = multiclass.build(
        multiclass.Config(label_smoothing=0.3), multiclass.stats(labels, ("a", "b", "c"))
    )
    targets = targets_of(plain, [0])
    uniform = -np.mean(np.log([0.7, 0.2, 0.1]))
    assert float(plain.loss(logits, targets)[0]) == pytest.approx(-np.log(0.7), rel=1e-6)
    assert float(smooth.loss(logits, targets)[0]) == pytest.approx(
        -0.7 * np.log(0.7) + 0.3 * uniform, rel=1e-6
    )


def test_balanced_weights_are_inverse_to_the_counts_and_average_one_over_the_training_set() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    task = multiclass.build(
        multiclass.Config(class_weights=("balanced",)), multiclass.stats(labels, ("a", "b", "c"))
    )
    logits = jnp.zeros((10, 3))
    weights = np.asarray(task.loss(logits, targets_of(task, labels))) / np.log(3)
    assert np.mean(weights) == pytest.approx(1.0, rel=1e-6)
    assert weights[9] / weights[0] == pytest.approx(6.0, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0, 2.0), r"\(\), \('balanced',\), \('effective',\) or 3 positive numbers"),
        (("balance",), r"\(\), \('balanced',\), \('effective',\) or a positive number for each"),
        ((1.0, 0.0, 1.0), "a positive number for each"),
    ],
)
def test_class_weights_of_wrong_number_or_sign_are_refused(weights: tuple, expected: str) -> None:
    labels = np.array([0, 1, 2])
    with pytest.raises(UserError, match=rf"task.class_weights is .* expected {expected}"):
        multiclass.build(multiclass.Config(class_weights=weights), multiclass.stats(labels, ("a", "b", "c")))


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="needs at least 2 classes"):
        multiclass.build(multiclass.Config(), multiclass.stats(np.zeros(3, int), ("only",)))


def test_label_smoothing_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"label_smoothing is 1\.0; expected 0 <= value < 1"):
        multiclass.Config(label_smoothing=1.0)


def _logits(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(scale=3.0, size=(count, 3)).astype(np.float32), rng.integers(0, 3, count)


# Half a unit in the last place of logits up to 16 is 5e-7 in float32; a loss near 0 is a difference of two.
ATOL = 1e-6
COUNTS = np.array([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_equation_4_of_lin_et_al(gamma: float) -> None:
    logits, labels = _logits()
    task = multiclass.build(multiclass.Config(focal_gamma=gamma), multiclass.stats(COUNTS, tuple("abc")))
    found = task.loss(jnp.asarray(logits), targets_of(task, labels))
    wide = logits.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    right = probabilities[np.arange(len(labels)), labels]
    np.testing.assert_allclose(found, -((1 - right) ** gamma) * np.log(right), rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_examples_recognised_for_certain_has_a_finite_gradient(gamma: float) -> None:
    task = multiclass.build(multiclass.Config(focal_gamma=gamma), multiclass.stats(COUNTS, tuple("abc")))
    logits = jnp.array([[margin, 0.0, 0.0] for margin in (0.0, 20.0, 200.0, 0.0, 20.0, 200.0)])
    targets = targets_of(task, [0, 0, 0, 1, 1, 1])
    slope = jax.grad(lambda logits: jnp.sum(task.loss(logits, targets)))(logits)
    assert bool(jnp.isfinite(slope).all())


def test_without_focus_and_adjustment_the_loss_keeps_its_bits() -> None:
    logits, labels = _logits()
    task = multiclass.build(multiclass.Config(label_smoothing=0.1), multiclass.stats(COUNTS, tuple("abc")))
    smooth = targets_of(task, labels) * 0.9 + 0.1 / 3
    expected = -jnp.sum(smooth * jax.nn.log_softmax(jnp.asarray(logits)), axis=-1)
    found = task.loss(jnp.asarray(logits), targets_of(task, labels))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_is_equation_10_of_menon_et_al(tau: float) -> None:
    logits, labels = _logits()
    task = multiclass.build(multiclass.Config(logit_adjustment=tau), multiclass.stats(COUNTS, tuple("abc")))
    found = task.loss(jnp.asarray(logits), targets_of(task, labels))
    # -log(exp(f_y + tau log pi_y) / sum exp(f + tau log pi)), the paper's fraction written out.
    prior = np.array([0.6, 0.3, 0.1])
    scores = np.exp(logits.astype(np.float64)) * prior**tau
    expected = -np.log(scores[np.arange(len(labels)), labels] / scores.sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=ATOL)


def test_metrics_know_nothing_of_weights_focus_and_adjustment() -> None:
    logits, labels = _logits()
    settings = multiclass.Config(focal_gamma=2.0, logit_adjustment=1.0, class_weights=("effective",))
    task = multiclass.build(settings, multiclass.stats(COUNTS, tuple("abc")))
    mask = np.ones(len(labels), bool)
    found = sums_of(task.metrics)(logits, labels, mask)
    plain = jax.jit(multiclass.sums)(logits, labels, mask)
    assert all(bool((found[name] == plain[name]).all()) for name in plain)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_weights_are_those_of_cui_et_al(beta: float) -> None:
    settings = multiclass.Config(class_weights=("effective",), effective_beta=beta)
    task = multiclass.build(settings, multiclass.stats(COUNTS, tuple("abc")))
    found = np.asarray(task.loss(jnp.zeros((3, 3)), targets_of(task, np.arange(3)))) / np.log(3)
    # An effective number is the sum of beta^k over a class's examples k = 0, 1, …; weights are its inverse.
    effective = np.array([sum(beta**k for k in range(count)) for count in (60, 30, 10)])
    np.testing.assert_allclose(found, 3 / effective / (1 / effective).sum(), rtol=1e-5)


def test_adjustment_for_a_class_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"logit_adjustment is 1\.0, but class 'c' has no training examples"):
        multiclass.build(
            multiclass.Config(logit_adjustment=1.0), multiclass.stats(np.array([0, 1]), tuple("abc"))
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"focal_gamma": -1.0}, r"task.focal_gamma is -1\.0; expected 0"),
        ({"logit_adjustment": -0.5}, r"task.logit_adjustment is -0\.5"),
        ({"logit_adjustment": float("nan")}, "task.logit_adjustment is nan"),
        ({"effective_beta": 1.0}, r"task.effective_beta is 1\.0; expected 0 <= value < 1"),
    ],
)
def test_settings_for_rare_classes_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        multiclass.Config(**values)
