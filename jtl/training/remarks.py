"""What a run decides where nobody said it, and which settings have no effect in it: a line each.

They are printed before training and kept in meta.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np

from jtl import ranges, tree
from jtl.data import Source
from jtl.errors import shown
from jtl.inputs.contract import stacked
from jtl.models.layers import layer_of
from jtl.models.linen import module_names
from jtl.strategies.contract import EXTRA, without_extra
from jtl.tasks import TASKS
from jtl.training import optim, step
from jtl.training.build import Built
from jtl.training.config import Config, input_of
from jtl.weights.contract import NO_WEIGHTS

# Where what is fetched is kept, which does not hang on whether anything is.
PLACES = ("cache_dir",)
# How the settings of a strong view begin.
STRONG = "strong_"


def of_settings(config: Config) -> list[str]:
    """Return a line for each setting that has no effect beside the others, in this configuration."""
    sections = {each.name: getattr(config, each.name) for each in fields(Config)}
    found = [
        line
        for name, section in sections.items()
        if is_dataclass(section)
        for line in ranges.unused(section, name)
    ]
    if config.model.weights == NO_WEIGHTS:
        given = [each for each in fields(config.weights) if each.name not in PLACES]
        found += [
            f"weights.{each.name} is {shown(value)}, which has no effect: model.weights is {NO_WEIGHTS!r}"
            for each in given
            if (value := getattr(config.weights, each.name)) != getattr(type(config.weights)(), each.name)
        ]
    if input_of(config.model).collate is stacked and config.inputs.buckets != type(config.inputs)().buckets:
        unit = input_of(config.model).unit
        found.append(f"inputs.buckets has no effect: all {unit} of a run are of one size")
    return found


def of_run(config: Config, built: Built, splits: Mapping[str, Source], monitor: str) -> list[str]:
    """Return the lines that the model, the strategy and the number of examples decide."""
    return [
        *_length(config, built, len(splits["train"])),
        _choice(config, splits, monitor),
        *_slices(config, built),
        *_random(config, built),
        *_views(config, built),
        *_rates(config, built),
        *_statistics(config, built),
        *_measured(config, built, splits),
        *built.parts.strategy.remarks,
    ]


def _length(config: Config, built: Built, num_examples: int) -> list[str]:
    size, unit, steps = config.train.batch_size, built.parts.input.unit, built.parts.num_steps
    found = []
    if built.parts.strategy.solver is not None:
        found.append(
            "strategy.solver solves for the head in one step: train.epochs, train.steps and the optimizer's "
            "rates have no effect"
        )
    elif config.train.minutes:
        found.append(
            f"train.minutes {config.train.minutes:g}: as many steps of {size:,} {unit} as there is time for, "
            f"estimated while they are made; so no two such runs are the same to the bit, and train.epochs "
            f"has no effect on them"
        )
    elif not config.train.steps:
        found.append(
            f"train.epochs {config.train.epochs:g} of {num_examples:,} {unit} are {steps:,} steps of {size:,}"
        )
    trained = [group for group in built.parts.groups.values() if not group.is_frozen]
    late = [group.start_step for group in trained if group.start_step >= steps]
    if late:
        first = min(late)
        found.append(
            f"{len(late)} parameters are to start training at step {first:,} and the run has {steps:,}: they "
            f"never train"
        )
    return found


def _choice(config: Config, splits: Mapping[str, Source], monitor: str) -> str:
    if "val" not in splits and monitor in TASKS[config.task.name].maximized:
        return "there is no validation split: the last step is kept"
    end = "highest" if TASKS[config.task.name].is_maximized(monitor) else "lowest"
    return f"of the evaluated steps the one of the {end} {monitor} is kept"


def _slices(config: Config, built: Built) -> list[str]:
    """Say where the slices of a batch, one after another, make another run than the batch as a whole."""
    parts, count = built.parts, config.optim.accumulate
    if count == 1:
        return []
    size = config.train.batch_size // count
    learning = module_names(built.model_state) - step.frozen_stats(parts, built.model_state, parts.num_steps)
    reasons = []
    if learning:
        reasons.append(f"{len(learning)} batch normalisations take the statistics of a slice")
    if parts.strategy.compares is not None:
        reasons.append(f"strategy {config.strategy.name!r} compares the {parts.input.unit} of a slice")
    return [
        f"optim.accumulate is {count}: {each}, {size} {parts.input.unit}, and not of the batch of "
        f"{config.train.batch_size}"
        for each in reasons
    ]


def _random(config: Config, built: Built) -> list[str]:
    if built.loaded is not None:
        return []
    own = tree.flatten(without_extra(built.params))
    frozen = {name: leaf for name, leaf in own.items() if built.parts.groups[name].is_frozen}
    start, name, found = f"model.weights is {NO_WEIGHTS!r}", config.strategy.name, []
    if frozen:
        found.append(
            f"{start}: {tree.num_values(frozen):,} of {tree.num_values(own):,} values are random and stay so "
            f"(strategy {name!r}, optim.freeze)"
        )
    if built.parts.strategy.holds_start:
        found.append(f"{start}: strategy {name!r} draws the model to where it starts, which is at random")
    return found


def _views(config: Config, built: Built) -> list[str]:
    """Say which settings of a strong view are there where no strategy learns from one."""
    if any(stream.is_strong for stream in built.parts.strategy.streams.values()):
        return []
    given = [each for each in fields(config.augment) if each.name.startswith(STRONG)]
    return [
        f"augment.{each.name} is {shown(value)}, which has no effect: strategy {config.strategy.name!r} has "
        f"no strong view"
        for each in given
        if (value := getattr(config.augment, each.name)) != each.default
    ]


def _rates(config: Config, built: Built) -> list[str]:
    """Say which rates and decays meet no parameter that trains."""
    layers, optimizer = built.parts.model.layers, config.optim
    head = len(layers) - 1
    trained = [name for name, group in built.parts.groups.items() if not group.is_frozen]
    own = [name for name in trained if not name.startswith(f"{EXTRA}/")]
    places = {layer_of(name, layers) for name in own}
    is_decayed = any(optim.is_decayed(name, optimizer.decay_on) for name in trained)
    idle = {
        "layer_decay": (optimizer.layer_decay != 1 and not places - {head}, "no layer below the head trains"),
        "head_multiplier": (optimizer.head_multiplier != 1 and head not in places, "the head does not train"),
        "weight_decay": (optimizer.weight_decay > 0 and not is_decayed, "nothing that trains is decayed"),
    }
    return [
        f"optim.{name} is {getattr(optimizer, name):g}, which has no effect: {why}"
        for name, (is_idle, why) in idle.items()
        if is_idle
    ]


def _measured(config: Config, built: Built, splits: Mapping[str, Source]) -> list[str]:
    """Say where a split's labels leave metrics without a value, or without a meaning."""
    about = ABOUT_LABELS.get(TASKS[config.task.name].label_kind)
    found = []
    for name, source in splits.items():
        labels = source.labels()
        if about is not None and labels is not None and len(labels):
            line = about(labels)
            found += [f"{name}: {line}"] if line else []
    return found


def _of_several(labels: np.ndarray) -> str:
    if labels.any():
        return ""
    return "no example has any label: average precision and F1 have no value (nan)"


def _of_numbers(labels: np.ndarray) -> str:
    constant = np.flatnonzero(labels.min(0) == labels.max(0))
    if not constant.size:
        return ""
    column = int(constant[0])
    which = f"target {column + 1} of {labels.shape[1]}" if labels.shape[1] > 1 else "the target"
    return f"{which} is {labels[0, column]:g} in all {len(labels):,} examples: R² has no value (nan)"


def _statistics(config: Config, built: Built) -> list[str]:
    parts = built.parts
    if not parts.adapts_frozen_stats:
        return []
    frozen = step.frozen_stats(parts._replace(adapts_frozen_stats=False), built.model_state, 0)
    if frozen:
        return []
    return [
        f"train.batch_stats is {config.train.batch_stats!r}, which has no effect: no batch normalisation of "
        f"this model is frozen"
    ]


ABOUT_LABELS: dict[str, Callable[[np.ndarray], str]] = {
    "multilabel": _of_several,
    "regression": _of_numbers,
}
