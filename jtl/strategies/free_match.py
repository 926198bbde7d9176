"""FreeMatch: thresholds that follow how sure the model is, overall and of each class (Wang et al. 2023).

No threshold is set: it begins at chance and is a moving average of the model's own confidence (eq. 6 to 8),
kept from step to step. A fairness term keeps what is predicted spread over the classes (eq. 10 to 12).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl.ranges import Count, Fraction, NotNegative, check
from jtl.strategies.contract import Context, Group, Moment, Penalty, Strategy, StrategyKind, check_classes
from jtl.strategies.shared import masked, unlabelled

# In the logarithm of a share that may be 0, as the authors' code has it.
TINY = 1e-12


@dataclass(frozen=True)
class Config:
    """Settings of FreeMatch; the defaults are the authors' for CIFAR-10 with few labels.

    There are `times` as many unlabelled examples in a batch as labelled ones, whose loss is added `weight`
    times; `decay` is that of the moving averages, and `fairness_weight` that of the term for fairness.
    """

    name: str = "free_match"
    times: Count = 7
    decay: Fraction = 0.999
    weight: NotNegative = 1.0
    fairness_weight: NotNegative = 0.001

    def __post_init__(self) -> None:
        check(self, "strategy")


def build(config: Config, context: Context) -> Strategy:
    """Build the strategy that trains everything.

    Raises:
        UserError: the task has not one class an example.
    """
    check_classes(config.name, context)
    num_classes = len(context.label_names)

    def memory() -> dict[str, np.ndarray]:
        even = np.full(num_classes, 1 / num_classes, np.float32)
        return {"sure": np.asarray(1 / num_classes, np.float32), "probabilities": even, "labels": even.copy()}

    return Strategy(
        groups=lambda names: dict.fromkeys(names, Group()),
        penalty=partial(_penalty, config),
        streams=unlabelled.two_views(config.times),
        shown=unlabelled.SHOWN,
        memory=memory,
        remember=partial(_remember, config),
    )


def thresholds(sure: Float[Array, ""], probabilities: Float[Array, " classes"]) -> Float[Array, " classes"]:
    """Return the threshold of each class: how sure the model is, scaled by its probability (eq. 8)."""
    return sure * probabilities / jnp.max(probabilities)


def fairness(
    strong: Float[Array, "batch classes"],
    is_used: Bool[Array, " batch"],
    expected: Float[Array, " classes"],
) -> Float[Array, ""]:
    """Return sum e log p of the expected shares e and those p of the strong views that are used (eq. 12).

    Both are divided by the shares of the classes as labels, and p sums up to 1; 0 where none is used. It
    falls, as it is minimised, where what is rarely predicted becomes likelier.
    """
    probabilities = jax.nn.softmax(strong)
    mean = masked.mean_rows(probabilities, is_used)
    share = masked.mean_rows(_one_hot(probabilities), is_used)
    scaled = _summing_to_one(jnp.where(share > 0, mean / jnp.where(share > 0, share, 1.0), 0.0))
    found = jnp.sum(expected * jnp.log(scaled + TINY))
    return jnp.where(jnp.any(is_used), found, 0.0)


def _penalty(config: Config, moment: Moment) -> Penalty:
    weak, strong, mask = unlabelled.views(moment)
    # The thresholds of a step know of its own examples.
    memory = jax.lax.stop_gradient(_remember(config, moment))
    found = thresholds(memory["sure"], memory["probabilities"])
    labels = jnp.argmax(weak, axis=-1)
    is_used = jnp.max(weak, axis=-1) >= found[labels]
    loss, told = unlabelled.consistency(strong, labels, is_used, mask, config.weight)
    expected = _summing_to_one(memory["probabilities"] / jnp.maximum(memory["labels"], TINY))
    unfair = fairness(strong, is_used & mask, expected)
    told = {**told, "fairness": unfair, "threshold_mean": jnp.mean(found), "threshold_least": jnp.min(found)}
    return loss + config.fairness_weight * unfair, told


def _remember(config: Config, moment: Moment) -> dict[str, Array]:
    weak, _, mask = unlabelled.views(moment)
    now = {
        "sure": masked.mean(jnp.max(weak, axis=-1), mask),
        "probabilities": masked.mean_rows(weak, mask),
        "labels": masked.mean_rows(_one_hot(weak), mask),
    }
    decay, is_any = config.decay, jnp.any(mask)
    return {
        name: jnp.where(is_any, decay * before + (1 - decay) * now[name], before)
        for name, before in moment.memory.items()
    }


def _one_hot(probabilities: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    return jax.nn.one_hot(jnp.argmax(probabilities, axis=-1), probabilities.shape[-1])


def _summing_to_one(values: Float[Array, " classes"]) -> Float[Array, " classes"]:
    return values / jnp.maximum(jnp.sum(values), TINY)


KIND = StrategyKind(Config, build)
