"""A run folder's weights: `model.safetensors` under jtl's own names, and the meta.json about them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jtl import files, tree
from jtl.errors import UserError
from jtl.files import replaced
from jtl.inputs import INPUTS
from jtl.models import MODELS, layers, rematerialise
from jtl.weights.contract import TensorFile
from jtl.weights.formats.safetensors_file import open_safetensors
from jtl.weights.hub.download import sha256_of

WEIGHTS_NAME, META_NAME, SUMMARY_NAME = "model.safetensors", "meta.json", "summary.json"
CHECKPOINTS_NAME = "checkpoints"
# Where summary.json has the sha256 of the weights that were written.
DIGEST_KEY = "model_sha256"
# What meta.json calls that a setting of the model is as its size has it: None. Before it did so, False or 0.
UNSET = "unset"
# What `jtl fuse` says of a folder it made; without weights, it is an ensemble.
FUSION_NAME = "fuse.json"
# What of a run's model settings is not about the model's shape.
OTHER_FIELDS = ("name", "weights")


def write_run_weights(folder: Path, params: Mapping[str, Any], model_state: Mapping[str, Any]) -> str:
    """Write a model's arrays into the run folder, whole or not at all, and return the file's sha256."""
    flat = tree.flatten({"params": params, "model_state": model_state})
    arrays = {name: np.array(leaf, order="C") for name, leaf in flat.items()}
    path = folder / WEIGHTS_NAME
    with replaced(path) as part:
        save_file(arrays, part, metadata={"format": "jtl"})
    return sha256_of(path)


def write_input_files(folder: Path, paths: Mapping[str, Path]) -> None:
    """Copy the files that the model's inputs need, by name, into the run folder; each whole or not at all."""
    for name, path in paths.items():
        with replaced(folder / name) as part:
            shutil.copyfile(path, part)


def open_run(folder: Path) -> TensorFile:
    """Open the weights a finished run left in its folder, with its label names and pre-processing.

    Raises:
        UserError: its meta.json does not say what is needed, or the weights are not those it wrote.
    """
    notes = verified(folder)
    record = files.read_record(folder / META_NAME)
    family = record.get("family", files.TEXT)
    if family not in MODELS:
        raise record.wrong(f"family is {family!r}; expected one of {', '.join(MODELS)}")
    kind = INPUTS[MODELS[family].input]
    model = record.below("model")
    if UNSET not in record.values:
        model = files.Record(record.path, layers.as_now_written(model.values), "model")
    model = files.Record(record.path, rematerialise.as_now_written(model.values), "model")
    fields = model.fields_of(MODELS[family].Config)
    preprocess = kind.Preprocess(**record.below("preprocess").fields_of(kind.Preprocess))
    return open_safetensors(folder / WEIGHTS_NAME)._replace(
        format="jtl run",
        label_names=tuple(record.get("label_names", files.TEXTS)),
        preprocess=kind.placed(preprocess, folder),
        family=family,
        config_fields={name: value for name, value in fields.items() if name not in OTHER_FIELDS},
        notes=notes,
    )


def verified(folder: Path) -> tuple[str, ...]:
    """Return nothing where a folder's weights are those that were written, a note where nothing tells.

    Raises:
        UserError: they are others, or not there.
    """
    path, told = folder / WEIGHTS_NAME, folder / SUMMARY_NAME
    if not path.is_file():
        raise UserError(f"{str(path)!r} is not there; put it back, or make it again: {_cure(folder)}")
    expected = files.read_record(told).get(DIGEST_KEY, files.TEXT, "") if told.is_file() else ""
    if not expected:
        return (f"{str(path)!r} could not be verified: no {SUMMARY_NAME} beside it says its sha256",)
    found = sha256_of(path)
    if found != expected:
        raise UserError(
            f"{str(path)!r} has changed since it was written: its sha256 is {found[:12]}…, "
            f"{SUMMARY_NAME} says {expected[:12]}…; restore the file, or make it again: {_cure(folder)}"
        )
    return ()


def _cure(folder: Path) -> str:
    if any(path.name.isdecimal() for path in (folder / CHECKPOINTS_NAME).glob("*")):
        return f"remove {SUMMARY_NAME} and repeat the command of the run, which writes it from a checkpoint"
    return "repeat the command that made it with another folder"
