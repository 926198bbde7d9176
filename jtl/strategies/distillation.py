"""Distillation: a teacher's probabilities, and its features, are targets beside the labels.

Probabilities softened by a temperature (Hinton et al. 2015, eq. 1) and features of the last layer (FitNets,
Romero et al. 2015, eq. 3). The teacher is frozen and in evaluation mode, and sees the very inputs that the
model sees, blended and erased as they are. Its parameters are held in memory and in every checkpoint, and it
runs forward once a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jtl.errors import UserError, nearest, shown
from jtl.inputs import Inputs
from jtl.models.shapes import output_shapes
from jtl.ranges import NotNegative, Positive, ReadIf, check
from jtl.strategies.contract import (
    EXTRA,
    FROZEN,
    TRAIN,
    Classifier,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import masked

TEACHER, PROJECTION = "teacher", "projection"
NUM_NAMED = 5


@dataclass(frozen=True)
class Config:
    """Settings of distillation.

    `teacher` is a run folder, or weights whose classes have the names of the task's; others it may know as
    well. `weight` scales the divergence (nats) from its probabilities to the model's, both of logits divided
    by `temperature`, times the temperature's square. `feature_weight` scales the distance of the features,
    "l2" (half the mean squared difference) or "cosine" (one less the cosine); where they are of different
    widths, those of the model are projected linearly.
    """

    name: str = "distillation"
    teacher: str = ""
    weight: NotNegative = 0.2
    temperature: Positive = 2.0
    feature_weight: NotNegative = 0.0
    feature_distance: Annotated[str, ReadIf("feature_weight")] = "l2"

    def __post_init__(self) -> None:
        check(self, "strategy")
        if self.feature_distance not in DISTANCES:
            known = nearest(self.feature_distance, DISTANCES)
            raise UserError(
                f"strategy.feature_distance is {shown(self.feature_distance)}; expected one of {known}"
            )


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything beside a frozen teacher.

    Raises:
        UserError: the task has not one class an example, the teacher is not given or cannot be had, lacks
            classes of the task, or reads what cannot be made of the model's inputs.
    """
    check_classes(config.name, context)
    if not config.teacher:
        raise UserError("strategy.teacher is empty; expected a run folder, or weights of the task's classes")
    teacher = context.classifier(config.teacher)
    order = class_order(teacher.label_names, context.label_names)
    if teacher.input.holds != context.input.holds:
        raise UserError(
            f"strategy.teacher reads {teacher.input.unit} and the model {context.input.unit}; expected a "
            f"teacher of what the model reads"
        )
    try:
        convert = context.input.converter(context.preprocess, teacher.preprocess)
    except UserError as error:
        raise UserError(f"strategy.teacher cannot be shown what the model reads: {error}") from error
    run = _teacher_run(teacher, order, convert)

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: FROZEN if name.startswith(f"{EXTRA}/{TEACHER}/") else Group() for name in names}

    return Strategy(
        groups=groups,
        extra=partial(_extra, config, context, teacher),
        penalty=partial(_penalty, config, run),
    )


def class_order(known: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Return where the wanted classes are among the known ones, by name.

    >>> class_order(("wasps", "bees", "ants"), ("ants", "bees"))
    (2, 1)

    Raises:
        UserError: some are not.
    """
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(
            f"strategy.teacher does not know {len(missing)} of the task's {len(wanted)} classes: "
            f"{', '.join(missing[:NUM_NAMED])}; it has {', '.join(known[:NUM_NAMED])}, … ({len(known)}); "
            f"give a teacher trained on the task's classes"
        )
    return tuple(list(known).index(name) for name in wanted)


def softened_divergence(
    logits: Float[Array, "batch classes"], teacher: Float[Array, "batch classes"], temperature: float
) -> Float[Array, " batch"]:
    """Return the squared temperature times KL(teacher || model) of probabilities at it, in nats.

    The cross-entropy with soft targets of Hinton et al. 2015, sec. 2, less the targets' own entropy, which
    has no gradient: so it is 0 where both agree.
    """
    model_log, teacher_log = (jax.nn.log_softmax(each / temperature) for each in (logits, teacher))
    return temperature**2 * jnp.sum(jnp.exp(teacher_log) * (teacher_log - model_log), axis=-1)


def _teacher_run(
    teacher: Classifier, order: tuple[int, ...], convert: Callable[[Inputs], Inputs]
) -> Callable[..., tuple[Array, Array]]:
    """Return (values, inputs of the run) → the teacher's features, and its logits of the task's classes."""

    def run(values: Mapping[str, Any], inputs: Inputs) -> tuple[Array, Array]:
        # A model without running statistics leaves no branch for them.
        state = values.get("model_state", {})
        outputs = teacher.model.apply(values["params"], state, convert(inputs), train=False, key=None)
        return outputs.features, jnp.take(outputs.logits, np.asarray(order), axis=-1)

    return run


def _extra(
    config: Config,
    context: Context,
    teacher: Classifier,
    key: Key[Array, ""],
    params: Any,
    model_state: Any,
) -> dict[str, Any]:
    """Return the teacher's values, and the projection where features are compared and of other widths."""
    del params, model_state
    values = {"params": teacher.params, "model_state": teacher.model_state}
    frozen = {TEACHER: jax.tree.map(np.array, values)}
    seen = output_shapes(teacher.model, teacher.params, teacher.model_state)
    widths = context.outputs().features.shape[-1], seen.features.shape[-1]
    if not config.feature_weight or widths[0] == widths[1]:
        return frozen
    kernel = np.asarray(jax.random.normal(key, widths) / np.sqrt(widths[0]))
    return {**frozen, PROJECTION: {"kernel": kernel, "bias": np.zeros(widths[1], np.float32)}}


def _penalty(config: Config, run: Callable[..., tuple[Array, Array]], moment: Moment) -> Penalty:
    examples, own = moment.batch[TRAIN], moment.outputs[TRAIN]
    features, logits = run(moment.params[EXTRA][TEACHER], examples["inputs"])
    nats = softened_divergence(own.logits, logits, config.temperature)
    divergence = masked.mean(nats, examples["mask"])
    if not config.feature_weight:
        return config.weight * divergence, {"teacher_divergence": divergence}
    projected = own.features
    if PROJECTION in moment.params[EXTRA]:
        projection = moment.params[EXTRA][PROJECTION]
        projected = projected @ projection["kernel"] + projection["bias"].reshape(1, -1)
    apart = masked.mean(DISTANCES[config.feature_distance](projected, features), examples["mask"])
    penalty = config.weight * divergence + config.feature_weight * apart
    return penalty, {"teacher_divergence": divergence, "teacher_distance": apart}


def _half_squares(one: Float[Array, "batch dim"], other: Float[Array, "batch dim"]) -> Float[Array, " batch"]:
    return 0.5 * jnp.mean(jnp.square(one - other), axis=-1)


def _one_less_cosine(
    one: Float[Array, "batch dim"], other: Float[Array, "batch dim"]
) -> Float[Array, " batch"]:
    # The root of 0 has no gradient.
    squares = [jnp.sum(jnp.square(each), axis=-1) + 1e-12 for each in (one, other)]
    return 1 - jnp.sum(one * other, axis=-1) * jax.lax.rsqrt(squares[0]) * jax.lax.rsqrt(squares[1])


DISTANCES: dict[str, Callable[..., Array]] = {"l2": _half_squares, "cosine": _one_less_cosine}
KIND = StrategyKind(Config, build)
