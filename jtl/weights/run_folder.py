"""A run folder's weights: `model.safetensors` under jtl's own names, and the meta.json about them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.models import MODELS, layers
from jtl.weights.contract import TensorFile
from jtl.weights.formats.safetensors_file import open_safetensors

WEIGHTS_NAME, META_NAME = "model.safetensors", "meta.json"
# What meta.json calls that a setting of the model is as its size has it: None. Before it did so, False or 0.
UNSET = "unset"
# What `jtl fuse` says of a folder it made; without weights, it is an ensemble.
FUSION_NAME = "fuse.json"
# What of a run's model settings is not about the model's shape.
OTHER_FIELDS = ("name", "weights")


def write_run_weights(folder: Path, params: Mapping[str, Any], model_state: Mapping[str, Any]) -> Path:
    """Write a model's arrays into the run folder, whole or not at all, and return the path."""
    flat = tree.flatten({"params": params, "model_state": model_state})
    arrays = {name: np.array(leaf, order="C") for name, leaf in flat.items()}
    path = folder / WEIGHTS_NAME
    partial_path = path.with_name(f".{WEIGHTS_NAME}.{os.getpid()}.part")
    partial_path.touch()
    save_file(arrays, partial_path, metadata={"format": "jtl"})
    partial_path.replace(path)
    return path


def write_input_files(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy the files that the model's inputs need, by name, into the run folder; each whole or not at all."""
    for name, path in files.items():
        partial_path = folder / f".{name}.{os.getpid()}.part"
        shutil.copyfile(path, partial_path)
        partial_path.replace(folder / name)


def open_run(folder: Path) -> TensorFile:
    """Open the weights a finished run left in its folder, with its label names and pre-processing.

    Raises:
        UserError: its meta.json does not say what is needed.
    """
    meta = _meta(folder)
    try:
        model = meta["model"] if UNSET in meta else layers.as_now_written(meta["model"])
        fields = {name: value for name, value in _tuples(model).items() if name not in OTHER_FIELDS}
        kind = INPUTS[MODELS[meta["family"]].input]
        return open_safetensors(folder / WEIGHTS_NAME)._replace(
            format="jtl run",
            label_names=tuple(meta["label_names"]),
            preprocess=kind.placed(kind.Preprocess(**_tuples(meta["preprocess"])), folder),
            family=meta["family"],
            config_fields=fields,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{META_NAME} of run {str(folder)!r} does not describe its model: {error!r}"
        ) from error


def _meta(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / META_NAME).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{META_NAME} of run {str(folder)!r} cannot be read: {error}") from error


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with JSON's lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
