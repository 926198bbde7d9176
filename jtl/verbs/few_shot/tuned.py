"""New classes told after fine-tuning on the labelled examples of an episode, by steps of jtl's own.

Each episode begins at the weights as they are. The examples are varied by `augment`, so that a few are many.
With `proto_net` each labelled example is in the batch twice, varied anew: some views are labelled ones, the
others are told (Hu et al. 2022, sec. 3.3: pretrained, trained by episodes, fine-tuned).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl.data import Source, pipeline
from jtl.data.episodes import Shape, labels_of
from jtl.predictor import Predictor
from jtl.strategies.contract import TRAIN
from jtl.tasks import TASKS
from jtl.training import build, config, recipe, sharding, step
from jtl.training.state import State
from jtl.verbs.contract import Overrides
from jtl.verbs.few_shot.rows import Few, Rows

BATCH_SIZE = 16
# Sections of what is asked, which are not of how weights are read.
ASKED = ("strategy.", "optim.", "augment.", "train.", "task.")


class Reading(NamedTuple):
    """How a fine-tuned model tells: `times` each example is in an episode's source, and the class of others.

    `classes(few, known, others)` are those of others by the outputs of the labelled examples and of others.
    """

    times: int
    classes: Callable[[Mapping[str, np.ndarray], np.ndarray, Mapping[str, np.ndarray]], np.ndarray]


def by_strategy(
    name: str,
    *,
    opened: Predictor,
    source: Source,
    inputs: Rows,
    shape: Shape,
    steps: int,
    overrides: Overrides,
) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Return what tells an episode after so many steps of a strategy on its labelled examples.

    `inputs` are those of rows of the source. One device trains: an episode is small.

    Raises:
        UserError: a setting does not fit.
    """
    reading, known = READ_OUT[name], labels_of(shape.ways, shape.shots)
    settings = _settings(name, opened, shape, steps, overrides)
    names = tuple(str(number) for number in range(shape.ways))
    built = build.build(settings, TASKS[settings.task.name].stats(known, names), steps)
    parts = built.parts._replace(preprocess=opened.preprocess)
    mesh = sharding.mesh(sharding.Config(devices=1))
    state, placement = build.initial_state(built._replace(parts=parts), settings, mesh)
    start = jax.device_get(state)
    train = step.make_train_step(parts, 0, placement, sharding.of_batch(mesh))
    outputs = step.make_output_step(parts)

    def given(state: State, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        return jax.device_get(outputs(state, {"inputs": inputs(rows)}))

    def tell(few: np.ndarray, others: np.ndarray, number: int) -> np.ndarray:
        rows, labels = (np.repeat(each, reading.times) for each in (few, known))
        batches = _batches(Few(source, rows, labels, names), parts, settings, number)
        state = jax.device_put(start, placement)
        try:
            for batch in islice(batches, steps):
                fields = {key: batch[key] for key in step.FIELDS}
                state, _ = train(state, sharding.put_batch({TRAIN: fields}, mesh))
        finally:
            batches.close()
        return reading.classes(given(state, few), known, given(state, others))

    return tell


def _settings(name: str, opened: Predictor, shape: Shape, steps: int, overrides: Overrides) -> config.Config:
    """Return the recipe of a strategy for the weights, as many steps long, with the user's settings."""
    values = recipe.values(name, opened.settings.model.weights)
    sections = {key: values[key] for key in ("strategy", "optim", "task")}
    reading = READ_OUT[name]
    if reading.times > 1:
        size = reading.times * shape.shots
        sections["strategy"] = {**sections["strategy"], "shots": shape.shots}
        sections["train"] = {"sampling": f"episodic:{size}x{shape.ways}", "batch_size": size * shape.ways}
    else:
        sections["train"] = {"sampling": "class_balanced", "batch_size": BATCH_SIZE}
    sections["train"] |= {"steps": steps}
    made = config.from_dict(sections)
    weights = replace(opened.settings.weights, head="new", label_map={})
    found = replace(
        opened.settings,
        weights=weights,
        strategy=made.strategy,
        optim=made.optim,
        task=made.task,
        train=made.train,
    )
    return config.with_overrides(found, [pair for pair in overrides if pair[0].startswith(ASKED)])


def _batches(few: Few, parts: step.Parts, settings: config.Config, number: int) -> Any:
    return pipeline.train_batches(
        few,
        parts.input.transform(parts.preprocess, parts.augment),
        parts.input,
        preprocess=parts.preprocess,
        batch_size=settings.train.batch_size,
        seed=number,
        sampling=settings.train.sampling,
        config=settings.inputs,
    )


def _by_head(
    few: Mapping[str, np.ndarray], known: np.ndarray, others: Mapping[str, np.ndarray]
) -> np.ndarray:
    del few, known
    return others["logits"].argmax(axis=1)


def _by_prototypes(
    few: Mapping[str, np.ndarray], known: np.ndarray, others: Mapping[str, np.ndarray]
) -> np.ndarray:
    from jtl.ranking.nearest_mean import by_prototypes

    return by_prototypes(few["features"], known, others["features"])


READ_OUT: Mapping[str, Reading] = {
    **dict.fromkeys(("full", "lora", "bitfit"), Reading(1, _by_head)),
    "proto_net": Reading(2, _by_prototypes),
}
