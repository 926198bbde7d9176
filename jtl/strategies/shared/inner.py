"""A task of a few classes, learnt by a few steps of gradient descent from a few examples of each.

A batch is tasks, one behind the other, as `train.sampling=episodic:NxW` draws them: W classes with N examples
each, class by class. The head of a task starts at zero, which takes away what it would learn of the order of
classes (Kao et al. 2022, the zeroing trick) and leaves any number of classes to tell later; so the first step
moves the head alone. All functions are pure, and for use inside jit.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl import tree
from jtl.errors import UserError
from jtl.strategies.contract import TRAIN, Context, Moment, check_classes
from jtl.strategies.shared import masked
from jtl.strategies.shared.beside import HEAD

Features = Float[Array, "batch dim"]
Head = dict[str, Array]


class Layout(NamedTuple):
    """How a task lies in a batch: `ways` classes with `shots` labelled examples and `queries` others each."""

    ways: int
    shots: int
    queries: int

    @property
    def size(self) -> int:
        """The number of its examples."""
        return self.ways * (self.shots + self.queries)


class Descent(NamedTuple):
    """The inner steps: how many, their rate, which leaves move, and whether gradients count as constants."""

    steps: int
    rate: float
    moves: Callable[[str], bool]
    is_first_order: bool = False


class Learner(NamedTuple):
    """What a task is learnt by: all parameters of the model, and the task's own head."""

    params: Any
    head: Head


def layout(strategy: str, shots: int, context: Context) -> Layout:
    """Return how the run's tasks lie in its batches.

    Raises:
        UserError: the examples have not one class each, batches are no tasks, or leave nothing to tell.
    """
    check_classes(strategy, context)
    if context.episode is None:
        raise UserError(
            f"strategy {strategy!r} learns tasks of a few classes, of which train.sampling tells nothing; "
            f"set train.sampling=episodic:6x5 (6 examples of each of 5 classes), or as many as you have"
        )
    count, ways = context.episode
    if count <= shots:
        raise UserError(
            f"strategy.shots is {shots} and train.sampling draws {count} examples of a class, which leaves "
            f"none to tell; lower the one, or raise the other"
        )
    return Layout(ways, shots, count - shots)


def check_moving(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Check that every pattern of leaves that the inner steps move matches one.

    Raises:
        UserError: one does not.
    """
    tree.first_match(patterns, [name for name in names if _is_below(name)], "strategy.adapts")


def moving(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether the inner steps move a leaf, by name: those that match, or all but the head's."""

    def moves(name: str) -> bool:
        return _is_below(name) and (not patterns or any(re.search(each, name) for each in patterns))

    return moves


def _is_below(name: str) -> bool:
    return not name.startswith(f"{HEAD}/")


def halves(values: Any, task: Layout) -> tuple[Any, Any]:
    """Return the labelled rows of a task and those to tell, class by class, of a tree of [examples, …]."""

    def part(leaf: Array, chosen: slice) -> Array:
        rows = leaf.reshape(task.ways, task.shots + task.queries, *leaf.shape[1:])[:, chosen]
        return rows.reshape(-1, *leaf.shape[1:])

    few, others = slice(0, task.shots), slice(task.shots, None)
    return tuple(jax.tree.map(partial(part, chosen=chosen), values) for chosen in (few, others))


def labels_of(ways: int, count: int) -> Int[Array, " rows"]:
    """Return the classes of rows that lie class by class, `count` of each."""
    return jnp.repeat(jnp.arange(ways), count, total_repeat_length=ways * count)


def new_head(dim: int, ways: int) -> Head:
    """Return the head that a task begins with."""
    return {"kernel": jnp.zeros((dim, ways)), "bias": jnp.zeros(ways)}


def logits_of(features: Features, head: Head) -> Float[Array, "batch ways"]:
    """Return what a task's head makes of features."""
    return features @ head["kernel"] + head["bias"][None]


def nats(
    logits: Float[Array, "batch ways"], labels: Int[Array, " batch"], mask: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Return the mean -log probability of the classes, in nats."""
    own = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), labels[:, None], axis=1)[:, 0]
    return masked.mean(-own, mask)


def share(
    logits: Float[Array, "batch ways"], labels: Int[Array, " batch"], mask: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Return the share of examples that are told right."""
    return masked.mean((logits.argmax(axis=1) == labels).astype(logits.dtype), mask)


def descended(
    loss_of: Callable[[Any, Int[Array, ""]], Float[Array, ""]], start: Any, descent: Descent
) -> tuple[Any, Float[Array, " steps"]]:
    """Return what the values are after the inner steps, and the loss before each of them.

    `loss_of(values, number)` is that of a step. The result is differentiable by `start`; where
    `is_first_order`, as if every step took away a constant (Finn et al. 2017, sec. 5.2).
    """

    def step(values: Any, number: Int[Array, ""]) -> tuple[Any, Float[Array, ""]]:
        at = jax.lax.stop_gradient(values) if descent.is_first_order else values
        loss, grads = jax.value_and_grad(loss_of)(at, number)
        return jax.tree.map(lambda leaf, grad: leaf - descent.rate * grad, values, grads), loss

    return jax.lax.scan(step, start, jnp.arange(descent.steps), unroll=_is_unrolled())


def adapted(
    features_of: Callable[[Any, Any], Features],
    params: Any,
    rows_of: Callable[[Int[Array, ""]], tuple[Any, Array, Array]],
    ways: int,
    descent: Descent,
) -> tuple[Learner, Float[Array, " steps"]]:
    """Return what a task is told by after the inner steps, and the loss before each.

    `features_of(params, inputs)` runs the model; `rows_of(number)` are inputs, labels and mask of a step.
    """
    moved, rest = tree.split(params, descent.moves)
    dim = jax.eval_shape(features_of, params, rows_of(jnp.zeros([], jnp.int32))[0]).shape[1]

    def loss_of(values: tuple[Any, Head], number: Int[Array, ""]) -> Float[Array, ""]:
        moved, head = values
        inputs, labels, mask = rows_of(number)
        return nats(logits_of(features_of(tree.merge(moved, rest), inputs), head), labels, mask)

    (moved, head), losses = descended(loss_of, (moved, new_head(dim, ways)), descent)
    return Learner(tree.merge(moved, rest), head), losses


def adapted_head(
    features: Features, labels: Int[Array, " batch"], mask: Bool[Array, " batch"], ways: int, descent: Descent
) -> Head:
    """Return a task's head after inner steps that move nothing else."""

    def loss_of(head: Head, number: Int[Array, ""]) -> Float[Array, ""]:
        del number
        return nats(logits_of(features, head), labels, mask)

    return descended(loss_of, new_head(features.shape[1], ways), descent)[0]


def features_in_training(moment: Moment) -> Callable[[Any, Any], Features]:
    """Return the model's features by (params, inputs); batch normalisation goes by just these inputs."""
    return lambda params, inputs: moment.forward(params, inputs, key=moment.key).features


def per_task(moment: Moment, of_task: Callable[..., Any], task: Layout) -> Any:
    """Return the mean over the tasks of a batch of what `of_task(inputs, mask)` gives of each.

    One after another: with kernels of their own, tasks side by side would be grouped convolutions, which CPUs
    compute slowly.
    """
    examples = moment.batch[TRAIN]
    rows = by_task((examples["inputs"], examples["mask"]), task)
    _, found = jax.lax.scan(lambda none, each: (none, of_task(*each)), None, rows, unroll=_is_unrolled())
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)


def by_task(values: Any, task: Layout) -> Any:
    """Return a tree of [batch, …] as one of [tasks, examples, …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, task.size, *leaf.shape[1:]), values)


def _is_unrolled() -> bool:
    """Return whether loops are written out, which compiles for longer.

    XLA's CPU backend (jaxlib 0.10.2) gives convolutions inside a loop its slow code: three inner steps of
    five pictures and the loss of 20 others took Conv-4 0.33 s of a core's time, and take 0.13 s written out.
    """
    return jax.devices()[0].platform == "cpu"
