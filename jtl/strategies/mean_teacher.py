"""Mean teacher: the model agrees with the average of its own past on other views of unlabelled examples.

Tarvainen and Valpola 2017, eq. 1 and 2. The teacher is the average that `optim.ema` keeps, which is what is
evaluated and written as well; it runs forward once a step, in training mode, as the paper's does.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.ranges import Count, NotNegative, Share, check
from jtl.strategies.contract import (
    UNLABELLED,
    Context,
    Group,
    Moment,
    Penalty,
    Strategy,
    StrategyKind,
    Stream,
    check_classes,
)
from jtl.strategies.shared import masked, unlabelled

STUDENT, TEACHER = "student", "teacher"
# The rise of the weight is exp(-5 (1 - x)^2) over the first part of the run (sec. 3.2 there).
STEEPNESS = 5.0


@dataclass(frozen=True)
class Config:
    """Settings of the mean teacher.

    There are `times` as many unlabelled examples in a batch as labelled ones. The mean over classes of the
    squared differences of probabilities counts `weight` times (100 in the paper on CIFAR-10), risen to that
    over the part `rise` of the run (40,000 of 150,000 steps in the paper).
    """

    name: str = "mean_teacher"
    times: Count = 3
    weight: NotNegative = 100.0
    rise: Share = 0.27

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
        penalty=partial(_penalty, config, context.num_steps),
        streams={
            STUDENT: Stream(UNLABELLED, config.times),
            TEACHER: Stream(UNLABELLED, config.times, is_run=False),
        },
        needs_average=True,
        shown=("teacher_agreement",),
    )


def disagreement(
    student: Float[Array, "batch classes"], teacher: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Return each example's mean over classes of the squared differences of probabilities."""
    return jnp.mean(jnp.square(jax.nn.softmax(student) - jax.nn.softmax(teacher)), axis=-1)


def _penalty(config: Config, num_steps: int, moment: Moment) -> Penalty:
    inputs, mask = moment.batch[TEACHER]["inputs"], moment.batch[TEACHER]["mask"]
    taught = moment.forward(jax.lax.stop_gradient(moment.average), inputs, key=moment.key).logits
    taught, own = jax.lax.stop_gradient(taught), moment.outputs[STUDENT].logits
    apart = masked.mean(disagreement(own, taught), mask)
    agreed = jnp.argmax(own, axis=-1) == jnp.argmax(taught, axis=-1)
    part = unlabelled.risen(moment.step, num_steps, (0.0, config.rise))
    weight = config.weight * jnp.exp(-STEEPNESS * jnp.square(1.0 - part))
    return weight * apart, {
        unlabelled.LOSS: apart,
        "teacher_agreement": masked.mean(agreed.astype(own.dtype), mask),
        "unlabelled_weight": weight,
    }


KIND = StrategyKind(Config, build)
