"""TensorFlow's SavedModel: the model as TensorFlow Serving takes it, with its values inside (extra `tf`).

jax2tf wraps the StableHLO program as it is (native serialisation), so that TensorFlow 2 runs what jax would.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.errors import UserError
from jtl.export import graph
from jtl.export.contract import INPUTS, LOGITS, Job, Opened, Target, fixed, named
from jtl.inputs import Inputs
from jtl.predictor import Predictor

USAGE = """import tensorflow as tf

model = tf.saved_model.load(".").signatures["serving_default"]
logits = model(**{inputs})["logits"]"""


def write(job: Job, folder: Path) -> list[str]:
    """Write the SavedModel, with the signature "serving_default" {inputs by name} → {"logits"}.

    Raises:
        UserError: TensorFlow is missing.
    """
    tf, jax2tf = _tensorflow()
    spec, free = graph.specs(job)
    arrays, call = graph.arrays_of(job), graph.call_of(job)
    is_dict = isinstance(spec, Mapping)
    named = dict(spec) if is_dict else {INPUTS: spec}

    def of_inputs(values: Any, inputs: Any) -> Any:
        return {LOGITS: call(values, inputs if is_dict else inputs[INPUTS])}

    dims = ", ".join((graph.BATCH, *free))
    converted = jax2tf.convert(
        of_inputs,
        polymorphic_shapes=[None, {name: f"({dims}, ...)" for name in named}],
        polymorphic_constraints=tuple(f"{name} <= {most}" for name, most in free.items()),
        native_serialization_platforms=("cpu", "cuda"),
        with_gradient=False,
    )
    module = tf.Module()
    module.values = {name: tf.Variable(each, trainable=False) for name, each in arrays.items()}
    any_sized = [None] * (1 + len(free))
    signature = {
        name: tf.TensorSpec([*any_sized, *leaf.shape[len(free) :]], leaf.dtype, name=name)
        for name, leaf in named.items()
    }

    @tf.function(autograph=False, input_signature=[signature])
    def serve(inputs: Any) -> Any:
        return converted(module.values, inputs)

    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return [f"by TensorFlow {tf.__version__} and jax2tf of jax {jax.__version__}; for cpu and cuda"]


def open_folder(folder: Path) -> Predictor:
    """Return the model that the folder holds, which runs in TensorFlow.

    Raises:
        UserError: TensorFlow is missing.
    """
    tf, _ = _tensorflow()
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    num_outputs = serve.structured_outputs[LOGITS].shape[-1]

    def run(inputs: Inputs) -> np.ndarray:
        given = inputs if isinstance(inputs, Mapping) else {INPUTS: inputs}
        tensors = {name: tf.constant(np.asarray(each)) for name, each in given.items()}
        return np.asarray(serve(**tensors)[LOGITS], np.float32)

    def call(arrays: Any, inputs: Inputs) -> Any:
        del arrays
        size = jax.tree.leaves(inputs)[0].shape[0]
        return jax.pure_callback(run, jax.ShapeDtypeStruct((size, num_outputs), np.float32), inputs)

    return graph.opened_as_predictor(folder, Opened({}, call))


def _tensorflow() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            # Of TensorFlow's own imports, and of jax2tf, which is to leave jax one day.
            warnings.simplefilter("ignore")
            import tensorflow  # pyright: ignore[reportMissingImports]  # in an extra
            from jax.experimental import jax2tf
    except ImportError as error:
        raise UserError(
            "--to saved_model needs TensorFlow, which is missing; install it: pip install 'jtl[tf]'"
        ) from error
    return tensorflow, jax2tf


TARGET = Target(write, open_folder, fixed(USAGE, is_named=True), named("tensorflow"))
