"""Scores of how well pretrained features suit labels, without training: pure functions, a file each."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.ranking import h_score, leep, log_me, logistic, nearest_mean, neighbours, nleep, parc, ridge, sfda
from jtl.ranking.contract import CLASS, PROBABILITIES, REGRESSION, Score

SCORES: dict[str, Score] = {
    "log_me": Score(log_me.log_me, (CLASS, REGRESSION)),
    "h_score": Score(h_score.h_score, (CLASS,)),
    "nleep": Score(nleep.nleep, (CLASS,)),
    "leep": Score(leep.leep, (CLASS,), reads=PROBABILITIES),
    "sfda": Score(sfda.sfda, (CLASS,)),
    "parc": Score(parc.parc, (CLASS,), max_examples=parc.MAX_EXAMPLES),
}

# What is fitted to a part of the examples and asked about the others, by kind of labels: (features, labels,
# others' features) → predictions.
PROBE, NEIGHBOURS = "probe", "knn"
HELD_OUT: dict[str, Mapping[str, Callable[[Any, Any, Any], Any]]] = {
    PROBE: {CLASS: logistic.classified, REGRESSION: ridge.predicted},
    NEIGHBOURS: {CLASS: neighbours.voted, REGRESSION: neighbours.averaged},
}
# The same for every layer of a model, of which there are many: solved for in closed form.
OF_LAYERS: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    CLASS: ridge.classified,
    REGRESSION: ridge.predicted,
}

# What few labels of an episode are fitted by: (features, labels, others, mean of base classes or None).
FEW_SHOT: Mapping[str, Callable[[Any, Any, Any, Any], Any]] = {
    "nearest_mean": nearest_mean.classified,
    "prototypes": nearest_mean.by_prototypes,
    "probe": logistic.of_few,
}
