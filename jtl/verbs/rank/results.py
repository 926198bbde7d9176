"""What is measured of a candidate, and what all of them say: numbers with intervals, and a sentence."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jtl.verbs.features import OWN
from jtl.verbs.observed import Observed
from jtl.verbs.rank.candidates import Candidate

if TYPE_CHECKING:
    import numpy as np

    from jtl.report.bootstrap import Settings

# What differences of shares are called.
POINTS = " points"
METRICS = {"class": "accuracy", "regression": "r2"}


class Measured(NamedTuple):
    """One candidate: what its features predict of held-out examples, its scores, and what it would cost.

    `predictions` are by name of `ranking.HELD_OUT`, `layers` by layer, from input to output; a score is None
    where it cannot be had. `cost` is `cost.cost`'s, None where it was not asked for.
    """

    candidate: Candidate
    predictions: "dict[str, np.ndarray]"
    layers: "dict[str, np.ndarray]"
    scores: dict[str, float | None]
    cost: dict[str, Any] | None


def measured(
    candidate: Candidate, seen: Observed, labels: "np.ndarray", kind: str, folds: "np.ndarray"
) -> Measured:
    """Compute everything of a candidate that its features and its head's logits give."""
    from jtl import signals
    from jtl.ranking import HELD_OUT, OF_LAYERS, SCORES, held_out

    features = seen.layers[OWN].astype("float64")
    predictions = {}
    for name, fitted in HELD_OUT.items():
        signals.check()
        predictions[name] = held_out.predictions(fitted[kind], features, labels, folds)
    layers = {}
    for name, found in seen.layers.items():
        signals.check()
        layers[name] = held_out.predictions(OF_LAYERS[kind], found.astype("float64"), labels, folds)
    known = {name: score for name, score in SCORES.items() if kind in score.label_kinds}
    scores = {name: _score(score, seen, features, labels) for name, score in known.items()}
    return Measured(candidate, predictions, layers, scores, None)


def _score(score: Any, seen: Observed, features: "np.ndarray", labels: "np.ndarray") -> float | None:
    from scipy.special import softmax

    from jtl.ranking.contract import PROBABILITIES

    if score.max_examples and len(labels) > score.max_examples:
        return None
    if score.reads == PROBABILITIES:
        return None if seen.logits is None else score.compute(softmax(seen.logits, axis=1), labels)
    return score.compute(features, labels)


def compared(found: Sequence[Measured], labels: "np.ndarray", settings: "Settings") -> list[dict[str, Any]]:
    """Return a record a candidate, from the best by the probe to the worst, with intervals.

    `behind` is by how much a candidate's probe is behind that of the first, on the same sets of examples.
    """
    from jtl.ranking import NEIGHBOURS, PROBE, held_out

    probes = {str(place): each.predictions[PROBE] for place, each in enumerate(found)}
    quality = held_out.intervals(probes, labels, settings)
    order = sorted(range(len(found)), key=lambda place: -float(quality[str(place)].value))
    behind = held_out.intervals(probes, labels, settings, reference=str(order[0]))
    records = []
    for place in order:
        each = found[place]
        near = held_out.intervals({NEIGHBOURS: each.predictions[NEIGHBOURS]}, labels, settings)
        records.append(
            {
                "label": each.candidate.label,
                "weights": each.candidate.spec,
                "settings": dict(each.candidate.overrides),
                PROBE: _plain(quality[str(place)]),
                "behind": _plain(behind[str(place)]),
                NEIGHBOURS: _plain(near[NEIGHBOURS]),
                "scores": each.scores,
                **_of_layers(each.layers, labels, settings),
                "cost": each.cost,
            }
        )
    return records


def _of_layers(
    layers: "Mapping[str, np.ndarray]", labels: "np.ndarray", settings: "Settings"
) -> dict[str, Any]:
    """Return the quality of every layer, and by how much the best one is ahead of the one a head reads."""
    from jtl.ranking import held_out

    quality = held_out.intervals(layers, labels, settings._replace(resamples=0))
    values = {name: float(each.value) for name, each in quality.items()}
    # Of equal ones the last: less of the model is left out.
    best = max(reversed(values), key=lambda name: values[name])
    two = {name: layers[name] for name in {best, OWN}}
    ahead = held_out.intervals(two, labels, settings, reference=best)[OWN]
    return {"layers": values, "best_layer": {"name": best, **_plain(ahead)}}


def is_alike(record: Mapping[str, Any]) -> bool:
    """Return whether a candidate's interval does not tell it from the first."""
    return record["behind"]["low"] is None or record["behind"]["low"] <= 0.0


def sentence(records: Sequence[Mapping[str, Any]], metric: str, folds: int, num_examples: int) -> str:
    """Return which weights to take, and on what evidence, in one sentence."""
    from jtl.ranking import PROBE

    first, *others = records
    text = (
        f"Take {first['label']}: a probe of its features has {metric} {bounds(first[PROBE], metric)} on "
        f"{num_examples:,} examples held out in {folds} folds"
    )
    if not others:
        return f"{text}; there is no other to compare it with."
    alike = [each for each in others if is_alike(each)]
    if not alike:
        second = others[0]
        return f"{text}, ahead of {second['label']}, the next, by {bounds(second['behind'], metric, POINTS)}."
    names = ", ".join(each["label"] for each in alike)
    text += f", but the intervals of the differences do not tell it from {names}"
    faster = _faster(first, alike)
    return f"{text}{faster}."


def _faster(first: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """Return the words about one that may be as good, and takes half the time or less."""
    known = [each for each in alike if each["cost"] and each["cost"]["epoch_seconds"]]
    if not known or not first["cost"] or not first["cost"]["epoch_seconds"]:
        return ""
    least = min(known, key=lambda each: each["cost"]["epoch_seconds"])
    times = first["cost"]["epoch_seconds"] / least["cost"]["epoch_seconds"]
    if times < 2.0:
        return ""
    return f"; {least['label']} would train {times:.1f} times as fast"


def bounds(found: Mapping[str, Any], metric: str, unit: str = " %") -> str:
    """Return a number with its interval, those of accuracy times 100 and with that unit.

    >>> bounds({"value": 0.9672, "low": 0.943, "high": 0.988}, "accuracy")
    '96.7 % (94.3 to 98.8)'
    >>> bounds({"value": 0.5, "low": None, "high": None}, "r2")
    '0.500'
    """
    is_share = metric == METRICS["class"]
    times, digits, unit = (100.0, 1, unit) if is_share else (1.0, 3, "")
    if found["value"] is None:
        return "-"
    text = f"{times * found['value']:.{digits}f}{unit}"
    if found["low"] is None or found["high"] is None:
        return text
    return f"{text} ({times * found['low']:.{digits}f} to {times * found['high']:.{digits}f})"


def _plain(found: Any) -> dict[str, float | None]:
    """Return an interval as JSON has it, None for what has no value."""
    import math

    values = {name: float(getattr(found, name)) for name in ("value", "low", "high")}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
