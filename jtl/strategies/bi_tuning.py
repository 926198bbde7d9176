"""Bi-Tuning: classes compete for an example, and examples for a class and for each other (Zhong et al. 2020).

Two contrasts beside the cross-entropy: of the classifier's logits over examples (contrastive cross-entropy,
eq. 3), and of projected features, where all examples of a class are positives (categorical contrastive
learning, eq. 5). The paper contrasts with a queue of keys from a momentum encoder; here the examples of the
batch (of a slice, with `optim.accumulate`) are keys, both ways differentiated: a queue would be state that
every step carries and saves, and the encoder a second model run forward. So larger batches contrast more.

Of eq. 3 this is the plain reading: the logits that the cross-entropy has, at temperature 1, with gradients to
features and classifier alike. tllib reads otherwise: cosines of the features and each class's weights (with
the bias), divided by 0.07, with a gradient to the features alone.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jtl.ranges import NotNegative, Positive, Width, check
from jtl.strategies.contract import (
    EXTRA,
    TRAIN,
    Compared,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import masked

OWN = "projector"
# Finite, so that no difference of two is undefined, and its exponential 0.
OUT = -1e9


@dataclass(frozen=True)
class Config:
    """Settings of Bi-Tuning.

    `classifier_weight` and `projector_weight` scale the two contrasts (nats), which end near the logarithm
    of a class's examples in a batch, not at 0. Features are projected linearly to `projection_dim`, to length
    1, and their products divided by `temperature`.
    """

    name: str = "bi_tuning"
    classifier_weight: NotNegative = 0.04
    projector_weight: NotNegative = 0.04
    projection_dim: Width = 128
    temperature: Positive = 0.07

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything, and the projector with it.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    width = context.outputs().features.shape[-1]

    def extra(key: Key[Array, ""], params: Any, model_state: Any) -> dict[str, Any]:
        del params, model_state
        kernel = jax.random.normal(key, (width, config.projection_dim)) / np.sqrt(width)
        return {OWN: {"kernel": np.asarray(kernel), "bias": np.zeros(config.projection_dim, np.float32)}}

    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        extra=extra,
        penalty=partial(_penalty, config),
        compares=Compared(least=2),
    )


def contrastive_cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    mask: Bool[Array, " batch"],
) -> Float[Array, ""]:
    """Return the cross-entropy of each class's logits over the examples, in nats (eq. 3).

    A mean over queries of class y and over keys of class y of -log softmax over keys of logit y: summed up,
    each example counts for its own class once, whatever the class's size. Blended targets count in parts.
    """
    over_examples = jax.nn.log_softmax(jnp.where(mask[:, None], logits, OUT), axis=0)
    return masked.mean(-jnp.sum(targets * over_examples, axis=-1), mask)


def categorical_contrast(
    projected: Float[Array, "batch dim"],
    targets: Float[Array, "batch classes"],
    mask: Bool[Array, " batch"],
    temperature: float,
) -> Float[Array, ""]:
    """Return each example's mean -log softmax over the others, of those of its class, in nats (eq. 5).

    `projected` are of length 1. An example without another of its class has nothing to be near to, and does
    not count. Of blended targets, the products of shares are how much two are of one class.
    """
    is_key = mask[None, :] & ~jnp.eye(len(mask), dtype=bool)
    near = jnp.where(is_key, projected @ projected.T / temperature, OUT)
    shares = jnp.where(is_key, targets @ targets.T, 0.0)
    total = jnp.sum(shares, axis=-1)
    nats = -jnp.sum(shares * jax.nn.log_softmax(near, axis=-1), axis=-1) / jnp.where(total > 0, total, 1.0)
    return masked.mean(nats, mask & (total > 0))


def _penalty(config: Config, moment: Moment) -> Penalty:
    examples, outputs, projector = moment.batch[TRAIN], moment.outputs[TRAIN], moment.params[EXTRA][OWN]
    targets, mask = examples["target"], examples["mask"]
    projected = outputs.features @ projector["kernel"] + projector["bias"].reshape(1, -1)
    # The root of 0 has no gradient.
    length = jnp.sqrt(jnp.sum(jnp.square(projected), axis=-1, keepdims=True) + 1e-12)
    of_classes = contrastive_cross_entropy(outputs.logits, targets, mask)
    of_features = categorical_contrast(projected / length, targets, mask, config.temperature)
    penalty = config.classifier_weight * of_classes + config.projector_weight * of_features
    return penalty, {"classifier_contrast": of_classes, "projector_contrast": of_features}


KIND = StrategyKind(Config, build)
