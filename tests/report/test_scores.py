"""Numbers of every example: equal to scikit-learn's and scipy's, weights are copies, intervals cover."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from jtl import metrics
from jtl.report import bootstrap, calibration, operating, ranking, scores
from jtl.report.bootstrap import Settings
from jtl.tasks import TASKS

NUM_EXAMPLES, NAMES = 120, tuple("abcdefg")
QUICK = Settings(resamples=50)


def _classified(seed: int = 0, num_classes: int = 7) -> scores.Scored:
    """Return logits that know something, some of them equal."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, NUM_EXAMPLES)
    logits = random.normal(size=(NUM_EXAMPLES, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    logits = np.round(logits, 1).astype(np.float32)
    predictions = scipy.special.softmax(logits, axis=1)
    return scores.Scored(logits, predictions, labels, NAMES[:num_classes])


def _labelled(seed: int = 0) -> scores.Scored:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (NUM_EXAMPLES, 3)).astype(np.float32)
    logits = np.round(random.normal(size=labels.shape) + labels, 1).astype(np.float32)
    return scores.Scored(logits, scipy.special.expit(logits), labels, NAMES[:3])


def _valued(seed: int = 0) -> scores.Scored:
    random = np.random.default_rng(seed)
    labels = np.round(random.normal(size=(NUM_EXAMPLES, 2)), 1).astype(np.float32)
    values = labels + random.normal(size=labels.shape).astype(np.float32)
    return scores.Scored(values, values, labels, ())


MADE = {"class": _classified, "multilabel": _labelled, "regression": _valued}


def _share(is_right: np.ndarray) -> bootstrap.Interval:
    return bootstrap.intervals(lambda weights: {"x": weights @ is_right / 100}, 100, Settings(200))["x"]


def _value(found: scores.Scores, name: str) -> float:
    return float(found.scalars[name].value)


def test_classes_are_measured_as_scikit_learn_measures_them() -> None:
    scored = _classified()
    found, labels, predicted = scores.of("class", scored, QUICK), scored.labels, scored.logits.argmax(1)
    one_hot = labels[:, None] == np.arange(7)[None, :]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "micro_f1": sklearn.metrics.f1_score(labels, predicted, average="micro"),
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "auroc": sklearn.metrics.roc_auc_score(labels, scored.predictions, multi_class="ovr"),
        "average_precision": sklearn.metrics.average_precision_score(one_hot, scored.predictions),
    }
    # scikit-learn ranks float32 probabilities, of which some are equal that the logits tell apart.
    assert {name: _value(found, name) for name in expected} == pytest.approx(expected, abs=2e-3)
    exact = ("accuracy", "micro_f1", "macro_f1", "balanced_accuracy")
    assert {name: _value(found, name) for name in exact} == pytest.approx(
        {name: expected[name] for name in exact}, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_rankings_with_ties_are_those_of_scikit_learn_and_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, others = np.round(random.normal(size=(2, 80)), 1)
    is_positive, ones = random.random(80) < 0.3, np.ones((1, 80))
    order = ranking.order(values)
    area = sklearn.metrics.roc_auc_score(is_positive, values)
    precision = sklearn.metrics.average_precision_score(is_positive, values)
    rank = scipy.stats.spearmanr(values, others).statistic
    assert ranking.auroc(order, is_positive, ones)[0] == pytest.approx(area, abs=1e-12)
    assert ranking.average_precision(order, is_positive, ones)[0] == pytest.approx(precision, abs=1e-12)
    assert ranking.correlation(order, ranking.order(others), ones)[0] == pytest.approx(rank, abs=1e-12)


@pytest.mark.parametrize("kind", MADE)
def test_weight_of_two_is_a_copy(kind: str) -> None:
    """What a bootstrap's set is measured as must be what its copies of examples are measured as."""
    scored = MADE[kind]()
    (weights,) = bootstrap.resampled(np.random.default_rng(1), 1, NUM_EXAMPLES).astype(np.int64)
    rows = np.repeat(np.arange(NUM_EXAMPLES), weights)
    copied = scored._replace(
        logits=scored.logits[rows], predictions=scored.predictions[rows], labels=scored.labels[rows]
    )
    given: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bootstrap,
            "intervals",
            lambda statistic, *_: given.append(statistic(weights[None, :].astype(float))) or {},
        )
        scores.of(kind, scored, QUICK)
    expected = scores.of(kind, copied, Settings(resamples=0))
    found = {name: values[0] for each in given for name, values in each.items()}
    per_class = {f"class_{name}": each for name, each in expected.per_class.items()}
    for name, each in {**expected.scalars, **per_class}.items():
        np.testing.assert_allclose(found[name], each.value, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", MADE)
def test_numbers_of_the_task_are_the_same_of_its_examples(kind: str) -> None:
    task_kind = next(each for each in TASKS.values() if each.label_kind == kind)
    scored = MADE[kind]()
    stats = task_kind.stats(scored.labels, scored.label_names)
    if stats.mean:
        stats = stats._replace(mean=(0.0, 0.0), std=(1.0, 1.0))
    task = task_kind.build(task_kind.Config(), stats, None)
    batch = {"label": jnp.asarray(scored.labels), "mask": jnp.ones(NUM_EXAMPLES, bool)}
    summary = task.summarize(metrics.merge(None, task.metrics(jnp.asarray(scored.logits), batch)))
    found = scores.of(kind, scored, Settings(resamples=0))
    known = summary.scalars.keys() & found.scalars.keys()
    assert len(known) >= 4
    for name in known:
        # The task's average precision is of scores in a thousand bins, its errors are float32.
        tolerance = 2e-3 if name == "mean_average_precision" else 1e-6
        assert _value(found, name) == pytest.approx(summary.scalars[name], abs=tolerance), name


@pytest.mark.parametrize("kind", MADE)
def test_intervals_hold_their_value_and_are_the_same_again(kind: str) -> None:
    found, again = (scores.of(kind, MADE[kind](), Settings(resamples=200)) for _ in range(2))
    for name, each in found.scalars.items():
        np.testing.assert_array_equal(each, again.scalars[name])
        # That of few examples is larger in sets drawn from them.
        if name != "expected_calibration_error":
            assert each.low <= each.value <= each.high, name
    other = scores.of(kind, MADE[kind](), Settings(resamples=200, seed=1))
    assert any(not np.array_equal(each.low, other.scalars[name].low) for name, each in found.scalars.items())


def test_interval_of_a_share_covers_as_often_as_it_says() -> None:
    """Of 300 sets of 100 coins with heads 0.8 the interval holds 0.8 in about 95 %."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        found = _share(random.random(100) < 0.8)
        covered += bool(found.low <= 0.8 <= found.high)
    assert 0.90 <= covered / 300 <= 0.98


def test_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores.of("class", _classified(), QUICK)
    monkeypatch.setattr(bootstrap, "MAX_CHUNK", 7 * NUM_EXAMPLES)
    parts = scores.of("class", _classified(), QUICK)
    for name, each in whole.scalars.items():
        np.testing.assert_allclose(each, parts.scalars[name], atol=1e-12)


def test_rankings_that_would_take_minutes_have_a_value_no_interval_and_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "MAX_RANKED", 100)
    found = scores.of("class", _classified(), QUICK)
    assert 0.5 < _value(found, "auroc") < 1.0
    assert np.isnan(found.scalars["auroc"].low)
    assert found.scalars["accuracy"].low < found.scalars["accuracy"].high
    assert any("AUROC and average precision have no interval" in note for note in found.notes)


def test_class_without_examples_has_no_value_and_hurts_no_other() -> None:
    scored = _classified()
    scored = scored._replace(labels=np.where(scored.labels == 6, 0, scored.labels))
    found = scores.of("class", scored, QUICK)
    assert np.isnan(found.per_class["recall"].value[6])
    assert np.isnan(found.per_class["auroc"].value[6])
    assert np.isfinite(_value(found, "auroc"))
    assert np.isfinite(_value(found, "balanced_accuracy"))


def test_calibration_of_coins_that_say_what_they_are_is_none() -> None:
    confidence = np.repeat([0.55, 0.75, 0.95], 20)
    is_right = np.concatenate([np.arange(20) < 11, np.arange(20) < 15, np.arange(20) < 19])
    bins, ones = calibration.binned(confidence, is_right), np.ones((1, 60))
    assert calibration.error(bins, ones)[0] == pytest.approx(0.0, abs=1e-12)
    assert [row["count"] for row in calibration.diagram(bins)] == [20, 20, 20]
    too_sure = calibration.binned(np.full(60, 0.95), is_right)
    assert calibration.error(too_sure, ones)[0] == pytest.approx(0.95 - 0.75)


@pytest.mark.parametrize(("metric", "least"), [("recall", 0.95), ("precision", 0.8), ("recall", 0.5)])
def test_operating_point_reaches_what_is_wanted_and_none_reaches_more_of_the_other(
    metric: str, least: float
) -> None:
    scored = _labelled()
    wanted = operating.Wanted(metric, least)
    limits = scores.chosen("multilabel", scored, "val", wanted)
    found = operating.at(limits.values, scored.predictions, scored.labels > 0.5)
    other = {"recall": "precision", "precision": "recall"}[metric]
    for place in range(3):
        assert found[metric][place] >= least
        for limit in np.unique(scored.predictions[:, place]):
            tried = operating.at(np.full(3, limit), scored.predictions, scored.labels > 0.5)
            if tried[metric][place] >= least:
                assert tried[other][place] <= found[other][place] + 1e-12


def test_threshold_that_nothing_reaches_is_said() -> None:
    scored = _labelled()
    # The highest score of all is a negative's.
    labels = np.where(scored.logits == scored.logits.max(0), 0.0, scored.labels).astype(np.float32)
    scored = scored._replace(labels=labels)
    limits = scores.chosen("multilabel", scored, "val", operating.Wanted("precision", 1.0))
    assert np.isnan(limits.values).any()
    found = scores.of("multilabel", scored, QUICK, limits=limits)
    assert any("no threshold reaches what is wanted for" in note for note in found.notes)


def test_thresholds_chosen_for_f1_are_measured_beside_the_tasks_own() -> None:
    chosen_on, measured = _labelled(1), _labelled(2)
    limits = scores.chosen("multilabel", chosen_on, "val", None)
    found = scores.of("multilabel", measured, QUICK, limits=limits)
    assert "thresholds were chosen on val" in found.notes
    is_taken = measured.predictions >= limits.values[None, :]
    expected = sklearn.metrics.f1_score(measured.labels > 0.5, is_taken, average="macro")
    assert _value(found, "macro_f1_chosen") == pytest.approx(expected)
    assert [row["threshold"] for row in found.points] == pytest.approx(limits.values.tolist())
