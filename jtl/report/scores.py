"""All numbers of an evaluation that need every example: rankings, calibration, chosen thresholds, intervals.

They are computed of the kept logits (`metrics.Summary`), a function for each kind of labels. Numbers that the
task's sums give too are the same here: this is where their intervals come from.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jtl.metrics import f1_scores, ratio
from jtl.report import bootstrap, calibration, operating, ranking
from jtl.report.bootstrap import Interval, Settings, Statistic

# Above this many (sets x examples x classes) rankings have no interval: they would take minutes.
MAX_RANKED = 500_000_000
TOP = 5
PER_CLASS = "class_"


class Scored(NamedTuple):
    """Every example of a split: `predictions` are what the task says to people of the `logits`, both [n, c].

    `threshold` is the probability from which a label counts as predicted, where several may be.
    """

    logits: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    threshold: float = 0.5


class Scores(NamedTuple):
    """What was found: numbers with their intervals, `per_class` ones [classes]; `reliability` as JSON has it.

    `notes` say for people what is left out, and what was chosen where.
    """

    scalars: dict[str, Interval]
    per_class: dict[str, Interval]
    reliability: list[dict[str, Any]]
    points: list[dict[str, Any]]
    notes: list[str]


class Limits(NamedTuple):
    """Thresholds of operating points [classes], and the split that they were chosen on."""

    values: np.ndarray
    split: str


def of(
    kind: str,
    scored: Scored,
    settings: Settings = Settings(),  # noqa: B008  a named tuple cannot change
    *,
    limits: Limits | None = None,
) -> Scores:
    """Return the numbers of a split whose labels are of a kind ("class", "multilabel", "regression").

    `limits` are the thresholds that its operating points are measured at.
    """
    return KINDS[kind](scored, settings, limits)


def told_right(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Statistic:
    """Return the statistic of what examples of one class each were told to be: shares that were told right.

    They are of all examples, and "class_recall", "class_f1" and "class_precision" of each class; macro F1 is
    over the classes that there are.
    """
    from scipy.sparse import csr_array

    num_examples, is_right = len(labels), predicted == labels
    every, ones = np.arange(num_examples), np.ones(num_examples)

    def counts(places: np.ndarray, values: np.ndarray) -> Any:
        return csr_array((values.astype(np.float64), (every, places)), (num_examples, num_classes))

    actual_of, taken_of, hits_of = counts(labels, ones), counts(predicted, ones), counts(labels, is_right)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, actual, taken = (weights @ each for each in (hits_of, actual_of, taken_of))
        recall, f1 = ratio(hits, actual), f1_scores(hits, actual, taken)
        return {
            "accuracy": weights @ is_right / num_examples,
            "macro_f1": _mean(np.where(actual > 0, f1, np.nan)),
            "balanced_accuracy": _mean(recall),
            "micro_f1": hits.sum(1) / num_examples,
            "class_recall": recall,
            "class_f1": f1,
            "class_precision": ratio(hits, taken),
        }

    return statistic


def chosen(kind: str, scored: Scored, split: str, wanted: operating.Wanted | None) -> Limits:
    """Return the thresholds of each class that a split chooses (see `operating.thresholds`)."""
    return Limits(operating.thresholds(scored.predictions, POSITIVES[kind](scored), wanted), split)


def _multiclass(scored: Scored, settings: Settings, limits: Limits | None) -> Scores:
    from scipy.special import log_softmax

    logits, labels = scored.logits.astype(np.float64), scored.labels.astype(np.int64)
    num_examples, num_classes = logits.shape
    predicted, every = scored.logits.argmax(1), np.arange(num_examples)
    is_right = predicted == labels
    num_above = (scored.logits > scored.logits[every, labels][:, None]).sum(1)

    rates = told_right(labels, predicted, num_classes)
    bins = calibration.binned(np.exp(log_softmax(logits, axis=1).max(1)), is_right)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {**rates(weights), "expected_calibration_error": calibration.error(bins, weights)}
        if num_classes > TOP:
            found[f"top{TOP}_accuracy"] = weights @ (num_above < TOP) / num_examples
        return found

    is_positive = POSITIVES["class"](scored)
    found = bootstrap.intervals(statistic, num_examples, settings)
    # Rank by log odds: a probability near 1 has lost the digits that tell one from another.
    ranked, notes = _ranked(_log_odds(logits), is_positive, settings, "average_precision")
    points, said = _points(scored, is_positive, limits)
    return Scores(*_divided(found | ranked), calibration.diagram(bins), points, [*notes, *said])


def _multilabel(scored: Scored, settings: Settings, limits: Limits | None) -> Scores:
    is_positive = POSITIVES["multilabel"](scored)
    limit_of = {"": np.full(scored.predictions.shape[1], scored.threshold, np.float32)}
    if limits is not None:
        limit_of["_chosen"] = limits.values
    taken_of = {name: scored.predictions >= each[None, :] for name, each in limit_of.items()}
    num_examples = len(is_positive)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        actual = weights @ is_positive
        found: dict[str, np.ndarray] = {}
        for name, is_taken in taken_of.items():
            hits, taken = weights @ (is_taken & is_positive), weights @ is_taken
            f1 = f1_scores(hits, actual, taken)
            found |= {
                f"macro_f1{name}": _mean(np.where(actual > 0, f1, np.nan)),
                f"micro_f1{name}": f1_scores(hits.sum(1), actual.sum(1), taken.sum(1)),
                f"exact_match{name}": weights @ (is_taken == is_positive).all(1) / num_examples,
                f"class_recall{name}": ratio(hits, actual),
                f"class_precision{name}": ratio(hits, taken),
                f"class_f1{name}": f1,
            }
        return found

    found = bootstrap.intervals(statistic, num_examples, settings)
    ranked, notes = _ranked(scored.logits.astype(np.float64), is_positive, settings, "mean_average_precision")
    points, said = _points(scored, is_positive, limits)
    return Scores(*_divided(found | ranked), [], points, [*notes, *said])


def _regression(scored: Scored, settings: Settings, limits: Limits | None) -> Scores:
    del limits
    labels, values = scored.labels.astype(np.float64), scored.predictions.astype(np.float64)
    errors, num_examples = values - labels, len(labels)
    centred = labels - labels.mean(0)
    orders = [(ranking.order(one), ranking.order(two)) for one, two in zip(values.T, labels.T, strict=True)]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        squared, absolute = (weights @ each / num_examples for each in (errors**2, np.abs(errors)))
        mean = weights @ centred / num_examples
        variance = weights @ centred**2 / num_examples - mean**2
        r2 = 1.0 - ratio(squared, np.maximum(variance, 0.0))
        spearman = np.stack([ranking.correlation(*each, weights) for each in orders], axis=1)
        return {
            "mean_absolute_error": absolute.mean(1),
            "mean_squared_error": squared.mean(1),
            "root_mean_squared_error": np.sqrt(squared.mean(1)),
            "r2": _mean(r2),
            "spearman": _mean(spearman),
            "class_mean_absolute_error": absolute,
            "class_r2": r2,
            "class_spearman": spearman,
        }

    return Scores(*_divided(bootstrap.intervals(statistic, num_examples, settings)), [], [], [])


def _ranked(
    values: np.ndarray, is_positive: np.ndarray, settings: Settings, mean_name: str
) -> tuple[dict[str, Interval], list[str]]:
    """Return AUROC and average precision of each class against the rest, their means, and notes."""
    num_examples, num_classes = values.shape
    orders = [ranking.order(column) for column in values.T]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        area, precision = (
            np.stack([of(*each, weights) for each in zip(orders, is_positive.T, strict=True)], axis=1)
            for of in (ranking.auroc, ranking.average_precision)
        )
        return {
            "auroc": _mean(area),
            mean_name: _mean(precision),
            "class_auroc": area,
            "class_average_precision": precision,
        }

    if settings.resamples * num_examples * num_classes <= MAX_RANKED:
        return bootstrap.intervals(statistic, num_examples, settings), []
    note = (
        f"AUROC and average precision have no interval: {settings.resamples:,} sets of {num_examples:,} "
        f"examples and {num_classes:,} classes are over {MAX_RANKED:,}; fewer sets (--resamples) have one"
    )
    return bootstrap.intervals(statistic, num_examples, settings._replace(resamples=0)), [note]


def _points(
    scored: Scored, is_positive: np.ndarray, limits: Limits | None
) -> tuple[list[dict[str, Any]], list[str]]:
    if limits is None:
        return [], []
    found = operating.at(limits.values, scored.predictions, is_positive)
    notes = [f"thresholds were chosen on {limits.split}"]
    absent = [scored.label_names[place] for place in np.flatnonzero(np.isnan(limits.values))]
    if absent:
        notes.append(f"no threshold reaches what is wanted for: {', '.join(absent[:10])}")
    return operating.rows(limits.values, found, scored.label_names), notes


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """Return the log of p / (1 - p) of each class [n, c]."""
    from scipy.special import logsumexp

    others = np.empty_like(logits)
    for place in range(logits.shape[1]):
        others[:, place] = logsumexp(np.delete(logits, place, axis=1), axis=1)
    return logits - others


def _divided(found: Mapping[str, Interval]) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return the numbers of all classes together, and those of each class."""
    together = {name: each for name, each in found.items() if not name.startswith(PER_CLASS)}
    each_class = {
        name.removeprefix(PER_CLASS): each for name, each in found.items() if name.startswith(PER_CLASS)
    }
    return together, each_class


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over the classes that have a value; nan where none has."""
    return ratio(np.nansum(values, axis=1), np.sum(~np.isnan(values), axis=1))


POSITIVES: dict[str, Callable[[Scored], np.ndarray]] = {
    "class": lambda scored: scored.labels[:, None] == np.arange(scored.predictions.shape[1])[None, :],
    "multilabel": lambda scored: scored.labels > 0.5,
}
KINDS: dict[str, Callable[[Scored, Settings, Limits | None], Scores]] = {
    "class": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}
