"""The contract every kind of artefact keeps: what is exported, how it is written and opened again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jtl.inputs import Inputs
from jtl.predictor import Predictor

# What an artefact says of itself, and the file of its values by name.
RECORD_NAME, WEIGHTS_NAME = "export.json", "model.safetensors"
# What programs that name their inputs and outputs call them.
INPUTS, LOGITS = "inputs", "logits"
Arrays = Mapping[str, Any]
# (values, inputs as the artefact reads them) -> logits.
Call = Callable[[Arrays, Inputs], Array]


class Job(NamedTuple):
    """What is to be exported: a model with its values, and how.

    `origin` is the run folder or the weights it came from. `is_normalised` is whether the artefact is given
    inputs that are normalised already, and does not do so itself. `is_int8` is whether its kernels are kept
    as int8.
    """

    predictor: Predictor
    origin: str
    is_normalised: bool = False
    is_int8: bool = False


class Opened(NamedTuple):
    """An artefact opened again: its values (empty where they are inside), and the function of them."""

    arrays: dict[str, np.ndarray]
    call: Call


class Target(NamedTuple):
    """One kind of artefact.

    `write(job, folder)` fills an empty folder and returns lines for people on what was decided.
    `open(folder)` → the model as it was written, as another program finds it. `usage(folder, inputs, kind)` →
    Python that runs it where jtl is not installed, on what `inputs` calls its inputs, of that kind. `library`
    is what hubs call what loads it. `is_graph` is whether it is a program, which can normalise its inputs and
    hold int8, or weights for the program of a library. `has_run_card` is whether a run's card goes along.
    """

    write: Callable[[Job, Path], list[str]]
    open: Callable[[Path], Predictor]
    usage: Callable[[Path, str, str], str]
    library: Callable[[Path], str]
    is_graph: bool = True
    has_run_card: bool = False


def fixed(text: str, *, is_named: bool = False) -> Callable[[Path, str, str], str]:
    """Return the usage that is the same for every folder, in which {inputs} stands for the inputs.

    Where they are always named, a single one is called `INPUTS`.
    """
    only = f'{{"{INPUTS}": {INPUTS}}}' if is_named else INPUTS
    return lambda folder, inputs, kind: text.replace("{inputs}", only if inputs == INPUTS else inputs)


def named(library: str) -> Callable[[Path], str]:
    """Return the library that loads every folder of a kind."""
    return lambda folder: library
