"""TensorFlow's SavedModel: the model as TensorFlow Serving takes it, with its values inside (extra `tf`).

TensorFlow runs the StableHLO program as it is (`XlaCallModule`), written in the version of the language that
it was 12 weeks before jax: what TensorFlow 2.21 reads is 8 weeks older than what jax 0.10.2 writes by itself.
"""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jtl.errors import UserError
from jtl.export import graph, stablehlo
from jtl.export.contract import INPUTS, LOGITS, Job, Opened, Target, fixed, named
from jtl.inputs import Inputs
from jtl.predictor import Predictor

PLATFORMS = ("cpu", "cuda")
USAGE = """import tensorflow as tf

model = tf.saved_model.load(".").signatures["serving_default"]
logits = model(**{inputs})["logits"]"""


def write(job: Job, folder: Path) -> list[str]:
    """Write the SavedModel, with the signature "serving_default" {inputs by name} → {"logits"}.

    Raises:
        UserError: TensorFlow is missing.
    """
    tf, call_module = _tensorflow()
    spec, free = graph.specs(job)
    arrays = graph.arrays_of(job)
    run = _caller(tf, call_module, stablehlo.traced(job, arrays, PLATFORMS))
    is_dict = isinstance(spec, Mapping)
    named = dict(spec) if is_dict else {INPUTS: spec}
    values = {name: tf.Variable(each, trainable=False) for name, each in arrays.items()}
    any_sized = [None] * (1 + len(free))
    signature = {
        name: tf.TensorSpec([*any_sized, *leaf.shape[len(free) :]], leaf.dtype, name=name)
        for name, leaf in named.items()
    }

    @tf.function(autograph=False, input_signature=[signature])
    def serve(inputs: Any) -> Any:
        return {LOGITS: run(values, dict(inputs) if is_dict else inputs[INPUTS])}

    module = tf.Module()
    # What is no attribute is not saved.
    module.values, module.serve = values, serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return [f"by TensorFlow {tf.__version__} and jax {jax.__version__}; for {' and '.join(PLATFORMS)}"]


def _caller(tf: Any, call_module: Any, program: export.Exported) -> Any:
    """Return (values, inputs), as the program takes them but of TensorFlow → its logits."""
    (logits,) = program.out_avals
    fields = {
        "version": program.calling_convention_version,
        "module": _older(program.mlir_module_serialized),
        "Tout": [tf.as_dtype(logits.dtype)],
        "Sout": [tf.TensorShape([None, logits.shape[-1]])],
        "platforms": [each.upper() for each in PLATFORMS],
    }

    def run(values: Any, inputs: Any) -> Any:
        leaves = jax.tree.leaves((values, inputs))
        kept = [tf.convert_to_tensor(leaves[place]) for place in program.module_kept_var_idx]
        return call_module(kept, **fields)[0]

    return run


def _older(program: bytes) -> bytes:
    """Return a program in the StableHLO of 12 weeks before, with functions in place of composites.

    TensorFlow 2.21 infers no shapes inside of a composite, as which erf is written.
    """
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import chlo
    from jax.extend.mlir.dialects import stablehlo as language

    language.register_stablehlo_passes()
    version = language.get_version_from_compatibility_requirement(
        language.StablehloCompatibilityRequirement.WEEK_12
    )
    with ir.Context() as context:
        language.register_dialect(context)
        chlo.register_dialect(context)
        module = language.deserialize_portable_artifact(context, program)
        passes = "builtin.module(func.func(stablehlo-legalize-composite-to-call))"
        passmanager.PassManager.parse(passes).run(module.operation)
        return language.serialize_portable_artifact_str(str(module), version)


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
    """Return TensorFlow, and its operation that runs a program."""
    try:
        with warnings.catch_warnings():
            # Of TensorFlow's own imports.
            warnings.simplefilter("ignore")
            import tensorflow  # pyright: ignore[reportMissingModuleSource]  # in an extra

            xla = importlib.import_module("tensorflow.compiler.tf2xla.python.xla")
    except ImportError as error:
        raise UserError(
            "--to saved_model needs TensorFlow, which is missing; install it: pip install 'jtl[tf]'"
        ) from error
    return tensorflow, xla.call_module


TARGET = Target(write, open_folder, fixed(USAGE, is_named=True), named("tensorflow"))
