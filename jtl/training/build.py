"""From a configuration to the parts of a run: data, task, model, pretrained weights, strategy, optimizer."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jtl import rng, tree
from jtl.data import SOURCES, Labels, Source, sampling
from jtl.data.images import open_unlabelled
from jtl.errors import UserError, nearest
from jtl.inputs.preprocess import INTERPOLATIONS, Preprocess
from jtl.models import MODELS, Model, Outputs
from jtl.models.contract import batch_of
from jtl.strategies import STRATEGIES, Classifier, Context, Strategy
from jtl.strategies.contract import EXTRA
from jtl.tasks import TASKS, LabelStats
from jtl.training import optim, sharding
from jtl.training import state as states
from jtl.training.config import Config, Pretrained, from_dict
from jtl.training.state import State
from jtl.training.step import Parts
from jtl.weights import zero_shot
from jtl.weights.contract import NO_WEIGHTS, Loaded
from jtl.weights.load import load
from jtl.weights.recognise import recognise

SOURCE_BY_SUFFIX = {".csv": "table", ".tsv": "table", ".parquet": "table", ".npz": "arrays"}
DEFAULT_CHANNELS = 3
MIN_OUTPUTS = 2
# Kinds of head that are made of what was loaded.
MADE_HEADS = {zero_shot.HEAD: zero_shot.start}


class Built(NamedTuple):
    """The parts, the initial values, and where they came from (`loaded` is None: random weights)."""

    parts: Parts
    params: dict[str, Any]
    model_state: Any
    loaded: Loaded | None


def open_splits(config: Config, names: tuple[str, ...] | None = None) -> dict[str, Source]:
    """Open the data's splits; `names` fixes the classes and their order."""
    labels = Labels(TASKS[config.task.name].label_kind, names)
    return SOURCES[config.data.name].open(config.data, labels)


class Target(NamedTuple):
    """Another domain: the images to adapt to, those to measure on, and whether these have labels."""

    stream: Source
    evaluation: Source
    is_labelled: bool


def open_target(config: Config, names: tuple[str, ...]) -> Target | None:
    """Open the images of `data.target`, None where there are none; `names` are the classes of the task.

    A folder without folders has no labels, but for hidden ones. What has a test split is measured on that.

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
        if folder is not None and not (has_folders and is_labelled):
            images = open_unlabelled(path)
            return Target(images, images, is_labelled=False)
        splits = open_splits(with_data(config, path), names if is_labelled else None)
    except UserError as error:
        raise UserError(
            f"config.data.target: {error}; where its labels are of no use: data.has_target_labels=false"
        ) from error
    stream = splits.get("train") or next(iter(splits.values()))
    return Target(stream, splits.get("test", stream), is_labelled)


def check_streams(config: Config, strategy: Strategy, streams: Mapping[str, Source]) -> None:
    """Check that the data has every stream the strategy needs, and that nothing marks the training images.

    Raises:
        UserError: it has not, or training images alone are blended.
    """
    augment = config.augment
    if strategy.streams and (augment.mixup_alpha or augment.cutmix_alpha):
        raise UserError(
            f"augment.mixup_alpha is {augment.mixup_alpha} and augment.cutmix_alpha {augment.cutmix_alpha}, "
            f"which blend training images alone; expected 0 with strategy {config.strategy.name!r}, which "
            f"compares them with the target's: set both to 0"
        )
    for name in strategy.streams:
        if name not in streams:
            raise UserError(
                f"strategy {config.strategy.name!r} adapts to unlabelled images and config.data.{name} is "
                f"empty; set it to their folder, table or .npz"
            )


def has_classes(config: Config) -> bool:
    """Return whether the task's logits are of classes, one an example."""
    return TASKS[config.task.name].label_kind == "class"


def label_stats(config: Config, source: Source) -> LabelStats:
    """Return what the task needs to know of the training labels.

    Raises:
        UserError: they are not what `train.sampling` goes by.
    """
    sampling.check_source(config.train.sampling, source)
    return TASKS[config.task.name].stats(source.labels(), source.info.label_names)


def num_steps(config: Config, num_examples: int) -> int:
    """Return the steps of the run: `train.steps`, or `train.epochs` passes over the examples, rounded up.

    Never less than one step.
    """
    return config.train.steps or max(
        1, math.ceil(config.train.epochs * num_examples / config.train.batch_size)
    )


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


def build(config: Config, stats: LabelStats, steps: int) -> Built:
    """Build everything a run of that many steps needs beside its data."""
    task = TASKS[config.task.name].build(config.task, _as_drawn(config, stats))
    model, params, model_state, loaded = _model(config, task.head_size, stats.label_names)
    preprocess = _preprocess(config.preprocess, loaded, model)
    strategy_kind = STRATEGIES[config.strategy.name]
    context = Context(
        layers=model.layers,
        num_steps=steps,
        linear=model.linear,
        outputs=partial(_output_shapes, model, params, model_state),
        classifier=partial(classifier, config),
        label_names=stats.label_names,
        label_kind=TASKS[config.task.name].label_kind,
        preprocess=preprocess,
    )
    strategy = strategy_kind.build(config.strategy, context)
    extra = strategy.extra(rng.key(config.train.seed, "extra"), params, model_state)
    params = {**params, EXTRA: extra} if extra else params
    groups = optim.assign(strategy.groups(list(tree.flatten(params))), config.optim, context)
    parts = Parts(
        model=model,
        task=task,
        strategy=strategy,
        optimizer=optim.make(config.optim, groups, steps),
        optim=config.optim,
        groups=groups,
        preprocess=preprocess,
        augment=config.augment,
        num_steps=steps,
        seed=config.train.seed,
        adapts_frozen_stats=config.train.batch_stats == "adapt",
    )
    return Built(parts, params, model_state, loaded)


def preprocess_text(preprocess: Preprocess, loaded: Loaded | None) -> str:
    """Return the pre-processing in one line, and whose it is."""
    is_known = loaded is not None and loaded.preprocess is not None
    whose = "of the weights" if is_known else "the family's own: the weights came without any"
    return f"pre-processing: {preprocess.described()} ({whose})"


def backbone(config: Config) -> tuple[Model, Loaded, Preprocess]:
    """Return the model, the values and the pre-processing of a configuration's weights, without a head."""
    settings = replace(config, weights=replace(config.weights, head="new", label_map={}))
    model, _, _, loaded = _model(settings, 0, ())
    assert loaded is not None, "a backbone has weights"
    return model, loaded, _preprocess(config.preprocess, loaded, model)


def classifier(config: Config, spec: str) -> Classifier:
    """Return the model of weights with their own head; "" are those the configuration starts from.

    Raises:
        UserError: they cannot be had, or have no head.
    """
    spec = spec or config.model.weights
    if spec == NO_WEIGHTS:
        raise UserError(
            f"strategy {config.strategy.name!r} needs weights with their own head and config.model.weights "
            f"is {NO_WEIGHTS!r}; give pretrained weights"
        )
    found = recognise(spec, replace(config.weights, sha256=""))
    if found.num_outputs < MIN_OUTPUTS:
        raise UserError(
            f"{spec!r} has no classification head, and strategy {config.strategy.name!r} needs it; expected "
            f"weights of a classifier, or a run folder"
        )
    names = found.label_names or tuple(str(index) for index in range(found.num_outputs))
    settings = from_dict({"model": {"name": found.family, **found.config_fields, "weights": spec}})
    weights = replace(config.weights, head="load", label_map={}, sha256="")
    model, params, model_state, loaded = _model(replace(settings, weights=weights), found.num_outputs, names)
    return Classifier(model, params, model_state, names, _preprocess(settings.preprocess, loaded, model))


def initial_state(built: Built, config: Config, mesh: Mesh) -> tuple[State, Any]:
    """Return the state at step 0 on the mesh, and the sharding of each of its leaves."""

    def create(params: Any, model_state: Any) -> State:
        parts = built.parts
        has_ema = optim.has_average(config.optim)
        return states.create(params, model_state, parts.groups, parts.optimizer, has_ema=has_ema)

    shapes = jax.eval_shape(create, built.params, built.model_state)
    placement = sharding.of_state(shapes, config.sharding, mesh)
    # Host copies: a buffer of the initial parameters must not be donated with the first step.
    host = jax.device_get((built.params, built.model_state))
    return jax.jit(create, out_shardings=placement)(*host), placement


def with_data(config: Config, path: str) -> Config:
    """Return the configuration reading other data, all of it (nothing is split off for validation).

    Raises:
        UserError: the kind of data cannot be told from the path.
    """
    name = "image_folder" if Path(path).is_dir() else SOURCE_BY_SUFFIX.get(Path(path).suffix.lower())
    if not Path(path).exists():
        raise UserError(
            f"data {path!r} is not there; expected a folder or a {', '.join(SOURCE_BY_SUFFIX)} file"
        )
    if name is None:
        raise UserError(
            f"data {path!r} is of no known kind; expected a folder or a {', '.join(SOURCE_BY_SUFFIX)} file"
        )
    shared = {"max_unreadable": config.data.max_unreadable}
    return replace(config, data=SOURCES[name].Config(name=name, path=path, val_fraction=0.0, **shared))


def _output_shapes(model: Model, params: Any, model_state: Any) -> Outputs:
    apply = partial(model.apply, train=False, key=None)
    return jax.eval_shape(apply, params, model_state, batch_of(model.spec))


def _as_drawn(config: Config, stats: LabelStats) -> LabelStats:
    """Return the labels as the loss meets them: in the ratio in which `train.sampling` draws the classes."""
    if config.train.sampling == sampling.UNIFORM:
        return stats
    counts = sampling.drawn_counts(config.train.sampling, np.asarray(stats.counts, np.int64))
    return stats._replace(counts=tuple(counts.tolist()), num_examples=int(counts.sum()))


def _model(
    config: Config, num_outputs: int, label_names: tuple[str, ...]
) -> tuple[Model, Any, Any, Loaded | None]:
    num_channels = len(config.preprocess.mean) or DEFAULT_CHANNELS
    model = MODELS[config.model.name].build(config.model, num_outputs, num_channels)
    params, model_state = model.init(rng.key(config.train.seed, "init"))
    if config.model.weights == NO_WEIGHTS:
        return model, params, model_state, None
    loaded = load(
        config.model.weights,
        family=config.model.name,
        config=config.model,
        model_params=params,
        model_state=model_state,
        settings=config.weights,
        label_names=label_names,
    )
    if config.weights.head in MADE_HEADS:
        loaded = MADE_HEADS[config.weights.head](loaded, config.model, label_names, config.weights)
    return model, loaded.params, loaded.model_state, loaded


def _preprocess(settings: Pretrained, loaded: Loaded | None, model: Model) -> Preprocess:
    """Return the weights' own pre-processing at the model's input size, with what the user changed."""
    base = model.preprocess
    if loaded is not None and loaded.preprocess is not None:
        base = loaded.preprocess.at(model.preprocess.image_px)
    changed = {
        each.name: getattr(settings, each.name) for each in fields(settings) if getattr(settings, each.name)
    }
    preprocess = replace(base, **changed)
    if preprocess.interpolation not in INTERPOLATIONS:
        known = nearest(preprocess.interpolation, INTERPOLATIONS)
        raise UserError(f"preprocess.interpolation is {preprocess.interpolation!r}; expected one of {known}")
    if not len(preprocess.mean) == len(preprocess.std) == model.preprocess.num_channels:
        raise UserError(
            f"preprocess.mean {preprocess.mean} and preprocess.std {preprocess.std} need "
            f"{model.preprocess.num_channels} values each, one per image channel"
        )
    return preprocess
