"""Prototypical networks: episodes in the batch teach features whose class means tell (Snell et al. 2017).

Of every class in the batch the first `shots` examples are labelled ones, whose mean is the class's prototype;
the others are told by the distance to the prototypes (eq. 2, squared Euclidean). `train.sampling=episodic:N`
makes batches of N examples a class. The backbone learns by that alone; the head is a probe beside it, which
learns by the task's loss (without dropout) and sends no gradient below, so that validation of known classes
means something.
New classes are measured by `jtl few-shot`.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl.ranges import Count, Positive, check
from jtl.strategies.contract import (
    TRAIN,
    Compared,
    Context,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    check_classes,
)
from jtl.strategies.shared import beside, masked

# Finite, so that no difference of two is undefined, and its exponential 0.
OUT = -1e9


@dataclass(frozen=True)
class Config:
    """Settings of prototypical networks.

    Of each class in a batch `shots` examples are labelled ones, the others are told; squared distances are
    divided by `temperature`. A blended example counts for the class of its label.
    """

    name: str = "proto_net"
    shots: Count = 3
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    return Strategy(
        groups=partial(beside.groups, config.name),
        forward=beside.forward,
        penalty=partial(_penalty, config),
        compares=Compared(least=config.shots + 1, cure="lower strategy.shots"),
    )


def episode_loss(
    features: Float[Array, "batch dim"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    shots: int,
    temperature: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the mean -log probability of the queries' classes, in nats, and the share that is told right.

    Both are 0 where there is no query of a class with a labelled example.
    """
    is_same = (labels[:, None] == labels[None, :]) & mask[None, :] & mask[:, None]
    # Which of its class an example is, in the order of the batch.
    rank = jnp.sum(jnp.tril(is_same, -1), axis=1)
    is_support, is_query = mask & (rank < shots), mask & (rank >= shots)
    # The first of a class stands for it: [batch] prototypes, of which those of others are left out.
    is_class = mask & (rank == 0)
    weights = (is_same & is_support[None, :]).astype(features.dtype)
    means = weights @ features / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    products = jnp.matmul(features, means.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.sum(features**2, axis=1)[:, None] - 2.0 * products + jnp.sum(means**2, axis=1)[None, :]
    logits = jnp.where(is_class[None, :], -distances / temperature, OUT)
    own = is_same & is_class[None, :]
    nats = -jnp.sum(jnp.where(own, jax.nn.log_softmax(logits, axis=1), 0.0), axis=1)
    is_right = jnp.take_along_axis(own, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    return masked.mean(nats, is_query), masked.mean(is_right.astype(features.dtype), is_query)


def _penalty(config: Config, moment: Moment) -> Penalty:
    examples, features = moment.batch[TRAIN], moment.outputs[TRAIN].features
    loss, accuracy = episode_loss(
        features, examples["label"], examples["mask"], config.shots, config.temperature
    )
    return loss, {"episode_loss": loss, "episode_accuracy": accuracy}


KIND = StrategyKind(Config, build)
