"""The optimizer: schedules, groups, layer-wise decay → one optax transformation over the trainable leaves.

It sees only the flat dict {name: leaf} of what trains, so a clip or a norm cannot bring back the cost of
frozen gradients. Leaves that thaw later have their own optimizer state, whose clock starts when they do.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jtl import tree
from jtl.errors import UserError, nearest, shown
from jtl.models.layers import layer_of
from jtl.ranges import Count, Fraction, NotNegative, Positive, Range, ReadIf, Share, check
from jtl.strategies.contract import EXTRA, FROZEN, Context, Group
from jtl.training import course
from jtl.training.course import CourseState

# A dict of leaves by name. optax's own types of trees (unions with scalars) fit no dict.
Flat = Any


@dataclass(frozen=True)
class Config:
    """Settings of the optimizer.

    `learning_rate` is the peak rate, reached after `warmup` (fraction of the run) and brought down by
    `schedule` to `end_factor` times the peak (above 0 for the exponential one); the step schedule multiplies
    by `decay_factor` at each fraction in `decay_at`, the inverse one divides by (1 + `inverse_scale` p) to
    the power `inverse_power`, p the part
    of the run since warm-up (Ganin et al. 2016, sec. 5.2.2). `weight_decay` applies to `decay_on`: "kernels"
    (no norms, biases, tokens or position embeddings) or "all". `momentum` (beta1), `beta2` and `epsilon` go
    to the optimizers that have them (Muon's own momentum is 0.95). `clip_norm` bounds the global norm of the
    trainable gradients (0: no bound). `accumulate` processes a batch in that many slices, one after another.
    `ema` is the decay of a moving average of the trainable parameters, used for evaluation (0: none); with
    `swa_start` it is the plain mean of all steps from that fraction of the run on (SWA, Izmailov et al. 2018,
    sec. 3.2; 0: none), for which BatchNorm's statistics are not estimated anew: `jtl fuse --statistics-of`
    does that. `sam_radius` is rho of sharpness-aware minimisation (Foret et al. 2021, eq. 2; 0: off), at
    twice the cost a step. `layer_decay` multiplies the learning rate once for every layer between a leaf and
    the head (Clark et al. 2020); `head_multiplier` scales the head's. `freeze` are regular expressions on the
    names of parameters that do not train, whatever the strategy says.
    """

    name: str = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    decay_on: Annotated[str, ReadIf("weight_decay")] = "kernels"
    momentum: Fraction = 0.9
    beta2: Annotated[Fraction, ReadIf("name", ("adam", "adamw", "lion", "muon"))] = 0.999
    epsilon: Annotated[Positive, ReadIf("name", ("adam", "adamw", "muon"))] = 1e-8
    schedule: str = "cosine"
    warmup: Fraction = 0.1
    end_factor: Annotated[Fraction, ReadIf("schedule", ("cosine", "linear", "exponential"))] = 0.0
    decay_at: Annotated[tuple[Share, ...], ReadIf("schedule", ("step",))] = (0.5, 0.75)
    decay_factor: Annotated[Positive, ReadIf("schedule", ("step",))] = 0.1
    inverse_scale: Annotated[NotNegative, ReadIf("schedule", ("inverse",))] = 10.0
    inverse_power: Annotated[NotNegative, ReadIf("schedule", ("inverse",))] = 0.75
    clip_norm: NotNegative = 1.0
    accumulate: Count = 1
    ema: Fraction = 0.0
    swa_start: Fraction = 0.0
    sam_radius: NotNegative = 0.0
    layer_decay: Annotated[float, Range(above=0, high=1)] = 1.0
    head_multiplier: Positive = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices = (("name", OPTIMIZERS), ("schedule", SCHEDULES), ("decay_on", DECAYS))
        for field, known in choices:
            value = getattr(self, field)
            if value not in known:
                raise UserError(
                    f"optim.{field} is {shown(value)}; expected one of {nearest(value, known, len(known))}"
                )
        check(self, "optim")
        if self.schedule in ABOVE_ZERO and not self.end_factor:
            raise UserError(
                f"optim.schedule is {self.schedule!r} and optim.end_factor 0, which it does not reach; give "
                f"the part of the peak to end at, such as 0.01"
            )
        if self.ema and self.swa_start:
            raise UserError(f"optim.ema is {self.ema} and optim.swa_start {self.swa_start}; set one to 0")


class Optimizer(NamedTuple):
    """One kind of optimizer; `is_decoupled` weight decay adds to the update (AdamW), not to the gradient."""

    direction: Callable[[Config], optax.GradientTransformation]
    is_decoupled: bool


class GateState(NamedTuple):
    """How many updates were seen, and the inner optimizer's state."""

    num_updates: Int[Array, ""]
    inner: Any


class RateState(NamedTuple):
    """How many updates were seen."""

    num_updates: Int[Array, ""]


def assign(groups: Mapping[str, Group], config: Config, context: Context) -> dict[str, Group]:
    """Return the strategy's groups with names that are frozen, layer-wise decay and the head's multiplier.

    >>> context = Context(layers=(("stem",), ("block",), ("head",)), num_steps=10)
    >>> groups = {name: Group() for name in ("stem/kernel", "block/kernel", "head/kernel")}
    >>> assigned = assign(groups, Config(layer_decay=0.5, head_multiplier=3.0), context)
    >>> [group.multiplier for group in assigned.values()]
    [0.25, 0.5, 3.0]

    Raises:
        UserError: a pattern of `config.freeze` matches no parameter, or nothing is left to train.
    """
    head = len(context.layers) - 1
    own = [name for name in groups if not name.startswith(f"{EXTRA}/")]
    matches = tree.first_match(config.freeze, own, "optim.freeze")
    groups = {name: group if matches.get(name) is None else FROZEN for name, group in groups.items()}
    if all(group.is_frozen for group in groups.values()):
        raise UserError(f"optim.freeze is {config.freeze}, which leaves nothing to train; freeze less")

    def scaled(name: str, group: Group) -> Group:
        if group.is_frozen or name.startswith(f"{EXTRA}/"):
            return group
        layer = layer_of(name, context.layers)
        factor = config.head_multiplier if layer == head else config.layer_decay ** (head - layer)
        return Group(group.multiplier * factor, group.start_step, group.ramp_steps)

    return {name: scaled(name, group) for name, group in groups.items()}


def make(
    config: Config, groups: Mapping[str, Group], num_steps: int, *, has_course: bool = False
) -> optax.GradientTransformation:
    """Return the transformation over the flat dict of trainable leaves: clip, direction, decay, rate.

    Leaves whose group has not started get zero updates and keep a fresh optimizer state. With `has_course`
    the state holds a course, which the rates follow; `num_steps` is then the unit of the schedule alone.
    """
    trainable = {name: group for name, group in groups.items() if not group.is_frozen}
    labels = {name: str(group.start_step) for name, group in trainable.items()}
    starts = {label: int(label) for label in labels.values()}
    per_start: dict[Hashable, optax.GradientTransformation] = {
        label: _starting_at(_update_rule(config), start) for label, start in starts.items()
    }
    clip = optax.stateless(partial(_clipped, config.clip_norm)) if config.clip_norm else optax.identity()
    rates = _scale_by_rates(config, trainable, num_steps, has_course=has_course)
    return optax.chain(clip, optax.partition(per_start, labels), rates)


def schedule(config: Config, num_steps: int) -> Callable[[Array], Float[Array, ""]]:
    """Return step (or place between two) → learning rate of multiplier 1; that of the first is above 0."""
    warmup_steps = round(config.warmup * num_steps)
    shape = SCHEDULES[config.schedule](config)

    def rate(step: Array) -> Float[Array, ""]:
        warm = jnp.minimum(1.0, (step + 1.0) / max(warmup_steps, 1))
        progress = jnp.clip((step - warmup_steps) / max(num_steps - warmup_steps, 1), 0.0, 1.0)
        return config.learning_rate * warm * shape(progress, step / num_steps)

    return rate


def num_updates(opt_state: Any) -> Int[Array, ""]:
    """Return how many updates an optimizer of `make` has made: steps that were skipped are none."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda each: isinstance(each, RateState | CourseState))
    # Of many heads all have made as many.
    return jnp.ravel(next(each for each in leaves if isinstance(each, RateState | CourseState)).num_updates)[
        0
    ]


def has_average(config: Config) -> bool:
    """Return whether an average of the parameters is kept."""
    return config.ema > 0 or config.swa_start > 0


def average_rate(config: Config, step: Int[Array, ""], num_steps: int) -> Float[Array, ""]:
    """Return what the average before a step makes up of the one after it.

    The moving average's decay warms up as (1 + step) / (10 + step); the plain mean has counted none of the
    steps before `swa_start`.
    """
    if config.swa_start:
        count = jnp.maximum(step - round(config.swa_start * num_steps), 0)
        return count / (count + 1.0)
    return jnp.minimum(config.ema, (1.0 + step) / (10.0 + step))


def ascended(params: Any, grads: Any, radius: float) -> Any:
    """Return the parameters moved by `radius` along the gradient, all leaves one vector."""
    scale = radius / jnp.maximum(norm(grads), jnp.finfo(jnp.float32).tiny)
    return jax.tree.map(lambda leaf, grad: leaf + (scale * grad).astype(leaf.dtype), params, grads)


def norm(leaves: Any) -> Float[Array, ""]:
    """Return the Euclidean norm of all leaves together, as `optax.tree.norm` does of complex ones too."""
    squares = (jnp.sum(jax.lax.square(leaf)) for leaf in jax.tree.leaves(leaves))
    return jnp.sqrt(sum(squares, jnp.zeros([])))


def phases(groups: Mapping[str, Group]) -> list[int]:
    """Return the steps at which the set of training leaves changes, starting with 0."""
    return sorted({0} | {group.start_step for group in groups.values() if not group.is_frozen})


def is_decayed(name: str, decay_on: str) -> bool:
    """Return whether weight decay applies to the leaf of that name."""
    return DECAYS[decay_on].search(name) is not None


def _starting_at(inner: optax.GradientTransformation, start_step: int) -> optax.GradientTransformation:
    """Hold updates and state back until `start_step` updates were seen."""
    if start_step == 0:
        return inner

    def init(params: Flat) -> GateState:
        return GateState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates: Flat, state: Any, params: Flat | None = None) -> tuple[Flat, GateState]:
        is_on = state.num_updates >= start_step
        new_updates, new_inner = inner.update(updates, state.inner, params)
        new_updates = jax.tree.map(lambda value: jnp.where(is_on, value, jnp.zeros_like(value)), new_updates)
        new_inner = jax.tree.map(lambda new, old: jnp.where(is_on, new, old), new_inner, state.inner)
        return new_updates, GateState(state.num_updates + 1, new_inner)

    return optax.GradientTransformation(init, update)


def _update_rule(config: Config) -> optax.GradientTransformation:
    optimizer = OPTIMIZERS[config.name]
    direction = optimizer.direction(config)
    if config.weight_decay == 0:
        return direction

    def mask(params: Flat) -> Flat:
        return {name: is_decayed(name, config.decay_on) for name in params}

    decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
    return optax.chain(direction, decay) if optimizer.is_decoupled else optax.chain(decay, direction)


def _scale_by_rates(
    config: Config, groups: Mapping[str, Group], num_steps: int, *, has_course: bool
) -> optax.GradientTransformation:
    """Multiply each leaf's update by minus its learning rate at this step."""
    rate_at = schedule(config, num_steps)

    def update(updates: Flat, state: Any, params: Flat | None = None) -> tuple[Flat, Any]:
        del params
        rate = rate_at(course.place(state, state.num_updates, num_steps))

        def factor(group: Group) -> Array:
            ramp = jnp.clip((state.num_updates + 1.0 - group.start_step) / max(group.ramp_steps, 1), 0.0, 1.0)
            return -rate * group.multiplier * ramp

        factors = {group: factor(group) for group in dict.fromkeys(groups.values())}
        new_updates = {
            name: value * factors[groups[name]].astype(value.dtype) for name, value in updates.items()
        }
        return new_updates, state._replace(num_updates=state.num_updates + 1)

    def init(params: Flat) -> RateState | CourseState:
        del params
        return course.begun() if has_course else RateState(jnp.zeros([], jnp.int32))

    return optax.GradientTransformation(init, update)


def _clipped(max_norm: float, updates: Flat, params: Flat | None) -> Flat:
    """Scale the updates down to a global norm, as `optax.clip_by_global_norm`."""
    del params
    found = norm(updates)
    is_small = found < max_norm

    def clipped(value: Array) -> Array:
        return jax.lax.select(is_small, value, (value / found.astype(value.dtype)) * max_norm)

    return jax.tree.map(clipped, updates)


def _muon(config: Config) -> optax.GradientTransformation:
    """Muon on the backbone's kernels (Jordan 2024), Adam on the rest."""
    from optax import contrib

    def label(name: str, leaf: Any) -> str:
        # Leaves of other groups arrive as optax.MaskedNode.
        is_matrix = (
            name.endswith("/kernel") and getattr(leaf, "ndim", 0) >= 2 and not name.startswith("head/")
        )
        return "muon" if is_matrix else "adam"

    def labels(params: Flat) -> Flat:
        return {name: label(name, leaf) for name, leaf in params.items()}

    def dimensions(params: Flat) -> Flat:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: contrib.MuonDimensionNumbers(*_matrix_dimensions(path[-1].key, leaf.ndim)),
            params,
        )

    muon = optax.chain(
        contrib.scale_by_muon(beta=0.95, weight_dimension_numbers=dimensions),
        optax.stateless(_scaled_to_adam_rms),
    )
    return optax.partition({"muon": muon, "adam": _adam(config)}, labels)


def _matrix_dimensions(name: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input and output dims of a kernel: [dim, heads, head_dim] has two outputs, others one."""
    num_inputs = 1 if re.search(r"/(query|key|value)/kernel$", name) else ndim - 1
    return tuple(range(num_inputs)), tuple(range(num_inputs, ndim))


def _scaled_to_adam_rms(updates: Flat, params: Flat | None) -> Flat:
    """Scale orthogonal updates to root mean square 0.2, so that Adam's rates fit (Liu et al. 2025, eq. 4)."""
    del params

    def scaled(path: Any, update: Array) -> Array:
        inputs, outputs = _matrix_dimensions(path[-1].key, update.ndim)
        fan_in, fan_out = (math.prod(update.shape[dim] for dim in dims) for dims in (inputs, outputs))
        return update * (0.2 * math.sqrt(max(fan_in, fan_out)))

    return jax.tree_util.tree_map_with_path(scaled, updates)


def _adam(config: Config) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.momentum, b2=config.beta2, eps=config.epsilon)


def _adafactor(config: Config) -> optax.GradientTransformation:
    """Factored second moments with momentum and no parameter scaling (Zhai et al. 2022, sec. 3.4)."""
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=128),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.momentum, debias=True),
    )


def _cosine(config: Config, progress: Array, fraction: Array) -> Array:
    return config.end_factor + (1 - config.end_factor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _linear(config: Config, progress: Array, fraction: Array) -> Array:
    return config.end_factor + (1 - config.end_factor) * (1 - progress)


def _exponential(config: Config, progress: Array, fraction: Array) -> Array:
    return config.end_factor**progress


def _steps(config: Config, progress: Array, fraction: Array) -> Array:
    passed = sum((jnp.asarray(fraction >= at, jnp.float32) for at in config.decay_at), jnp.zeros([]))
    return config.decay_factor**passed


def _inverse(config: Config, progress: Array, fraction: Array) -> Array:
    return (1.0 + config.inverse_scale * progress) ** -config.inverse_power


def _constant(config: Config, progress: Array, fraction: Array) -> Array:
    return jnp.ones([])


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda config: optax.trace(config.momentum), is_decoupled=False),
    "nesterov": Optimizer(lambda config: optax.trace(config.momentum, nesterov=True), is_decoupled=False),
    "adam": Optimizer(_adam, is_decoupled=False),
    "adamw": Optimizer(_adam, is_decoupled=True),
    "lion": Optimizer(
        lambda config: optax.scale_by_lion(b1=config.momentum, b2=config.beta2), is_decoupled=True
    ),
    "adafactor": Optimizer(_adafactor, is_decoupled=True),
    "muon": Optimizer(_muon, is_decoupled=True),
}

SCHEDULES: dict[str, Callable[[Config], Callable[[Array, Array], Array]]] = {
    "cosine": lambda config: partial(_cosine, config),
    "linear": lambda config: partial(_linear, config),
    "exponential": lambda config: partial(_exponential, config),
    "step": lambda config: partial(_steps, config),
    "inverse": lambda config: partial(_inverse, config),
    "constant": lambda config: partial(_constant, config),
}

# Those that have no end at 0.
ABOVE_ZERO = frozenset({"exponential"})

DECAYS: dict[str, re.Pattern[str]] = {"kernels": re.compile(r"(^|/)kernel$"), "all": re.compile("")}
