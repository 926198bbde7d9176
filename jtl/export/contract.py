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
    `open(folder)` → the model as it was written, as another program finds it. `usage` is Python that runs it
    where jtl is not installed, in which {inputs} stands for how the inputs are made. `is_graph` is whether it
    is a program, which can normalise its inputs and hold int8, or weights for the program of a library.
    """

    write: Callable[[Job, Path], list[str]]
    open: Callable[[Path], Predictor]
    usage: str
    is_graph: bool = True
