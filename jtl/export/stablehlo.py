"""StableHLO: the model as a program that any jax can load, for cpu, cuda and tpu, with its values beside it.

`jax.export` keeps a program for at least 6 months readable by newer releases, and 3 weeks by older ones
(jax 0.10, "Compatibility guarantees"). Batches of any size, texts of any length up to the model's.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
from jax import export

from jtl.errors import UserError, reading
from jtl.export import graph
from jtl.export.contract import WEIGHTS_NAME, Arrays, Job, Opened, Target, fixed, named
from jtl.inputs import Inputs
from jtl.inputs.contract import map_leaves
from jtl.predictor import Predictor

NAME = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
USAGE = """from jax import export
from safetensors.numpy import load_file

model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
logits = model.call(load_file("model.safetensors"), {inputs})"""


def write(job: Job, folder: Path) -> list[str]:
    """Write the program, and the values it is called with.

    Raises:
        UserError: the package that programs are written with is missing.
    """
    from safetensors.numpy import save_file

    _check_package()
    arrays = graph.arrays_of(job)
    (folder / NAME).write_bytes(traced(job, arrays).serialize())
    save_file({name: np.array(each, order="C") for name, each in arrays.items()}, folder / WEIGHTS_NAME)
    return [f"a program for {', '.join(PLATFORMS)}, by jax {jax.__version__}, and its values beside it"]


def open_folder(folder: Path) -> Predictor:
    """Return the model that the folder holds.

    Raises:
        UserError: it is damaged, or the package that programs are read with is missing.
    """
    _check_package()
    path = folder / NAME
    with reading(repr(str(path)), "export it again"):
        program = export.deserialize(bytearray(path.read_bytes()))
        arrays = graph.read_arrays(folder)
    return graph.opened_as_predictor(folder, Opened(arrays, program.call))


def traced(job: Job, arrays: Arrays, platforms: tuple[str, ...] = PLATFORMS) -> export.Exported:
    """Return the program of values of these shapes and batches of any size."""
    spec, free = graph.specs(job)
    limits = [f"{name} <= {most}" for name, most in free.items()]
    scope = export.SymbolicScope(limits)

    def symbolic(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dims = ", ".join((graph.BATCH, *free, *map(str, leaf.shape[len(free) :])))
        return jax.ShapeDtypeStruct(export.symbolic_shape(dims, scope=scope), leaf.dtype)

    values = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in arrays.items()}
    inputs: Inputs = map_leaves(symbolic, spec)
    call = jax.jit(graph.call_of(job))
    return export.export(call, platforms=platforms)(values, inputs)


def _check_package() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "programs are written and read with the package flatbuffers, which is missing; expected what "
            "`pip install flatbuffers` brings"
        )


TARGET = Target(write, open_folder, fixed(USAGE), named("jax"))
