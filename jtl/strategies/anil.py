"""ANIL: features from which a few steps of a head alone learn a task of a few classes (Raghu et al. 2020).

As `maml`, but the inner steps move nothing below the head, so that the model runs once over a batch. What is
told new classes by is the features as they are, and a head fitted to them by the same inner steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.models import Outputs
from jtl.ranges import Count, Positive, check
from jtl.strategies.contract import TRAIN, Context, Moment, Penalty, Strategy, StrategyKind
from jtl.strategies.shared import beside, inner


@dataclass(frozen=True)
class Config:
    """Settings of ANIL, which mean what they do in `maml`."""

    name: str = "anil"
    shots: Count = 1
    inner_steps: Count = 5
    inner_rate: Positive = 0.1
    first_order: bool = False

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example, or batches are no tasks.
    """
    task = inner.layout(config.name, config.shots, context)
    descent = inner.Descent(config.inner_steps, config.inner_rate, _nothing, config.first_order)
    return Strategy(
        groups=partial(beside.groups, config.name),
        forward=beside.forward,
        penalty=partial(_penalty, task, descent),
        told=partial(_told, descent),
        task_size=task.size,
    )


def _nothing(name: str) -> bool:
    del name
    return False


def _penalty(task: inner.Layout, descent: inner.Descent, moment: Moment) -> Penalty:
    labelled, asked = inner.labels_of(task.ways, task.shots), inner.labels_of(task.ways, task.queries)

    def of_task(
        features: inner.Features, mask: Bool[Array, " batch"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        few, others = inner.halves((features, mask), task)
        head = inner.adapted_head(few[0], labelled, few[1], task.ways, descent)
        logits = inner.logits_of(others[0], head)
        return inner.nats(logits, asked, others[1]), inner.share(logits, asked, others[1])

    rows = (moment.outputs[TRAIN].features, moment.batch[TRAIN]["mask"])
    losses, accuracies = jax.vmap(of_task)(*(inner.by_task(each, task) for each in rows))
    loss = jnp.mean(losses)
    return loss, {"episode_loss": loss, "episode_accuracy": jnp.mean(accuracies)}


def _told(
    descent: inner.Descent, apply: Callable[..., Outputs], params: Any, few: Any, others: Any, ways: int
) -> Float[Array, "others ways"]:
    features, asked = (apply(params, inputs, by_batch=False).features for inputs in (few, others))
    count = features.shape[0]
    mask = jnp.ones(count, bool)
    head = inner.adapted_head(features, inner.labels_of(ways, count // ways), mask, ways, descent)
    return inner.logits_of(asked, head)


KIND = StrategyKind(Config, build)
