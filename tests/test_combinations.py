"""Every strategy with every task on pictures and texts: it trains, odd labels included, or says why not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.strategies import STRATEGIES
from jtl.strategies.contract import TRAIN
from jtl.tasks import TASKS
from tests import tiny

FAMILIES = {"image": "vit", "tokens": "bert"}
# The contracts have every strategy on pictures of one class. What a task asks of text features it asks of
# those of pictures: there a few strategies stand for all.
THOROUGH = {"vit": set(TASKS) - {"multiclass"}, "bert": {"multiclass", "masked_tokens"}}
SAMPLE = ("full", "lora", "mdd")
COMBINATIONS = [
    (family, task, strategy)
    for family in FAMILIES.values()
    for task in TASKS
    for strategy in (STRATEGIES if task in THOROUGH[family] else SAMPLE)
]
NUM_STEPS, SIZE = 3, 8
# Labels that a set may have where nothing is wrong with it: all of one class, none at all, all the same.
ODD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "class": lambda labels: np.full_like(labels, tiny.NUM_CLASSES - 1),
    "multilabel": np.zeros_like,
    "regression": lambda labels: np.full_like(labels, 1e6),
}


def batches(parts: Any, task: str) -> list[dict[str, Any]]:
    """Return a batch of usual labels, one of odd ones, and one that is padded but for one example."""
    usual, odd, padded = (tiny.make_batch(parts, SIZE, seed, task) for seed in range(NUM_STEPS))
    change = ODD.get(TASKS[task].label_kind)
    if change is not None:
        odd[TRAIN]["label"] = change(odd[TRAIN]["label"])
    for stream in padded.values():
        stream["mask"] = np.arange(len(stream["mask"])) < 1
    return [usual, odd, padded]


def made(family: str, task: str, strategy: str) -> Any:
    """Return the parts of a tiny run and its state, or why it cannot be."""
    try:
        parts, params, model_state = tiny.make_parts(family, strategy, task, num_steps=NUM_STEPS)
    except UserError as error:
        return error
    return parts, tiny.make_state(parts, params, model_state)


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_every_combination_trains_or_is_refused_in_one_line(combination: tuple[str, str, str]) -> None:
    found = made(*combination)
    if isinstance(found, UserError):
        assert "\n" not in str(found)
        assert any(word in str(found) for word in (combination[1], combination[2], "task.name"))
        return
    parts, state = found
    before = {name: np.array(leaf) for name, leaf in tree.flatten(state.trainable).items()}
    after, reported = tiny.Trainer(parts).train(state, batches(parts, combination[1]))
    assert all(np.isfinite(value) for values in reported for value in values.values()), reported
    leaves = tree.flatten(after.trainable)
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    assert any((np.asarray(leaf) != before[name]).any() for name, leaf in leaves.items())


def test_inputs_and_families_are_those_there_are() -> None:
    assert {MODELS[family].input: family for family in FAMILIES.values()} == FAMILIES
