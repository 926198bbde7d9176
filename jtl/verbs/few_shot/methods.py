"""What tells the classes of an episode, by name: of kept features, by inner steps, or by fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jtl import signals
from jtl.data import Source, episodes
from jtl.data.episodes import Shape
from jtl.errors import UserError, nearest
from jtl.predictor import Predictor
from jtl.ranking import FEW_SHOT
from jtl.verbs.contract import Overrides
from jtl.verbs.few_shot import told, tuned
from jtl.verbs.few_shot.asked import Episodes
from jtl.verbs.few_shot.rows import Rows

# (labelled rows, rows to tell, number of the episode) → the classes that are told.
Told = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


class Case(NamedTuple):
    """What is measured: a candidate, its features of all examples (where asked for), the examples, settings.

    `spec` is where its weights lie, `inputs()` reads the examples once, `centre` is the mean of the features
    of other classes.
    """

    opened: Predictor
    spec: str
    source: Source
    inputs: Callable[[], Rows]
    labels: np.ndarray
    features: np.ndarray | None
    centre: np.ndarray | None
    overrides: Overrides
    say: Callable[[str], None]


def accuracies(tell: Told, labels: np.ndarray, shape: Shape, asked: Episodes) -> np.ndarray:
    """Return the share of queries that are told right, of every episode."""
    members = episodes.members_of(labels)
    expected = episodes.labels_of(shape.ways, shape.queries)
    shares = np.empty(asked.num_episodes)
    for number in range(asked.num_episodes):
        signals.check()
        drawn = episodes.episode(members, shape, asked.seed, number)
        shares[number] = np.mean(tell(drawn.support, drawn.queries, number) == expected)
    return shares


def _of_features(fitted: Callable[..., np.ndarray], case: Case, shape: Shape, asked: Episodes) -> Told:
    del asked
    known, features = episodes.labels_of(shape.ways, shape.shots), case.features
    assert features is not None, "features are there for methods that read them"

    def tell(few: np.ndarray, others: np.ndarray, number: int) -> np.ndarray:
        del number
        return fitted(features[few], known, features[others], case.centre)

    return tell


def _by_inner_steps(name: str, case: Case, shape: Shape, asked: Episodes) -> Told:
    del asked
    return told.by_strategy(
        name,
        opened=case.opened,
        spec=case.spec,
        inputs=case.inputs(),
        shape=shape,
        overrides=case.overrides,
        say=case.say,
    )


def _by_tuning(name: str, case: Case, shape: Shape, asked: Episodes) -> Told:
    return tuned.by_strategy(
        name,
        opened=case.opened,
        source=case.source,
        inputs=case.inputs(),
        shape=shape,
        steps=asked.steps,
        overrides=case.overrides,
    )


# Of features, which are computed once.
OF_FEATURES: Mapping[str, Callable[..., Told]] = {
    name: partial(_of_features, fitted) for name, fitted in FEW_SHOT.items()
}
METHODS: Mapping[str, Callable[..., Told]] = {
    **OF_FEATURES,
    **{name: partial(_by_inner_steps, name) for name in told.STRATEGIES_THAT_TELL},
    **{name: partial(_by_tuning, name) for name in tuned.READ_OUT},
}


def of_weights(asked: Sequence[str], spec: str) -> tuple[str, ...]:
    """Return the methods for weights: those asked for, or those of features and what a run has learnt for.

    Raises:
        UserError: one is unknown.
    """
    for name in asked:
        if name not in METHODS:
            raise UserError(
                f"--methods has {name!r}; nearest: {nearest(name, METHODS)}; expected of {', '.join(METHODS)}"
            )
    own = told.own_strategy(spec)
    learnt = [own.name] if own is not None and own.name in told.STRATEGIES_THAT_TELL else []
    return tuple(asked) or (*OF_FEATURES, *learnt)


def measured(name: str, case: Case, shape: Shape, asked: Episodes) -> np.ndarray:
    """Return the share of queries that a method tells right, of every episode."""
    return accuracies(METHODS[name](case, shape, asked), case.labels, shape, asked)
