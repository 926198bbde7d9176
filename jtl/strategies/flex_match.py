"""FlexMatch: FixMatch with a lower threshold for a class that is learned late (Zhang et al. 2021).

How far a class is learned is told by how many of all unlabelled examples were last found to be of it, surely
(eq. 5); so the label that each was last given is kept from step to step. Where the same example is twice in a
batch, the first view that is sure counts, so that equal runs are equal.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jtl.ranges import Count, NotNegative, Share, check
from jtl.strategies.contract import Context, Group, Moment, Penalty, Strategy, StrategyKind, check_classes
from jtl.strategies.shared import unlabelled

NONE = -1


@dataclass(frozen=True)
class Config:
    """Settings of FlexMatch, as FixMatch has them; the defaults are the paper's (appendix A).

    `threshold` is that of the class that is learned best.
    """

    name: str = "flex_match"
    times: Count = 7
    threshold: Share = 0.95
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        streams=unlabelled.two_views(config.times),
        shown=unlabelled.SHOWN,
        memory=lambda: {"last": np.full(context.num_unlabelled, NONE, np.int32)},
        remember=partial(_remember, config),
    )


def thresholds(last: Int[Array, " examples"], num_classes: int, most: float) -> Float[Array, " classes"]:
    """Return the threshold of each class: `most` times what is learned of it (eq. 7 to 12).

    A class has learned the number of examples that were last found to be of it, divided by that of the best
    class, or at the beginning by the examples of which nothing was found yet; x / (2 - x) of that is the
    convex mapping.
    """
    # In the first place those of which nothing was found.
    counts = jnp.zeros(num_classes + 1, jnp.int32).at[last - NONE].add(1)
    learned = counts[1:] / jnp.maximum(jnp.max(counts), 1)
    return most * learned / (2.0 - learned)


def _penalty(config: Config, moment: Moment) -> Penalty:
    weak, strong, mask = unlabelled.views(moment)
    labels = jnp.argmax(weak, axis=-1)
    found = thresholds(moment.memory["last"], weak.shape[-1], config.threshold)
    is_used = jnp.max(weak, axis=-1) >= found[labels]
    loss, told = unlabelled.consistency(strong, labels, is_used, mask, config.weight)
    return loss, {**told, "threshold_mean": jnp.mean(found), "threshold_least": jnp.min(found)}


def _remember(config: Config, moment: Moment) -> dict[str, Array]:
    """Return the labels last given, with those of this step of which the model is sure (by `threshold`)."""
    weak, _, mask = unlabelled.views(moment)
    stream, last = moment.batch[unlabelled.WEAK], moment.memory["last"]
    is_sure = mask & (jnp.max(weak, axis=-1) >= config.threshold)
    places = jnp.where(_is_first(stream["id"], is_sure), stream["id"], len(last))
    return {"last": last.at[places].set(jnp.argmax(weak, axis=-1).astype(last.dtype), mode="drop")}


def _is_first(ids: Int[Array, " batch"], is_sure: Bool[Array, " batch"]) -> Bool[Array, " batch"]:
    """Return which rows are sure, and no earlier row of the same example is."""
    is_same = (ids[:, None] == ids[None, :]) & is_sure[None, :]
    return is_sure & ~jnp.any(jnp.tril(is_same, -1), axis=1)


KIND = StrategyKind(Config, build)
