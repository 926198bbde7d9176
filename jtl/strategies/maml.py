"""MAML: weights from which a few steps of gradient descent learn a task of a few classes (Finn et al. 2017).

Of every task in the batch (`train.sampling=episodic:NxW`: W classes with N examples each) `shots` examples of
a class are labelled ones, which the inner steps learn, and the loss is that of the others afterwards (eq. 1),
with the gradient through the inner steps, or of first order. A task's own head begins at zero
(`shared.inner`); the model's head is a probe beside it. Batch normalisation goes by the examples it sees, in
the inner steps the labelled ones, then the others (transductive, as in the paper).
`jtl few-shot` measures new classes by the same inner steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.models import Outputs
from jtl.ranges import Count, Positive, check
from jtl.strategies.contract import Context, Group, Moment, Penalty, Strategy, StrategyKind
from jtl.strategies.shared import beside, inner


@dataclass(frozen=True)
class Config:
    """Settings of MAML.

    A task is learnt by `inner_steps` of gradient descent of rate `inner_rate` from `shots` examples a class.
    They move the leaves that match `adapts` (empty: all), whatever `optim.freeze` says of training. With
    `first_order` their gradients count as constants. A blended example counts for the class of its label.
    """

    name: str = "maml"
    shots: Count = 1
    inner_steps: Count = 5
    inner_rate: Positive = 0.1
    adapts: tuple[str, ...] = ()
    first_order: bool = False

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example, or batches are no tasks.
    """
    task = inner.layout(config.name, config.shots, context)
    descent = inner.Descent(
        config.inner_steps, config.inner_rate, inner.moving(config.adapts), config.first_order
    )
    return Strategy(
        groups=partial(_groups, config),
        forward=beside.forward,
        penalty=partial(_penalty, task, descent),
        told=partial(told, descent),
        task_size=task.size,
    )


def told(
    descent: inner.Descent, apply: Callable[..., Outputs], params: Any, few: Any, others: Any, ways: int
) -> Float[Array, "others ways"]:
    """Return the logits of others once the inner steps have learnt a task, as `Strategy.told` has it."""

    def features_of(params: Any, inputs: Any) -> inner.Features:
        return apply(params, inputs, by_batch=True).features

    count = jax.tree.leaves(few)[0].shape[0]
    rows = (few, inner.labels_of(ways, count // ways), jnp.ones(count, bool))
    learner, _ = inner.adapted(features_of, params, lambda number: rows, ways, descent)
    return inner.logits_of(features_of(learner.params, others), learner.head)


def _groups(config: Config, names: Sequence[str]) -> dict[str, Group]:
    inner.check_moving(config.adapts, names)
    return beside.groups(config.name, names)


def _penalty(task: inner.Layout, descent: inner.Descent, moment: Moment) -> Penalty:
    features_of = inner.features_in_training(moment)
    labelled, asked = inner.labels_of(task.ways, task.shots), inner.labels_of(task.ways, task.queries)

    def of_task(inputs: Any, mask: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        few, others = inner.halves((inputs, mask), task)
        rows = (few[0], labelled, few[1])
        learner, _ = inner.adapted(features_of, moment.params, lambda number: rows, task.ways, descent)
        logits = inner.logits_of(features_of(learner.params, others[0]), learner.head)
        return inner.nats(logits, asked, others[1]), inner.share(logits, asked, others[1])

    loss, accuracy = inner.per_task(moment, of_task, task)
    return loss, {"episode_loss": loss, "episode_accuracy": accuracy}


KIND = StrategyKind(Config, build)
