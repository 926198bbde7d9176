"""Co-Tuning: the head the weights came with trains too, on what its classes say of ours (You et al. 2020).

p(source class | target class) is estimated before training by the direct approach (eq. 2): the mean over the
examples of a class of the probabilities that the pretrained model gives its own classes. The source head then
learns these as soft targets (eq. 4), beside the new head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jtl.errors import UserError
from jtl.ranges import NotNegative, Positive, check
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

HEAD, RELATIONSHIP = "source_head", "relationship"


@dataclass(frozen=True)
class Config:
    """Settings of Co-Tuning.

    `weight` scales the cross-entropy (nats) of the source head, lambda of the paper. `temperature` divides
    the source head's logits in the estimate: what calibrates its probabilities on its own validation data,
    which the paper fits there; 1 leaves them as they are.
    """

    name: str = "co_tuning"
    weight: NotNegative = 0.04
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything, and the source head with it.

    Raises:
        UserError: the task has not one class an example, the run's weights have no linear head, or their
            features are not the model's.
    """
    check_classes(config.name, context)
    kernel, bias = _linear_head(context.classifier(""))
    width = context.outputs().features.shape[-1]
    if width != kernel.shape[0]:
        raise UserError(
            f"strategy {config.name!r} found {width} features in this model and a source head that reads "
            f"{kernel.shape[0]}; expected the features the weights' own head was trained on: leave "
            f"model.features and model.pool as the weights have them"
        )

    def extra(key: Key[Array, ""], params: Any, model_state: Any) -> dict[str, Any]:
        del key, params, model_state
        shape = (len(context.label_names), bias.shape[0])
        unknown = np.full(shape, 1 / bias.shape[0], np.float32)
        return {HEAD: {"kernel": kernel, "bias": bias}, RELATIONSHIP: unknown}

    def groups(names: Sequence[str]) -> dict[str, Group]:
        return {name: FROZEN if name == f"{EXTRA}/{RELATIONSHIP}" else Group() for name in names}

    return Strategy(
        groups=groups,
        extra=extra,
        prepare=partial(_prepare, config),
        penalty=partial(_penalty, config),
    )


def relationship(
    probabilities: Float[np.ndarray, "n sources"], labels: Int[np.ndarray, " n"], num_classes: int
) -> Float[np.ndarray, "classes sources"]:
    """Return p(source class | target class), the mean of each class's examples (eq. 2).

    A class without examples gets the mean of all: no example of it will ask for it.
    """
    rows = [probabilities[labels == index] for index in range(num_classes)]
    return np.stack([(row if len(row) else probabilities).mean(0) for row in rows])


def _linear_head(source: Classifier) -> tuple[np.ndarray, np.ndarray]:
    head = source.params["head"]
    if set(head) != {"kernel", "bias"}:
        raise UserError(
            f"the head of the run's weights has {', '.join(sorted(head))}; strategy 'co_tuning' expects a "
            f"linear one (kernel and bias): give weights with such a head"
        )
    return np.array(head["kernel"], np.float32), np.array(head["bias"], np.float32)


def _prepare(
    config: Config, extra: Mapping[str, Any], features: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    from scipy.special import softmax

    logits = features.astype(np.float64) @ extra[HEAD]["kernel"] + extra[HEAD]["bias"]
    probabilities = softmax(logits / config.temperature, axis=-1)
    found = relationship(probabilities, labels, len(extra[RELATIONSHIP]))
    return {**extra, RELATIONSHIP: found.astype(np.float32)}


def _penalty(config: Config, moment: Moment) -> Penalty:
    extra, examples = moment.params[EXTRA], moment.batch[TRAIN]
    # Blended targets ask for blended source classes.
    expected = examples["target"] @ extra[RELATIONSHIP]
    logits = moment.outputs[TRAIN].features @ extra[HEAD]["kernel"] + extra[HEAD]["bias"].reshape(1, -1)
    nats = -(expected * jax.nn.log_softmax(logits)).sum(-1)
    loss = masked.mean(nats, examples["mask"])
    return config.weight * loss, {"source_loss": loss}


KIND = StrategyKind(Config, build)
