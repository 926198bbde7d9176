"""Reptile: weights moved towards what each task makes of them in a few steps (Nichol et al. 2018).

Of every task in the batch (`train.sampling=episodic:NxW`) each inner step sees `shots` examples a class, the
next ones every time. What the step of the run is given as gradient is the way back from the weights that the
inner steps come to (sec. 2), over `inner_rate` and `inner_steps`, so that it is their mean gradient: nothing
is differentiated through, and nothing held out. Reported is the loss before the last inner step, of examples
that the ones before have not seen where there are enough. A task's own head begins at zero (`shared.inner`);
the model's head is a probe beside it. `jtl few-shot` measures new classes by the same inner steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl.ranges import Count, Positive, check
from jtl.strategies import maml
from jtl.strategies.contract import FROZEN, Context, Group, Moment, Penalty, Strategy, StrategyKind
from jtl.strategies.shared import beside, inner


@dataclass(frozen=True)
class Config:
    """Settings of Reptile, which mean what they do in `maml`; an inner step has `shots` examples a class."""

    name: str = "reptile"
    shots: Count = 1
    inner_steps: Count = 5
    inner_rate: Positive = 0.1
    adapts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything that the inner steps move, and a head beside it.

    Raises:
        UserError: the task has not one class an example, or batches are no tasks.
    """
    task = inner.layout(config.name, config.shots, context)
    descent = inner.Descent(
        config.inner_steps, config.inner_rate, inner.moving(config.adapts), is_first_order=True
    )
    return Strategy(
        groups=partial(_groups, config),
        forward=beside.forward,
        penalty=partial(_penalty, task, descent),
        told=partial(maml.told, descent),
        task_size=task.size,
    )


def _groups(config: Config, names: Sequence[str]) -> dict[str, Group]:
    """Return that what the inner steps move trains, for nothing else is taught, and the head beside it."""
    inner.check_moving(config.adapts, names)
    moves = inner.moving(config.adapts)
    found = beside.groups(config.name, names)
    return {name: group if moves(name) or name in beside.LINEAR else FROZEN for name, group in found.items()}


def _penalty(task: inner.Layout, descent: inner.Descent, moment: Moment) -> Penalty:
    features_of = inner.features_in_training(moment)
    start = jax.lax.stop_gradient(moment.params)

    def of_task(inputs: Any, mask: Bool[Array, " batch"]) -> tuple[Any, Float[Array, ""]]:
        rows_of = partial(_rows, task, inputs, mask)
        learner, losses = inner.adapted(features_of, start, rows_of, task.ways, descent)
        return learner.params, losses[-1]

    ends, loss = inner.per_task(moment, of_task, task)
    scale = 1.0 / (descent.rate * descent.steps)
    back = jax.tree.map(lambda before, after: scale * (before - after), start, ends)
    # Its gradient is the way back, whatever its value, which is taken away again.
    along = sum(
        jnp.sum(way * leaf)
        for way, leaf in zip(jax.tree.leaves(back), jax.tree.leaves(moment.params), strict=True)
    )
    return loss + along - jax.lax.stop_gradient(along), {"episode_loss": loss}


def _rows(
    task: inner.Layout, inputs: Any, mask: Bool[Array, " batch"], number: Int[Array, ""]
) -> tuple[Any, Int[Array, " rows"], Bool[Array, " rows"]]:
    """Return inputs, labels and mask of an inner step: of each class the next examples, round and round."""
    count = task.shots + task.queries
    first = number % (count // task.shots) * task.shots

    def part(leaf: Array) -> Array:
        rows = leaf.reshape(task.ways, count, *leaf.shape[1:])
        chosen = jax.lax.dynamic_slice_in_dim(rows, first, task.shots, axis=1)
        return chosen.reshape(-1, *leaf.shape[1:])

    inputs, mask = jax.tree.map(part, (inputs, mask))
    return inputs, inner.labels_of(task.ways, task.shots), mask


KIND = StrategyKind(Config, build)
