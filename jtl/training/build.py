"""From a configuration to the parts of a run: data, task, model, pretrained weights, strategy, optimizer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jtl import memory, rng, tree
from jtl.data import SOURCES, Labels, Source, batch_size, sampling
from jtl.data.contract import NO_LABELS
from jtl.data.files import unlabelled
from jtl.data.preflight import check_holds, check_kind
from jtl.data.tell import is_of_files, kind_of
from jtl.errors import UserError
from jtl.inputs import Input
from jtl.models import MODELS, Model
from jtl.models.contract import build as build_model
from jtl.models.shapes import output_shapes
from jtl.ranges import INT32_MAX
from jtl.strategies import STRATEGIES, Classifier, Context
from jtl.strategies.contract import EXTRA
from jtl.tasks import TASKS, Head, LabelStats, Task
from jtl.training import optim, seen, sharding, starting
from jtl.training.config import Config, from_dict, input_of
from jtl.training.state import State
from jtl.training.step import Parts
from jtl.weights import zero_shot
from jtl.weights.contract import NO_WEIGHTS, Loaded
from jtl.weights.load import load
from jtl.weights.recognise import recognise

# Settings of data that hold for other data too.
KEPT = ("_column", "columns")
MIN_OUTPUTS = 2
# A batch whose inputs are more than this part of the memory is looked at closely.
LARGE_PART = 100
# Kinds of head that are made of what was loaded.
MADE_HEADS = {zero_shot.HEAD: zero_shot.start}


class Assembled(NamedTuple):
    """A model with its values, its task and what it reads; `loaded` is None of random values.

    `task` is None where the model has no head.
    """

    input: Input
    model: Model
    task: Task | None
    preprocess: Any
    params: dict[str, Any]
    model_state: Any
    loaded: Loaded | None


class Built(NamedTuple):
    """The parts, the initial values, and where they came from (`loaded` is None: random weights)."""

    parts: Parts
    params: dict[str, Any]
    model_state: Any
    loaded: Loaded | None


def open_splits(config: Config, known: LabelStats | None = None) -> dict[str, Source]:
    """Open the data's splits; a run's `known` labels fix the classes, their order, and how they are told."""
    kind = TASKS[config.task.name].label_kind
    labels = Labels(kind) if known is None else Labels(kind, known.label_names, known.reading)
    return open_source(config, labels)


def open_source(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of the data with labels that are read so.

    Raises:
        UserError: the data cannot be had, or holds another kind of examples than the model reads.
    """
    data, kind = SOURCES[config.data.name], input_of(config.model)
    if data.holds:
        # Before its labels are read: those of another kind of examples are seldom the model's.
        check_holds(config.data.path or config.data.name, data.holds, kind)
    splits = data.open(config.data, labels)
    for source in splits.values():
        check_kind(source, kind)
    return splits


class Target(NamedTuple):
    """Another domain: the examples to adapt to, those to measure on, and whether these have labels."""

    stream: Source
    evaluation: Source
    is_labelled: bool


def open_target(config: Config, names: tuple[str, ...], reading: str = "") -> Target | None:
    """Open the examples of `data.target`, None where there are none.

    `names` are the classes of the task, `reading` how the run's labels tell them (`Info.reading`).

    A folder without folders (hidden ones do not count) and without tables has no labels. What has a test
    split is measured on that.

    Raises:
        UserError: they cannot be had, or their classes are others.
    """
    path = config.data.target
    if not path:
        return None
    is_labelled = config.data.has_target_labels
    folder = Path(path) if Path(path).is_dir() else None
    has_folders = folder is not None and any(
        each.is_dir() and not each.name.startswith(".") for each in folder.iterdir()
    )
    try:
        if folder is not None and is_of_files(path) and not (has_folders and is_labelled):
            found = unlabelled((path,), input_of(config.model), path)
            return Target(found, found, is_labelled=False)
        settings = with_data(config, path)
        kind = TASKS[config.task.name].label_kind if is_labelled else NO_LABELS
        splits = open_source(settings, Labels(kind, names if is_labelled else None, reading))
    except UserError as error:
        raise UserError(
            f"config.data.target: {error}; where its labels are of no use: data.has_target_labels=false"
        ) from error
    stream = splits.get("train") or next(iter(splits.values()))
    return Target(stream, splits.get("test", stream), is_labelled)


def has_classes(config: Config) -> bool:
    """Return whether the task's logits are of classes, one an example."""
    return TASKS[config.task.name].label_kind == "class"


def label_stats(config: Config, source: Source) -> LabelStats:
    """Return what the task needs to know of the training labels.

    Raises:
        UserError: they are not what `train.sampling` goes by.
    """
    sampling.check_source(config.train.sampling, source)
    labels = source.labels()
    labels = np.zeros(len(source), np.int64) if labels is None else labels
    stats = TASKS[config.task.name].stats(labels, source.info.label_names)
    return stats._replace(reading=source.info.reading)


def num_steps(config: Config, num_examples: int) -> int:
    """Return the steps of the run: `train.steps`, or `train.epochs` passes over the examples, rounded up.

    Never less than one step.

    Raises:
        UserError: there are more than can be counted in int32.
    """
    if config.train.steps:
        return config.train.steps
    found = max(1, math.ceil(config.train.epochs * num_examples / config.train.batch_size))
    if found > INT32_MAX:
        raise UserError(
            f"train.epochs is {config.train.epochs:g}, which are {found:.3g} steps of {num_examples:,} "
            f"examples; expected at most {INT32_MAX:,} steps: lower it"
        )
    return found


def check_batch(settings: Config, num_devices: int) -> None:
    """Check that slices and devices can share a batch evenly.

    Raises:
        UserError: they cannot.
    """
    size, num_slices = settings.train.batch_size, settings.optim.accumulate
    if size % (num_slices * num_devices):
        raise UserError(
            f"train.batch_size is {size}; expected a multiple of {num_slices * num_devices} "
            f"(optim.accumulate {num_slices} x {num_devices} devices)"
        )


def batch_remarks(config: Config, num_examples: int) -> list[str]:
    """Return a line for people where a batch is larger than the training set."""
    size = config.train.batch_size
    if size <= num_examples:
        return []
    return [
        f"train.batch_size is {size:,} and there are {num_examples:,} training examples: a batch has each "
        f"of them {size / num_examples:.3g} times on average"
    ]


def assembled(
    config: Config, stats: LabelStats, *, has_head: bool = True, model_of: Callable[..., Any] | None = None
) -> Assembled:
    """Return the model with its values, its task and its pre-processing: all that is needed but to train.

    Without `has_head` the model ends in its features. `model_of` makes it (None: `_model`).

    Raises:
        UserError: the model has no head of the kind that the task needs.
    """
    kind = TASKS[config.task.name]
    drawn = _as_drawn(config, stats)
    head = kind.head(config.task, drawn) if has_head else Head(0)
    model, params, model_state, loaded = (model_of or _model)(config, head, stats.label_names)
    source = input_of(config.model)
    brought = None if loaded is None else loaded.preprocess
    preprocess = seen.settled(source, model.preprocess, brought, config)
    task = kind.build(config.task, drawn, preprocess) if has_head else None
    return Assembled(source, model, task, preprocess, params, model_state, loaded)


def build(
    config: Config,
    stats: LabelStats,
    steps: int,
    model_of: Callable[..., Any] | None = None,
    *,
    num_unlabelled: int = 1,
) -> Built:
    """Build everything a run of that many steps needs beside its data; `model_of` is as in `assembled`."""
    found = assembled(config, stats, model_of=model_of)
    assert found.task is not None, "a run has a task"
    _check_batch_fits(config, found)
    strategy_kind = STRATEGIES[config.strategy.name]
    context = Context(
        layers=found.model.layers,
        num_steps=steps,
        linear=found.model.linear,
        outputs=partial(output_shapes, found.model, found.params, found.model_state),
        classifier=partial(classifier, config),
        label_names=stats.label_names,
        label_kind=TASKS[config.task.name].label_kind,
        input=found.input,
        preprocess=found.preprocess,
        episode=sampling.episode_of(config.train.sampling),
        num_unlabelled=num_unlabelled,
    )
    strategy = strategy_kind.build(config.strategy, context)
    params = found.params
    extra = strategy.extra(rng.key(config.train.seed, "extra"), params, found.model_state)
    params = {**params, EXTRA: extra} if extra else params
    groups = optim.assign(strategy.groups(list(tree.flatten(params))), config.optim, context)
    parts = Parts(
        model=found.model,
        task=found.task,
        strategy=strategy,
        optimizer=optim.make(config.optim, groups, steps, has_course=config.train.minutes > 0),
        optim=config.optim,
        groups=groups,
        input=found.input,
        preprocess=found.preprocess,
        augment=config.augment if config.train.is_augmented else None,
        num_steps=steps,
        seed=config.train.seed,
        adapts_frozen_stats=config.train.batch_stats == "adapt",
    )
    return Built(parts, params, found.model_state, found.loaded)


def classifier(config: Config, spec: str) -> Classifier:
    """Return the model of weights with their own head; "" are those the configuration starts from.

    Raises:
        UserError: they cannot be had, or have no head.
    """
    weights = config.weights if not spec else replace(config.weights, entry="", prefix="", leave_out=())
    spec = spec or config.model.weights
    if spec == NO_WEIGHTS:
        raise UserError(
            f"strategy {config.strategy.name!r} needs weights with their own head and config.model.weights "
            f"is {NO_WEIGHTS!r}; give pretrained weights"
        )
    found = recognise(spec, replace(weights, sha256=""))
    if found.num_outputs < MIN_OUTPUTS:
        raise UserError(
            f"{spec!r} has no classification head, and strategy {config.strategy.name!r} needs it; expected "
            f"weights of a classifier, or a run folder"
        )
    names = found.label_names or tuple(str(index) for index in range(found.num_outputs))
    settings = from_dict({"model": {"name": found.family, **found.config_fields, "weights": spec}})
    settings = replace(settings, weights=replace(weights, head="load", label_map={}, sha256=""))
    stats = TASKS[settings.task.name].stats(np.arange(len(names)), names)
    made = assembled(settings, stats)
    return Classifier(made.input, made.model, made.params, made.model_state, names, made.preprocess)


def initial_state(built: Built, config: Config, mesh: Mesh) -> tuple[State, Any]:
    """Return the state at step 0 on the mesh, and the sharding of each of its leaves."""
    create = starting.creator(built.parts, config, built.params, built.model_state)
    shapes = starting.shapes(built.parts, config, built.params, built.model_state)
    placement = sharding.of_state(shapes, config.sharding, mesh)
    average = ", average" if optim.has_average(config.optim) else ""
    what = f"training (parameters, {config.optim.name}{average})"
    sharding.check_fits(shapes, placement, mesh, what)
    # Host copies: a buffer of the initial parameters must not be donated with the first step.
    host = jax.device_get((built.params, built.model_state))
    if sharding.is_cut(placement):
        # Whole on every device they might not fit.
        cut = tree.flatten(tree.merge(placement.trainable, placement.frozen))
        places = tree.map_named(lambda name, leaf: cut[name], host[0])
        host = (sharding.put(host[0], places), host[1])
    return jax.jit(create, out_shardings=placement)(*host), placement


def with_data(config: Config, path: str) -> Config:
    """Return the configuration reading other data, all of it (nothing is split off for validation).

    Raises:
        UserError: the kind of data cannot be told from the path.
    """
    name = kind_of(path)
    section = SOURCES[name].Config
    known = {each.name for each in fields(section)}
    # How columns and arrays are called may be the same as in the data of the run.
    kept = {key: value for key, value in vars(config.data).items() if key in known and key.endswith(KEPT)}
    shared = {"max_unreadable": config.data.max_unreadable, **kept}
    return replace(config, data=section(name=name, path=path, val_fraction=0.0, **shared))


def _as_drawn(config: Config, stats: LabelStats) -> LabelStats:
    """Return the labels as the loss meets them: in the ratio in which `train.sampling` draws the classes."""
    if config.train.sampling == sampling.UNIFORM:
        return stats
    counts = sampling.drawn_counts(config.train.sampling, np.asarray(stats.counts, np.int64))
    return stats._replace(counts=tuple(counts.tolist()), num_examples=int(counts.sum()))


def _check_batch_fits(config: Config, found: Assembled) -> None:
    """Check that inputs and what the layers make of them fit in memory, before any of it is there.

    The layers are asked, which takes a trace of the model, only of a batch that is large.
    """
    size, setting = config.train.batch_size, "train.batch_size"
    batch_size.check(found.input, found.preprocess, size, setting)
    least = size * batch_size.example_bytes(found.input, found.preprocess)
    if least > memory.device_bytes() / LARGE_PART:
        outputs = output_shapes(found.model, found.params, found.model_state)
        seen = tree.num_bytes({"features": outputs.features, **outputs.intermediates})
        batch_size.check(found.input, found.preprocess, size, setting, more_bytes=seen)


def _model(config: Config, head: Head, label_names: tuple[str, ...]) -> tuple[Model, Any, Any, Loaded | None]:
    options = input_of(config.model).model_options(config.preprocess)
    family = MODELS[config.model.name]
    model = build_model(family, config.model, head.num_outputs, reads=head.reads, **options)
    key = rng.key(config.train.seed, "init")
    if config.model.weights == NO_WEIGHTS:
        params, model_state = model.init(key)
        return model, params, model_state, None

    def draw(names: Sequence[str]) -> dict[str, Any]:
        """Return fresh leaves by full name: what weights fill is never drawn."""
        # Every leaf's values depend on the key and its name alone.
        inner = {name.partition("/")[2] for name in names}
        params, model_state = model.init(key, inner)
        drawn = tree.flatten({"params": params, "model_state": model_state})
        return {name: drawn[name] for name in names}

    params, model_state = model.shapes()
    loaded = load(
        config.model.weights,
        family=config.model.name,
        config=config.model,
        model_params=params,
        model_state=model_state,
        settings=config.weights,
        label_names=label_names,
        draw=draw,
    )
    if config.weights.head in MADE_HEADS:
        loaded = MADE_HEADS[config.weights.head](loaded, config.model, label_names, config.weights)
    return model, loaded.params, loaded.model_state, loaded
