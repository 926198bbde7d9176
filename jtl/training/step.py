"""The training step, and the only donation: here model, task, strategy and optimizer meet.

Only leaves that train in the current phase are differentiated, so compiled FLOPs and memory fall as leaves
freeze.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jtl import metrics, rng, runtime, tree
from jtl.inputs import Input, Inputs
from jtl.models import Model, Outputs
from jtl.models.linen import module_names
from jtl.strategies.contract import TRAIN, Group, Moment, Strategy
from jtl.tasks import Task
from jtl.training import course, optim
from jtl.training.state import State, params_for_evaluation
from jtl.training.views import augment_of

Batch = Mapping[str, Any]
# What of a batch goes to the devices, where the batch has it.
FIELDS, UNLABELLED_FIELDS = ("inputs", "label", "mask", "id"), ("inputs", "mask", "id")


class Parts(NamedTuple):
    """What a step is made of; static for the whole run.

    `augment` is None where nothing is varied. `groups` name how each leaf trains, `adapts_frozen_stats`
    whether normalisation layers of frozen parts
    keep learning their statistics, `seed` feeds every random key.
    """

    model: Model
    task: Task
    strategy: Strategy
    optimizer: optax.GradientTransformation
    optim: optim.Config
    groups: Mapping[str, Group]
    input: Input
    preprocess: Any
    augment: Any
    num_steps: int
    seed: int
    adapts_frozen_stats: bool


def make_train_step(
    parts: Parts, phase_start: int, state_sharding: Any, batch_sharding: Any
) -> jax.stages.Wrapped:
    """Return the jitted step for the phase that begins at `phase_start` (see `optim.phases`).

    It maps (state, {stream: batch}) to the next state and metrics as device scalars; the given state is
    donated. A non-finite loss or gradient leaves everything but the step number as it was.
    """
    step = partial(_train_step, parts, phase_start)
    return jax.jit(
        step,
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=(state_sharding, None),
        donate_argnums=0,
    )


def compiler_options(parts: Parts, phase_start: int) -> dict[str, str | bool]:
    """Return XLA's options for the step of a phase."""
    trains_head_alone = all(name.startswith("head/") for name in _active_names(parts.groups, phase_start))
    return runtime.forward_options() if trains_head_alone else {}


class Several(NamedTuple):
    """The batches of several steps, one a row of every leaf, and what lies on the devices of their inputs."""

    batches: Batch
    lying: Mapping[str, Any]


def make_several(
    step: Callable[[State, Batch], tuple[State, dict[str, Array]]],
    made: Callable[[Batch, Mapping[str, Any]], Batch],
    state_sharding: Any,
) -> jax.stages.Wrapped:
    """Return the jitted program of as many steps as there are rows, one behind the other.

    It maps (state, `Several`) to the state behind them and the metrics of each, [steps]; the given state is
    donated. `made(batch, lying)` is the batch of one step.
    """

    def steps(state: State, several: Several) -> tuple[State, dict[str, Array]]:
        return jax.lax.scan(
            lambda before, row: step(before, made(row, several.lying)), state, several.batches
        )

    return jax.jit(steps, out_shardings=(state_sharding, None), donate_argnums=0)


def make_eval_step(parts: Parts) -> Callable[[State, Batch], metrics.Sums]:
    """Return the compiled evaluation of one batch: the task's sums over the examples whose mask is true."""

    def eval_step(state: State, batch: Batch) -> metrics.Sums:
        return measured(parts, params_for_evaluation(state), state.model_state, batch)

    return jax.jit(eval_step, compiler_options=runtime.forward_options())


def measured(parts: Any, params: Any, model_state: Any, batch: Batch) -> metrics.Sums:
    """Return the task's sums over the examples of a batch whose mask is true, and its logits beside them.

    `parts` is as in `forward`, with a task and a seed for what it leaves to chance.
    """
    batch = with_targets(parts, batch)
    outputs = forward_normalised(parts, params, model_state, batch["inputs"])
    return with_logits(parts.task.metrics(outputs.logits, batch), outputs.logits)


def with_logits(sums: metrics.Sums, logits: Array) -> metrics.Sums:
    """Return the sums with the logits [batch, outputs] beside them; those of every place of an input are not.

    The same pass gives what intervals and rankings are computed of, which no sums can.
    """
    return {**sums, metrics.LOGITS: logits} if logits.ndim == 2 else sums


def with_targets(parts: Any, batch: Batch) -> dict[str, Any]:
    """Return the batch of evaluation as the model reads it, with the targets that the task has for it."""
    return _with_targets(parts, _normalised(parts, batch), rng.key(parts.seed, "evaluation"))


def make_output_step(parts: Parts) -> Callable[[State, Batch], dict[str, Array]]:
    """Return the compiled forward pass: "features" [batch, dim] and "logits" [batch, outputs]."""

    def output_step(state: State, batch: Batch) -> dict[str, Array]:
        outputs = _evaluated(parts, state, _normalised(parts, batch)["inputs"])
        return {"features": outputs.features, "logits": outputs.logits}

    return jax.jit(output_step, compiler_options=runtime.forward_options())


def forward(parts: Any, params: Any, model_state: Any, inputs: Inputs) -> Outputs:
    """Return the outputs in evaluation mode for inputs as `transform` gives them.

    `parts` is whatever has an input kind, its pre-processing, a model and a strategy.
    """
    inputs = parts.input.normalise(inputs, parts.preprocess)
    return forward_normalised(parts, params, model_state, inputs)


def forward_normalised(parts: Any, params: Any, model_state: Any, inputs: Inputs) -> Outputs:
    """Return the outputs in evaluation mode for what a model reads, through the strategy's forward pass."""
    apply = _bind(parts.model, model_state, frozenset())
    return parts.strategy.forward(apply, params, inputs, train=False, key=None)


def _evaluated(parts: Parts, state: State, inputs: Inputs) -> Outputs:
    return forward_normalised(parts, params_for_evaluation(state), state.model_state, inputs)


def frozen_stats(parts: Parts, model_state: Any, phase_start: int) -> frozenset[str]:
    """Return the names of normalisation layers none of whose parameters train in this phase."""
    if parts.adapts_frozen_stats:
        return frozenset()
    active = _active_names(parts.groups, phase_start)
    modules = module_names(model_state)
    return frozenset(
        module for module in modules if not any(name.startswith(f"{module}/") for name in active)
    )


def unmoved(parts: Parts, state: State) -> frozenset[str]:
    """Return the names of the leaves of a state (arrays or shapes) that no step of the run moves."""
    stats = frozen_stats(parts, state.model_state, parts.num_steps)
    still = [
        name for name in tree.flatten(state.model_state) if name.split("/", 1)[1].rsplit("/", 1)[0] in stats
    ]
    return frozenset(
        (
            *(f"frozen/{name}" for name in tree.flatten(state.frozen)),
            *(f"model_state/{name}" for name in still),
        )
    )


def _train_step(parts: Parts, phase_start: int, state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
    active, resting = tree.split(state.trainable, _active_names(parts.groups, phase_start).__contains__)
    rest = tree.merge(resting, state.frozen)
    batch = {name: _normalised(parts, stream) for name, stream in batch.items()}
    batch = _augmented(parts, batch, state.step)
    loss, grads, (model_state, memory), extra_metrics = _gradients(
        parts, phase_start, state, active, rest, batch
    )
    flat = tree.flatten(state.trainable)
    flat_grads = tree.flatten(grads)
    all_grads = {name: flat_grads.get(name, jnp.zeros_like(leaf)) for name, leaf in flat.items()}
    grad_norm = optim.norm(flat_grads)
    updates, opt_state = parts.optimizer.update(all_grads, state.opt_state, flat)
    moved: Any = optax.apply_updates(flat, updates)
    trainable = tree.unflatten(moved)
    new = State(
        step=state.step + 1,
        trainable=trainable,
        frozen=state.frozen,
        model_state=model_state,
        opt_state=opt_state,
        ema=_averaged(state.ema, trainable, optim.average_rate(parts.optim, state.step, parts.num_steps)),
        memory=memory,
    )
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    kept = jax.tree.map(lambda after, before: jnp.where(is_finite, after, before), new, state)
    place = course.place(state.opt_state, optim.num_updates(state.opt_state), parts.num_steps)
    rate = optim.schedule(parts.optim, parts.num_steps)(place)
    reported = {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate, **extra_metrics}
    if course.of(state.opt_state) is not None:
        reported["schedule"] = place / parts.num_steps
    return kept._replace(step=new.step), reported


def _normalised(parts: Any, stream: Batch) -> dict[str, Any]:
    return {**stream, "inputs": parts.input.normalise(stream["inputs"], parts.preprocess)}


def _with_targets(parts: Any, stream: Batch, key: Key[Array, ""]) -> dict[str, Any]:
    """Return the batch with its targets, and its inputs as the task shows them to the model."""
    targets = parts.task.targets(stream, key)
    return {**stream, "target": targets, "inputs": parts.task.shown(stream["inputs"], targets)}


def _augmented(parts: Parts, batch: Batch, step: Int[Array, ""]) -> dict[str, Any]:
    """Return the streams, normalised, varied as the input kind does it, that of training with targets."""
    train = _with_targets(parts, batch[TRAIN], rng.key(parts.seed, "targets", step))
    if parts.augment is None:
        return {**batch, TRAIN: train}
    streams = {TRAIN: train["inputs"], **{name: batch[name]["inputs"] for name in parts.strategy.streams}}
    key, settings = rng.key(parts.seed, "augment", step), {name: augment_of(parts, name) for name in streams}
    streams, targets = parts.input.augment(key, streams, train["target"], settings, parts.preprocess)
    batch = {**batch, TRAIN: {**train, "target": targets}}
    return {name: {**stream, "inputs": streams.get(name, stream["inputs"])} for name, stream in batch.items()}


def _gradients(
    parts: Parts, phase_start: int, state: State, active: Any, rest: Any, batch: Batch
) -> tuple[Array, Any, tuple[Any, Any], dict[str, Array]]:
    """Return loss, gradients of the active leaves, what is kept, and metrics, over `accumulate` slices.

    What is kept are the model state and the strategy's memory, which go from slice to slice.
    """
    num_slices = parts.optim.accumulate
    counted = parts.task.weights(batch[TRAIN]["target"]) * batch[TRAIN]["mask"].astype(jnp.float32)
    total = jnp.maximum(jnp.sum(counted), 1.0)
    stats = frozen_stats(parts, state.model_state, phase_start)
    key = rng.key(parts.seed, "dropout", state.step)
    place = course.place(state.opt_state, state.step, parts.num_steps)
    average = params_for_evaluation(state) if parts.strategy.needs_average else None

    def slice_gradients(kept: tuple[Any, Any], index_and_batch: tuple[Array, Batch]) -> tuple[Any, Any]:
        index, part = index_and_batch
        loss_of = partial(_loss, parts, stats, rest, (*kept, average), part, place)
        slice_key = jax.random.fold_in(key, index)
        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (new_kept, reported)), grads = differentiate(active, total, slice_key)
        if parts.optim.sam_radius:
            _, grads = differentiate(optim.ascended(active, grads, parts.optim.sam_radius), total, slice_key)
        return new_kept, (loss, grads, reported)

    kept = (state.model_state, state.memory)
    if num_slices == 1:
        kept, (loss, grads, reported) = slice_gradients(kept, (jnp.zeros([], jnp.int32), batch))
        return loss, grads, kept, reported

    slices = jax.tree.map(lambda leaf: _sliced(leaf, num_slices), batch)
    kept, (losses, grads, reported) = _summed_scan(slice_gradients, kept, slices, num_slices)
    return losses, grads, kept, jax.tree.map(lambda value: value / num_slices, reported)


def _summed_scan(body: Callable[..., Any], carry: Any, slices: Any, num_slices: int) -> tuple[Any, Any]:
    """Scan `body` over the slices, carrying the state and adding up what it returns."""
    first = jax.tree.map(lambda leaf: leaf[0], slices)
    carry, totals = body(carry, (jnp.zeros([], jnp.int32), first))

    def add(state: Any, index_and_slice: Any) -> tuple[Any, None]:
        kept, sums = state
        kept, values = body(kept, index_and_slice)
        return (kept, jax.tree.map(jnp.add, sums, values)), None

    rest = jax.tree.map(lambda leaf: leaf[1:], slices)
    (carry, totals), _ = jax.lax.scan(add, (carry, totals), (jnp.arange(1, num_slices), rest))
    return carry, totals


def _sliced(leaf: Array, num_slices: int) -> Array:
    """Return [slices, batch / slices, …] such that each device keeps its own examples."""
    return jnp.swapaxes(leaf.reshape(leaf.shape[0] // num_slices, num_slices, *leaf.shape[1:]), 0, 1)


def _loss(
    parts: Parts,
    stats: frozenset[str],
    rest: Any,
    kept: tuple[Any, Any, Any],
    batch: Batch,
    place: Array,
    active: Any,
    total: Float[Array, ""],
    key: Key[Array, ""],
) -> tuple[Array, Any]:
    """Return the loss of a slice, and what is kept and reported; `kept` has the average of parameters too."""
    model_state, memory, average = kept
    params = tree.merge(active, rest)
    forward = partial(parts.strategy.forward, _bind(parts.model, model_state, stats), train=True)
    stream = batch[TRAIN]
    outputs, whole = _outputs(parts, forward, params, model_state, batch, key)
    per_example = parts.task.loss(outputs[TRAIN].logits, stream["target"])
    loss = jnp.sum(per_example * stream["mask"].astype(per_example.dtype)) / total
    if parts.strategy.penalty is None:
        return loss, ((whole.model_state, memory), {})
    moment = Moment(forward, params, batch, outputs, place, jax.random.fold_in(key, 1), memory, average)
    penalty, reported = parts.strategy.penalty(moment)
    remembered = jax.lax.stop_gradient(parts.strategy.remember(moment))
    return loss + penalty / parts.optim.accumulate, ((whole.model_state, remembered), reported)


def _outputs(
    parts: Parts,
    forward: Callable[..., Outputs],
    params: Any,
    model_state: Any,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[dict[str, Outputs], Outputs]:
    """Return the outputs by stream, and those of the one pass over all streams that learn."""
    streams = {name: stream for name, stream in parts.strategy.streams.items() if stream.is_run}
    calm = [name for name, stream in streams.items() if not stream.has_gradient]
    apart = [] if jax.tree.leaves(model_state) else calm
    names = (TRAIN, *(name for name in streams if name not in apart))
    inputs = [batch[name]["inputs"] for name in names]
    joined = parts.input.join(inputs) if len(inputs) > 1 else inputs[0]
    whole = forward(params, joined, key=jax.random.fold_in(key, 0))
    outputs = _by_stream(whole, {name: len(batch[name]["mask"]) for name in names})
    for place, name in enumerate(apart):
        still, own = jax.lax.stop_gradient(params), jax.random.fold_in(key, 2 + place)
        outputs[name] = forward(still, batch[name]["inputs"], key=own)
    return {**outputs, **{name: jax.lax.stop_gradient(outputs[name]) for name in calm}}, whole


def _by_stream(whole: Outputs, sizes: Mapping[str, int]) -> dict[str, Outputs]:
    """Return the rows of each stream of a forward pass over all, in their order."""
    if len(sizes) == 1:
        return dict.fromkeys(sizes, whole)
    found: dict[str, Outputs] = {}
    start = 0
    for name, size in sizes.items():
        rows = partial(jax.lax.slice_in_dim, start_index=start, limit_index=start + size)
        values = jax.tree.map(rows, (whole.features, whole.logits, dict(whole.intermediates)))
        found[name] = Outputs(values[0], values[1], whole.model_state, values[2])
        start += size
    return found


def _bind(model: Model, model_state: Any, stats: frozenset[str]) -> Callable[..., Outputs]:
    def apply(
        params: Any, inputs: Inputs, *, train: bool, key: Any, model_state: Any = model_state, **hooks: Any
    ) -> Outputs:
        return model.apply(params, model_state, inputs, train=train, key=key, frozen_stats=stats, **hooks)

    return apply


def _active_names(groups: Mapping[str, Group], phase_start: int) -> frozenset[str]:
    return frozenset(
        name for name, group in groups.items() if not group.is_frozen and group.start_step <= phase_start
    )


def _averaged(ema: Any, trainable: Any, rate: Float[Array, ""]) -> Any:
    """Return the average after this step, of which the one before makes up `rate`; {} where none is kept."""
    if not ema:
        return ema
    return jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, ema, trainable)
