"""A model that is trained already, as settings: a run folder, or pretrained weights with their own head."""

import importlib.resources
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jtl.errors import UserError
from jtl.strategies import STRATEGIES
from jtl.tasks import TASKS, LabelStats
from jtl.training import build, config, sharding
from jtl.training.build import Built
from jtl.training.config import Config
from jtl.training.state import State
from jtl.weights import zero_shot
from jtl.weights.recognise import recognise
from jtl.weights.run_folder import FUSION_NAME


class Trained(NamedTuple):
    """What a model is built by: its settings, and what it knows of its labels."""

    settings: Config
    stats: LabelStats


class Ready(NamedTuple):
    """A built model with its values, and the devices it runs on."""

    built: Built
    state: State
    mesh: Mesh


def of_run(run_folder: str) -> Trained:
    """Return the model of a run folder.

    Raises:
        UserError: the folder is none, or has not come to an end.
    """
    folder = Path(run_folder)
    if not (folder / "config.json").is_file() and (folder / FUSION_NAME).is_file():
        raise UserError(
            f"{str(folder)!r} holds the predictions of an ensemble, which is no one model; expected a run "
            f"folder, such as those that its {FUSION_NAME} names"
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{str(folder)!r} is no run folder: config.json is missing; expected what --workdir named"
        )
    if not (folder / "meta.json").is_file():
        raise UserError(f"run {str(folder)!r} has no meta.json yet; repeat its training command first")
    settings = config.from_dict(json.loads((folder / "config.json").read_text()))
    meta = json.loads((folder / "meta.json").read_text())
    return Trained(_with_own_head(settings, str(folder)), LabelStats.from_dict(meta["labels"]))


def of_weights(spec: str, *, needs_head: bool = True) -> Trained:
    """Return the model of pretrained weights; their classes are numbers where they have no names.

    Raises:
        UserError: the weights are of no model jtl knows, or have no head and need one.
    """
    found = recognise(spec)
    settings = config.from_dict({"model": {"name": found.family, **found.config_fields}})
    if found.num_outputs < build.MIN_OUTPUTS:
        if needs_head:
            raise UserError(
                f"{spec!r} has no classification head; give a run folder with --run instead, or ask for "
                f"zero-shot classification (CLIP, SigLIP): predict --classes NAMES, evaluate --zero-shot"
            )
        return Trained(replace(settings, model=replace(settings.model, weights=spec)), LabelStats((), 0))
    names = found.label_names or tuple(str(index) for index in range(found.num_outputs))
    return Trained(_with_own_head(settings, spec), label_stats(settings, names))


def zero_shot_settings(spec: str) -> Config:
    """Return the settings of a CLIP or SigLIP whose head is made of class names.

    Raises:
        UserError: the weights are of no model jtl knows.
    """
    found = recognise(spec)
    fields = {**found.config_fields, **zero_shot.MODEL_FIELDS, "name": found.family, "weights": spec}
    return config.from_dict({"model": fields, "weights": {"head": zero_shot.HEAD}})


def label_stats(settings: Config, names: tuple[str, ...]) -> LabelStats:
    """Return what the task needs to know of classes of which there are no examples but the names."""
    return TASKS[settings.task.name].stats(np.arange(len(names)), names)


def ready(settings: Config, stats: LabelStats) -> Ready:
    """Build the model with its values, for evaluation, and say how it sees images."""
    built = build.build(settings, stats, steps=1)
    sys.stderr.write(build.preprocess_text(built.parts.preprocess, built.loaded) + "\n")
    mesh = sharding.mesh(settings.sharding)
    state = State(jnp.zeros([], jnp.int32), built.params, {}, built.model_state, (), {})
    return Ready(built, state, mesh)


def with_names(found: Trained, names: tuple[str, ...]) -> Trained:
    """Return the model with other names of its classes, in the order of its outputs.

    Raises:
        UserError: there are not as many as it has outputs.
    """
    count = len(found.stats.label_names)
    if len(names) != count:
        raise UserError(f"{len(names)} class names are given; expected one for each of {count} outputs")
    return found._replace(stats=found.stats._replace(label_names=names))


def has_names(found: Trained) -> bool:
    """Return whether the classes have names, and are not known by their indices alone."""
    names = found.stats.label_names
    return names != tuple(str(index) for index in range(len(names)))


def imagenet_names() -> tuple[str, ...]:
    """Return names of the 1000 classes of ImageNet-1k in the usual order (by synset), after WordNet 3.0."""
    path = importlib.resources.files("jtl") / "assets" / "imagenet_1k.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _with_own_head(settings: Config, spec: str) -> Config:
    return replace(
        settings,
        model=replace(settings.model, weights=spec),
        weights=replace(settings.weights, head="load", sha256=""),
        # What a run writes has its strategy's additions folded in.
        strategy=STRATEGIES["full"].Config(),
    )
