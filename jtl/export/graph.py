"""A model as one function of its values and a batch, the shapes it is traced with, and the function opened.

The values are flat, {name: array}, with jtl's own names ("params/head/kernel", "model_state/…").
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import files, tree
from jtl import predictor as predictors
from jtl.errors import UserError
from jtl.export import int8
from jtl.export.contract import RECORD_NAME, WEIGHTS_NAME, Arrays, Call, Job, Opened
from jtl.inputs import Inputs
from jtl.inputs.contract import as_it_is, map_leaves
from jtl.models import MODELS, Outputs
from jtl.predictor import Predictor
from jtl.report import summary
from jtl.tasks import TASKS, LabelStats
from jtl.training import config, sharding, step
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.run_folder import write_input_files

BATCH = "batch"


def arrays_of(job: Job) -> dict[str, np.ndarray]:
    """Return the model's values as they are kept: flat, on the host, the large kernels as int8 if asked."""
    found = {name: np.asarray(leaf) for name, leaf in tree.flatten(dict(job.predictor.values)).items()}
    return int8.quantised(found) if job.is_int8 else found


def call_of(job: Job) -> Call:
    """Return the function of flat values and inputs that gives the logits; for use inside jit."""
    parts = job.predictor
    forward: Callable[..., Outputs] = step.forward_normalised if job.is_normalised else step.forward

    def call(arrays: Arrays, inputs: Inputs) -> Any:
        values = tree.unflatten(int8.restored(arrays))
        return forward(parts, values.get("params", {}), values.get("model_state", {}), inputs).logits

    return call


def specs(job: Job) -> tuple[Inputs, dict[str, int]]:
    """Return shapes and dtypes of one example as the artefact reads it, and which leading dims may differ.

    The dims are by name, with the most that each may be.
    """
    parts = job.predictor
    spec = parts.input.spec(parts.preprocess)
    if job.is_normalised:
        batch = map_leaves(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), spec)
        normalised = jax.eval_shape(lambda inputs: parts.input.normalise(inputs, parts.preprocess), batch)
        spec = map_leaves(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), normalised)
    return spec, dict(parts.input.free_dims(parts.preprocess))


def example(job: Job, size: int = 1) -> Inputs:
    """Return a batch of zeros as the artefact reads it."""
    spec, _ = specs(job)
    return map_leaves(lambda leaf: np.zeros((size, *leaf.shape), leaf.dtype), spec)


def shown(job: Job) -> dict[str, str]:
    """Return how inputs of a batch look, by name ("" where there is one): `uint8 [batch, 224, 224, 3]`."""
    spec, free = specs(job)
    named = spec if isinstance(spec, Mapping) else {"": spec}
    return {
        name: f"{leaf.dtype} [{', '.join((BATCH, *free, *map(str, leaf.shape[len(free) :])))}]"
        for name, leaf in named.items()
    }


def describe(job: Job, to: str) -> dict[str, Any]:
    """Return what an artefact must say of itself to be opened again."""
    parts = job.predictor
    settings = config.to_dict(parts.settings)
    # Paths of this machine are nobody else's business: of the settings only what the model is goes along.
    model = {**settings["model"], "weights": NO_WEIGHTS}
    return {
        "format": 1,
        "to": to,
        "from": Path(job.origin).name,
        "config": {"model": model, "task": settings["task"]},
        "labels": parts.stats._asdict(),
        "preprocess": asdict(parts.preprocess),
        "is_normalised": job.is_normalised,
        "is_int8": job.is_int8,
        "inputs": shown(job),
    }


def write_files(job: Job, folder: Path, to: str) -> None:
    """Write what an artefact says of itself, and the files its inputs need (a tokenizer)."""
    parts = job.predictor
    summary.write_json(folder / RECORD_NAME, describe(job, to))
    write_input_files(folder, parts.input.files(parts.preprocess))


def opened_as_predictor(folder: Path, opened: Opened) -> Predictor:
    """Return an artefact as what every verb after training opens; its model only predicts.

    Raises:
        UserError: its export.json does not say what is needed.
    """
    record = files.read_record(folder / RECORD_NAME)
    try:
        settings = config.from_dict(record.below("config").values)
    except (TypeError, OverflowError, RecursionError) as error:
        raise record.wrong(str(error)) from error
    stats = LabelStats.of_record(record.below("labels"))
    kind = config.input_of(settings.model)
    preprocess = kind.placed(kind.Preprocess(**record.below("preprocess").fields_of(kind.Preprocess)), folder)
    is_normalised = record.get("is_normalised", ("true or false", lambda value: isinstance(value, bool)))
    task = TASKS[settings.task.name].build(settings.task, stats, preprocess)
    family = MODELS[settings.model.name]
    # Only its shapes are asked for: what computes is the artefact.
    plain = family.build(family.resolve(settings.model), task.head.num_outputs or 1)

    def apply(params: Any, model_state: Any, inputs: Inputs, **_: Any) -> Outputs:
        logits = opened.call(params, inputs)
        return Outputs(logits, logits, model_state, {})

    mesh = sharding.mesh(sharding.Config(devices=1))
    return Predictor(
        settings=settings,
        stats=stats,
        input=kind if is_normalised else kind._replace(normalise=as_it_is),
        preprocess=preprocess,
        model=plain._replace(apply=apply),
        task=task,
        values=predictors.placed({"params": opened.arrays, "model_state": {}}, mesh),
        loaded=None,
        mesh=mesh,
    )


def check_record(folder: Path) -> files.Record:
    """Return what an artefact says of itself.

    Raises:
        UserError: the folder is none.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} is no artefact: {RECORD_NAME} is missing; expected what jtl export wrote"
        )
    return files.read_record(path)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return an artefact's values from the file beside its program."""
    from safetensors.numpy import load_file

    return load_file(folder / WEIGHTS_NAME)
