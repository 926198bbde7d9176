"""From a configuration to the parts of a run: data, task, model, pretrained weights, strategy, optimizer."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jtl import optim, rng, sharding, tree, zero_shot
from jtl import state as states
from jtl.config import Config, Pretrained
from jtl.data import SOURCES, Labels, Source
from jtl.errors import UserError, nearest
from jtl.models import MODELS, Model
from jtl.preprocess import INTERPOLATIONS, Preprocess
from jtl.state import State
from jtl.step import Parts
from jtl.strategies import STRATEGIES, Context
from jtl.tasks import TASKS, LabelStats
from jtl.weights.contract import NO_WEIGHTS, Loaded
from jtl.weights.load import load

SOURCE_BY_SUFFIX = {".csv": "table", ".tsv": "table", ".parquet": "table", ".npz": "arrays"}
DEFAULT_CHANNELS = 3


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


def label_stats(config: Config, source: Source) -> LabelStats:
    """Return what the task needs to know of the training labels."""
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
    task = TASKS[config.task.name].build(config.task, stats)
    model, params, model_state, loaded = _model(config, task.head_size, stats.label_names)
    preprocess = _preprocess(config.preprocess, loaded, model)
    strategy_kind = STRATEGIES[config.strategy.name]
    context = Context(model.layers, steps, model.linear)
    strategy = strategy_kind.build(config.strategy, context)
    extra = strategy.extra(rng.key(config.train.seed, "extra"), params)
    params = {**params, "extra": extra} if extra else params
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


def initial_state(built: Built, config: Config, mesh: Mesh) -> tuple[State, Any]:
    """Return the state at step 0 on the mesh, and the sharding of each of its leaves."""

    def create(params: Any, model_state: Any) -> State:
        parts = built.parts
        has_ema = config.optim.ema > 0
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


def _model(
    config: Config, num_outputs: int, label_names: tuple[str, ...]
) -> tuple[Model, Any, Any, Loaded | None]:
    num_channels = len(config.preprocess.mean) or DEFAULT_CHANNELS
    model = MODELS[config.model.name].build(config.model, num_outputs, num_channels)
    params, model_state = model.init(rng.key(config.train.seed, "init"))
    if config.model.weights == NO_WEIGHTS:
        return model, params, model_state, None
    is_zero_shot = config.weights.head == zero_shot.HEAD
    loaded = load(
        config.model.weights,
        family=config.model.name,
        config=config.model,
        model_params=params,
        model_state=model_state,
        settings=replace(config.weights, head="new") if is_zero_shot else config.weights,
        label_names=label_names,
    )
    if is_zero_shot:
        loaded = zero_shot.start(loaded, config.model, label_names, config.weights)
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
