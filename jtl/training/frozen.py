"""Whether what the frozen layers make of the examples is computed once: the one place where that is decided.

The lowest layer of which anything trains is where the model is cut (`models.cut`). What the part below gives
of an example can be kept where it is the same at every step: the example is not varied anew, nothing below is
left to chance, and nothing else looks at what stands below. Whether that is so is read off the settings and
the traced program. `features` computes and keeps it.
"""

import math
from dataclasses import fields
from typing import Any, NamedTuple

import jax

from jtl import memory, tree
from jtl.errors import UserError
from jtl.inputs.contract import stacked
from jtl.models import cut as cuts
from jtl.models.contract import batch_of
from jtl.models.cut import Cut, Trace
from jtl.models.layers import layer_of
from jtl.models.linen import module_names
from jtl.strategies.contract import EXTRA, plain_forward
from jtl.tasks import TASKS
from jtl.tasks.contract import NO_LABELS, as_they_are
from jtl.training import step
from jtl.training.build import Built
from jtl.training.config import Config
from jtl.training.settings import OFF, ON


class Frozen(NamedTuple):
    """Where the model is cut (None: it runs whole at every step), what that was read off, and how often.

    `num_views` are the fixed views of an example that the run meets. `lines` are for people.
    """

    cut: Cut | None = None
    trace: Trace | None = None
    num_views: int = 1
    lines: tuple[str, ...] = ()


def decided(settings: Config, built: Built, num_examples: int) -> Frozen:
    """Return whether, and at which layer, the frozen part runs once for each of so many training examples.

    Raises:
        UserError: it cannot, and `train.cache_features` or the strategy asks for it.
    """
    layer = _lowest_trained(built)
    heads = built.parts.strategy.needs_features
    for is_idle, why in (
        (not layer, "the lowest layer trains, so nothing is computed below"),
        (_adds(built), f"strategy {settings.strategy.name!r} adds to the model"),
    ):
        if is_idle:
            _refuse(settings, heads, why)
            return Frozen()
    found = _reason(settings, built, layer, num_examples)
    if isinstance(found, Frozen):
        return found
    _refuse(settings, heads, found)
    frozen = f"{layer} of {len(built.parts.model.layers)} groups of layers are frozen and"
    return Frozen(lines=(f"{frozen} run at every step: {found}",))


def _refuse(settings: Config, asked: str, reason: str) -> None:
    asked = "train.cache_features is 'on'" if settings.train.cache_features == ON else asked
    if asked:
        raise UserError(f"{asked}, and what the frozen layers give cannot be kept: {reason}")


def _adds(built: Built) -> bool:
    """Return whether the strategy has parameters, or a forward pass, of its own."""
    return built.parts.strategy.forward is not plain_forward or EXTRA in built.params


def _lowest_trained(built: Built) -> int:
    """Return the lowest of the model's groups of layers in which anything ever trains."""
    groups, layers = built.parts.groups, built.parts.model.layers
    trained = [name for name, group in groups.items() if not group.is_frozen]
    return min((layer_of(name, layers) for name in trained if not name.startswith(f"{EXTRA}/")), default=0)


def _reason(settings: Config, built: Built, layer: int, num_examples: int) -> Frozen | str:
    """Return how the model is cut, or why not, in words that say what to change."""
    for reason in (_of_settings(settings, built), _of_augmentation(settings, built)):
        if reason:
            return reason
    parts, unit = built.parts, built.parts.input.unit
    num_read = math.ceil(parts.num_steps * settings.train.batch_size / num_examples)
    num_views = min(_num_views(settings, built), num_read)
    if num_read <= num_views and settings.train.cache_features != ON and not parts.strategy.needs_features:
        return f"no view of the {unit} is read twice in this run (train.views {num_views})"
    params, model_state = jax.tree.map(_shape, (built.params, built.model_state))
    own = {name: leaf for name, leaf in params.items() if name != EXTRA}
    cut = cuts.before(parts.model, parts.model.layers[layer], own, model_state)
    if cut is None:
        return "what follows them reads their layers' outputs as well (model.features, or a mask)"
    trace = _trace(cut, settings, built, own, model_state)
    if isinstance(trace, str):
        return trace
    num_bytes = num_views * num_examples * tree.num_bytes(cut.kept)
    if num_bytes > settings.inputs.features_bytes:
        room = memory.text(settings.inputs.features_bytes)
        return f"it takes {memory.text(num_bytes)}, over inputs.features_bytes ({room}); raise it"
    about = f"{num_views * num_examples:,} rows before {cut.name!r}, {memory.text(num_bytes)}"
    views = f"{num_views} fixed view{'s' * (num_views > 1)}" if num_views > 1 else "once each"
    line = (
        f"the frozen layers run once ({unit} {views}) and what they give is kept: {about}; "
        f"train.cache_features=off runs them at every step"
    )
    return Frozen(cut, trace, num_views, (line,))


def _of_settings(settings: Config, built: Built) -> str:
    parts = built.parts
    strategy, task = parts.strategy, parts.task
    name = settings.strategy.name
    if settings.train.cache_features == OFF:
        return "train.cache_features is 'off'"
    if strategy.penalty is not None or strategy.streams:
        return f"strategy {name!r} adds to the loss, and looks at the whole model for that"
    if task.shown is not as_they_are or TASKS[settings.task.name].label_kind == NO_LABELS:
        return f"task {settings.task.name!r} makes its targets of the inputs, anew at every step"
    if parts.adapts_frozen_stats and module_names(built.model_state):
        return "train.batch_stats is 'adapt', so normalisation layers move; set train.batch_stats=frozen"
    if jax.process_count() > 1:
        return "the run has several processes"
    return ""


def _of_augmentation(settings: Config, built: Built) -> str:
    parts = built.parts
    if parts.augment is None:
        return ""
    if redrawn := parts.input.redrawn(parts.augment):
        cure = "set it to 0, or train.is_augmented=False for none"
        return f"augmentation is fresh at every step ({redrawn}); {cure}"
    varied = parts.input.varied(parts.augment)
    if varied and not settings.train.views:
        return (
            f"augmentation is fresh in every epoch ({varied}); set train.views=1 (or more) for as many fixed "
            f"views of each of the {parts.input.unit}, or train.is_augmented=False for none"
        )
    return ""


def _num_views(settings: Config, built: Built) -> int:
    parts = built.parts
    is_varied = parts.augment is not None and bool(parts.input.varied(parts.augment))
    return settings.train.views if is_varied else 1


def _trace(cut: Cut, settings: Config, built: Built, params: Any, model_state: Any) -> Trace | str:
    """Return what the part below depends on, or why it gives another thing at another step."""
    parts = built.parts
    inputs = batch_of(parts.model.spec, cuts.NUM_TRACED)
    # Those of a frozen part never move; what stands above is not looked at.
    stats = step.frozen_stats(parts, built.model_state, parts.num_steps)
    found = cuts.trace(cut, params, model_state, inputs, train=True, frozen_stats=stats)
    if found.is_random:
        return f"they drop at random at every step ({_dropped(settings.model)}); set it to 0"
    trained = [name for name in found.names if not parts.groups[name].is_frozen]
    if trained:
        return f"{trained[0]!r} trains, and what they give depends on it"
    if cut.calm.text != found.text:
        return "in training they compute something else than in evaluation"
    if parts.input.collate is not stacked:
        longer = jax.eval_shape(cut.below, params, model_state, _longer(inputs))
        if any(leaf.shape[1:] != cut.kept[name].shape for name, leaf in longer.items()):
            return f"{parts.input.unit} differ in length there; only what enters the head is kept of them"
    return cut.calm


def _dropped(model: Any) -> str:
    found = {each.name: getattr(model, each.name) for each in fields(model) if "drop" in each.name}
    return ", ".join(f"model.{name} {value}" for name, value in found.items() if value)


def _longer(inputs: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0], leaf.shape[1] - 1, *leaf.shape[2:]), leaf.dtype),
        inputs,
    )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
