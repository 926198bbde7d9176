"""ONNX: the model as a program for ONNX Runtime and its like, with its values inside (extra `onnx`).

Made by jax2onnx from the jaxpr; opened by ONNX Runtime, whose results come back to jax by a callback.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from jtl.errors import UserError
from jtl.export import graph
from jtl.export.contract import INPUTS, LOGITS, Job, Opened, Target, fixed, named
from jtl.inputs import Inputs
from jtl.predictor import Predictor

NAME = "model.onnx"
# What all kernels of ONNX Runtime 1.24 know.
OPSET = 21
USAGE = """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {inputs})"""


def write(job: Job, folder: Path) -> list[str]:
    """Write the program.

    Raises:
        UserError: the extra is missing, or the converter does not know one of the model's operations.
    """
    try:
        from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]  # in an extra
    except ImportError as error:
        raise _missing("jax2onnx") from error
    spec, free = graph.specs(job)
    is_dict = isinstance(spec, Mapping)
    names = list(spec) if is_dict else [INPUTS]
    leaves = [spec[name] for name in names] if is_dict else [spec]
    arrays, call = graph.arrays_of(job), graph.call_of(job)

    def of_inputs(*inputs: Any) -> Any:
        return call(arrays, dict(zip(names, inputs, strict=True)) if is_dict else inputs[0])

    dims = (graph.BATCH, *free)
    shapes: Any = [
        SimpleNamespace(shape=(*dims, *each.shape[len(free) :]), dtype=each.dtype) for each in leaves
    ]
    try:
        to_onnx(
            of_inputs,
            inputs=shapes,
            input_names=names,
            output_names=[LOGITS],
            opset=OPSET,
            return_mode="file",
            output_path=str(folder / NAME),
        )
    except NotImplementedError as error:
        raise UserError(
            f"jax2onnx cannot write this model ({error}); expected operations it knows: choose --to stablehlo"
        ) from error
    return [f"opset {OPSET}, by jax2onnx; the values are inside"]


def open_folder(folder: Path) -> Predictor:
    """Return the model that the folder holds, which runs in ONNX Runtime.

    Raises:
        UserError: the extra is missing.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]  # in an extra
    except ImportError as error:
        raise _missing("onnxruntime") from error
    session = onnxruntime.InferenceSession(folder / NAME, providers=["CPUExecutionProvider"])
    num_outputs = session.get_outputs()[0].shape[-1]

    def run(inputs: Inputs) -> np.ndarray:
        given = inputs if isinstance(inputs, Mapping) else {INPUTS: inputs}
        found = session.run([LOGITS], {name: np.asarray(each) for name, each in given.items()})[0]
        return np.asarray(found, np.float32)

    def call(arrays: Any, inputs: Inputs) -> Any:
        del arrays
        size = jax.tree.leaves(inputs)[0].shape[0]
        shape = jax.ShapeDtypeStruct((size, num_outputs), np.float32)
        return jax.pure_callback(run, shape, inputs)

    return graph.opened_as_predictor(folder, Opened({}, call))


def _missing(package: str) -> UserError:
    return UserError(
        f"--to onnx needs the package {package}, which is missing; install it: pip install 'jtl[onnx]'"
    )


TARGET = Target(write, open_folder, fixed(USAGE, is_named=True), named("onnx"))
