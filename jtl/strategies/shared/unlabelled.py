"""What learning from unlabelled examples shares: their streams, and the loss of labels that a model gives."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl.strategies.contract import UNLABELLED, Moment, Penalty, Stream
from jtl.strategies.shared import masked

WEAK, STRONG = "weak", "strong"
# The metrics: the mean loss, and the share of unlabelled examples that it is of.
LOSS, USED = "unlabelled_loss", "unlabelled_used"
SHOWN = (USED,)


def two_views(times: int) -> Mapping[str, Stream]:
    """Return the streams of a weak view, which gives the labels, and a strong one, which learns from them."""
    return {
        WEAK: Stream(UNLABELLED, times, has_gradient=False),
        STRONG: Stream(UNLABELLED, times, is_strong=True),
    }


def views(moment: Moment) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"], Array]:
    """Return the weak view's probabilities, the strong one's logits, and which examples are real."""
    mask = moment.batch[WEAK]["mask"]
    return jax.nn.softmax(moment.outputs[WEAK].logits), moment.outputs[STRONG].logits, mask


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return the cross-entropy of each example with its class, in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def consistency(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    is_used: Bool[Array, " batch"],
    mask: Bool[Array, " batch"],
    weight: Float[Array, ""] | float,
) -> Penalty:
    """Return `weight` times the loss of examples that are used, and what is told of it.

    The loss is the cross-entropy with the given labels, a mean over all real examples: those that are not
    used count as 0 (Sohn et al. 2020, eq. 4).
    """
    used = is_used.astype(logits.dtype)
    loss = masked.mean(used * cross_entropy(logits, labels), mask)
    return weight * loss, {LOSS: loss, USED: masked.mean(used, mask)}


def risen(step: Int[Array, ""], num_steps: int, ends: tuple[float, float]) -> Float[Array, ""]:
    """Return how far between two parts of the run a step is, from 0 to 1."""
    begin, end = (part * num_steps for part in ends)
    return jnp.clip((step - begin) / jnp.maximum(end - begin, 1.0), 0.0, 1.0)
