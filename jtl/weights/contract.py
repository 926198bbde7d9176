"""What loading is made of: settings, an open file, tables of names, and the record of what was loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jtl.errors import UserError, shown
from jtl.models.contract import FEATURES
from jtl.ranges import CountOr0, ReadIf, check
from jtl.weights.fit import CHANNELS, RESAMPLERS
from jtl.weights.report import LoadReport

HEADS = ("new", "load", "map", "zero_shot")
AUTO = "auto"
LINEAR_HEADS = ((FEATURES, "params/head/kernel"), (FEATURES, "params/head/out/kernel"))
# The spec of a model that starts from random values.
NO_WEIGHTS = "none"


@dataclass(frozen=True)
class Config:
    """How weights are fitted to the model.

    `head`: "new" keeps the fresh head, "load" takes the source's (its shape must fit), "map" copies the
    source's rows for the classes in `label_map` and keeps fresh ones for the others, "zero_shot" makes it of
    the new classes' names (CLIP and SigLIP, with model.has_unit_features). Of that, `templates` are prompts
    with "{}" for the name, () takes those of `jtl.weights.zero_shot`; `tokenizer` is the path or spec of its
    file, "" takes the one beside the weights. `label_map` takes a new class (name or index) to a source class
    (index, or name where the source carries names): a mapping, or the path of a .json object or of a .csv
    file with two columns. `position_embedding` resamples to another grid: "bicubic" as timm (antialiased),
    "bicubic_plain" as transformers (not antialiased), "bilinear" as vit_jax (align-corners), "auto" as the
    library the names come from. `channels`: "auto" sums the first convolution's input channels for one
    channel, and else repeats and rescales them; "strict" refuses other numbers of channels. `sha256` is the
    expected checksum of the file, "" for any. `cache_dir` holds downloads; "" is $JTL_CACHE or ~/.cache/jtl.

    Which tensors of a file are the model's is found by their names; where that is not what is meant, `entry`
    is the part of the file to read ("model_ema", "state_dict.teacher"), `prefix` what to take off its names
    ("backbone."), and `leave_out` are patterns of names that are not wanted ("head.*,queue", or a tuple).
    """

    head: str = "new"
    label_map: str | dict[str, CountOr0 | str] = field(default_factory=dict)
    templates: Annotated[tuple[str, ...], ReadIf("head", ("zero_shot",))] = ()
    tokenizer: Annotated[str, ReadIf("head", ("zero_shot",))] = ""
    position_embedding: str = AUTO
    channels: str = "auto"
    sha256: str = ""
    cache_dir: str = ""
    entry: str = ""
    prefix: str = ""
    leave_out: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, "weights")
        choices = {
            "head": HEADS,
            "position_embedding": (AUTO, *RESAMPLERS),
            "channels": tuple(CHANNELS),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UserError(
                    f"weights.{name} is {shown(value)}; expected one of {', '.join(map(repr, known))}"
                )
        if self.sha256 and not _is_sha256(self.sha256):
            raise UserError(
                f"weights.sha256 is {shown(self.sha256)}; expected 64 hexadecimal digits, or '' for any file"
            )
        if (self.head == "map") != bool(self.label_map):
            raise UserError(
                f"weights.head is {self.head!r} and weights.label_map is {shown(self.label_map)}; expected a "
                f"map with head 'map', and none without"
            )


class Tensor(NamedTuple):
    """One tensor of a file, read only when `read()` is called; `dtype` is the file's own."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class TensorFile(NamedTuple):
    """An open file of named tensors, in the file's order; `format` says what its content is, for people.

    `label_names` and `preprocess` (of the kind of input that its model reads) are what the file knows of its
    own classes and inputs; `family` and
    `config_fields` where it says which model it belongs to (a run folder). `stated` are the settings that a
    config.json beside it gives, by family; `described_as` is which model that file says they are of, "" where
    it names none; `called` are names of the model that the file itself gives.

    `tensors` are those taken for the model's, `others` the rest of the file (optimizer state, other copies),
    by their names in the file, with a reason each in `reasons`. `raw_names` are the names in the file of
    tensors that are called otherwise here; `notes` say for people what was decided about names.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    label_names: tuple[str, ...] | None = None
    preprocess: Any = None
    family: str = ""
    config_fields: Mapping[str, Any] = {}
    stated: Mapping[str, Mapping[str, Any]] = {}
    described_as: str = ""
    called: tuple[str, ...] = ()
    others: Mapping[str, Tensor] = {}
    reasons: Mapping[str, str] = {}
    raw_names: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


class Op(NamedTuple):
    """A change of layout that loses nothing.

    `forward(array, shapes)` → one array for each target, where `shapes` are the targets' (they tell the
    number of heads); `inverse(arrays)` → the source array. Only views and copies: works on stand-ins without
    memory.
    """

    forward: Callable[[np.ndarray, tuple[tuple[int, ...], ...]], tuple[np.ndarray, ...]]
    inverse: Callable[[tuple[np.ndarray, ...]], np.ndarray]


class Row(NamedTuple):
    """One line of a table of names: a pattern of the source's names, the model's names it fills, and how.

    `unneeded` says why the source may be left out by a model that has none of the targets; "": it may not.
    `is_beside` is whether it stands beside the backbone, and so has not got the origin's prefix.
    """

    source: str
    targets: tuple[str, ...]
    op: Op
    unneeded: str = ""
    is_beside: bool = False


class LeftOut(NamedTuple):
    """Source names that no model needs, and why; those `of_head` matter when the source's head is kept."""

    source: str
    reason: str
    of_head: bool = False


def any_file(tensors: Mapping[str, Any]) -> bool:
    """Return True: the names alone say whether a file is of an origin."""
    return True


def no_reason(leaves: Mapping[str, Any]) -> str:
    """Return "": a library has a model for all leaves that it has names for."""
    return ""


class Origin(NamedTuple):
    """How one library names the tensors of one family.

    `prefix` is optional in front of every name. `position_embedding` is the resampling that library uses.
    `is_of(tensors)` is whether tensors of these shapes can be of this origin, where names do not tell it;
    `refuses(leaves)` is why the library has no model for a model's leaves although it has names for them, ""
    where it has one. `config_fields` are settings that all models of the library have and no tensor tells.
    """

    title: str
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...] = ()
    prefix: str = ""
    position_embedding: str = "bicubic"
    is_of: Callable[[Mapping[str, Any]], bool] = any_file
    refuses: Callable[[Mapping[str, Any]], str] = no_reason
    config_fields: Mapping[str, Any] = {}


class Grid(NamedTuple):
    """What a position embedding [1, prefix + rows * columns, dim] is a table of."""

    prefix: int
    rows: int
    columns: int


class Recognised(NamedTuple):
    """What a file was taken for: family and settings of its model, number of outputs, names.

    `num_outputs` are those of a head that reads features, 0 where there is none; `reads` is what the head
    reads that the file has.
    """

    family: str
    config_fields: dict[str, Any]
    num_outputs: int
    origin: str
    title: str
    label_names: tuple[str, ...] | None = None
    reads: str = FEATURES


def no_config(values: Mapping[str, Any]) -> None:
    """Return None: no `config.json` describes this family."""


def no_grid(config: Any) -> None:
    """Return None: the model has no position embedding, or none that is resampled."""


class FamilyNames(NamedTuple):
    """What loading needs to know of a model family: names as 'params/…' and 'model_state/…'.

    `marker` is a leaf of every model of the family: a file that has it under this name is jtl's own.
    `recognise(tensors)` → what a file with model names and shapes is. `of_config(values)` → the settings that
    a `config.json` (Hugging Face's or timm's, as it lies beside weights on the hub) states and shapes cannot
    tell, such as heads, epsilon, activation and image size; None where it is of another family.
    `input_kernel` [height, width, channels, dim] is the first to see an image's channels, "": it is fitted to
    no other number of them. `position_embedding` is what is resampled to `grid(config)`, the model's Grid;
    "" and None where nothing is. `heads` are pairs of what a head reads and the last leaf of such a head, the
    first that a file has says which it is of. `additions` are leaves that other files may have no weights
    for: from them they stay fresh. `writers` are by keys of `origins`: settings, resolved → the `config.json`
    by which that library builds the model, but for the classes; UserError where it has no such model.
    """

    origins: Mapping[str, Origin]
    marker: str
    recognise: Callable[[Mapping[str, tuple[int, ...]]], tuple[dict[str, Any], str] | None]
    of_config: Callable[[Mapping[str, Any]], dict[str, Any] | None] = no_config
    input_kernel: str = ""
    position_embedding: str = ""
    grid: Callable[[Any], Grid | None] = no_grid
    heads: tuple[tuple[str, str], ...] = LINEAR_HEADS
    additions: tuple[str, ...] = ()
    writers: Mapping[str, Callable[[Any], dict[str, Any]]] = {}


class Loaded(NamedTuple):
    """Weights fitted to a model (numpy, float32), and where they came from.

    `preprocess` and `label_names` are the source's own where it carries them; `guessed` says what the
    pre-processing was guessed from, "" where it came with the weights or is not known at all.
    """

    params: dict[str, Any]
    model_state: dict[str, Any]
    report: LoadReport
    preprocess: Any
    label_names: tuple[str, ...] | None
    source: str
    sha256: str
    guessed: str = ""


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(each in "0123456789abcdef" for each in text.lower())
