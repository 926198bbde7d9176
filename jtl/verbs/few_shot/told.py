"""New classes told by the inner steps of a strategy that learnt to learn (`Strategy.told`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.episodes import Shape
from jtl.data.sampling import Visit
from jtl.models import Outputs
from jtl.predictor import Predictor
from jtl.strategies import STRATEGIES, Context
from jtl.training import config
from jtl.verbs.contract import Overrides
from jtl.verbs.few_shot.rows import Rows

STRATEGIES_THAT_TELL = ("maml", "anil", "reptile")


def own_strategy(spec: str) -> Any:
    """Return the settings of the strategy that a run folder was trained by; None of other weights."""
    folder = Path(spec)
    return config.of_folder(folder).strategy if (folder / config.NAME).is_file() else None


def by_strategy(
    name: str,
    *,
    opened: Predictor,
    spec: str,
    inputs: Rows,
    shape: Shape,
    overrides: Overrides,
    say: Callable[[str], None],
) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Return what tells an episode by the inner steps, with the run's own settings of them where it has them.

    `inputs` are those of rows of the examples.

    Raises:
        UserError: a setting is none of the strategy's.
    """
    own, kind = own_strategy(spec), STRATEGIES[name]
    settings = own if own is not None and own.name == name else kind.Config()
    given = [pair for pair in overrides if pair[0].startswith("strategy.")]
    whole = config.with_overrides(replace(opened.settings, strategy=settings), given)
    strategy = kind.build(replace(whole.strategy, shots=shape.shots), _context(opened, shape))
    told, state = strategy.told, opened.values["model_state"]
    assert told is not None, "a strategy that tells"
    # What a trace finds out: whether batch normalisation goes by what is told.
    seen: list[bool] = []

    def apply(params: Any, inputs: Any, *, by_batch: bool) -> Outputs:
        seen.append(by_batch)
        count = jax.tree.leaves(inputs)[0].shape[0]
        moments = opened.model.moments(params, state, inputs, jnp.ones(count, bool)) if by_batch else state
        return opened.model.apply(params, moments, inputs, train=False, key=None)

    @jax.jit
    def classes(params: Any, few: Any, others: Any) -> jax.Array:
        few, others = (opened.input.normalise(each, opened.preprocess) for each in (few, others))
        return told(apply, params, few, others, shape.ways).argmax(axis=1)

    def tell(few: np.ndarray, others: np.ndarray, number: int) -> np.ndarray:
        del number
        is_first = not seen
        found = np.asarray(classes(opened.values["params"], inputs(few), inputs(others)))
        if is_first and any(seen) and jax.tree.leaves(state):
            say(
                f"{name}: batch normalisation goes by the labelled examples of an episode, and then by all "
                f"that are to be told, together (transductive)"
            )
        return found

    steps = {key: value for key, value in vars(whole.strategy).items() if key != "name"}
    say(f"{name}: {', '.join(f'{key}={value}' for key, value in {**steps, 'shots': shape.shots}.items())}")
    return tell


def _context(opened: Predictor, shape: Shape) -> Context:
    return Context(
        layers=opened.model.layers,
        num_steps=1,
        input=opened.input,
        preprocess=opened.preprocess,
        episode=Visit(shape.shots + shape.queries, shape.ways),
    )
