"""The contract every source keeps, and the settings all sources share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jtl.errors import UserError, shown
from jtl.inputs import Inputs, Transform, Unreadable
from jtl.ranges import CountOr0, Fraction, Range, ReadIf, check

IMAGE, TEXT = "image", "text"
# Where a picture is to be turned, an example says by how many quarters, counter-clockwise.
TURNS = "turns"
SPLIT_ORDER = ("train", "val", "test")
# How labels tell classes: by their names, by numbers, by places among them.
NAMES, NUMBERS, PLACES = "names", "numbers", "places"
NO_LABELS = "none"
# How a user may say that labels tell classes; "" leaves it to the labels.
ASKED = ("", NAMES, PLACES)


class Info(NamedTuple):
    """What a source says of itself.

    `label_names` is empty for regression, and where there are no labels; `name` is for messages. `holds` is
    what its raw examples are: `IMAGE` (an image file's bytes, or pixels uint8 [height, width, channels]) or
    `TEXT` (a text, a pair of texts, or a text file's bytes). `notes` say for people how the data was read
    where that could have been otherwise. `reading` is how labels tell classes (see `classes`; "": no matter).
    """

    name: str
    label_names: tuple[str, ...]
    holds: str = IMAGE
    notes: tuple[str, ...] = ()
    reading: str = ""


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split, picklable, so that worker processes can open it."""

    @property
    def info(self) -> Info:
        """Its name and its classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return example `index`: `{"raw", "label", "id"}`.

        What is stored, as `Info.holds` says; a row of `labels()` (None without labels); and `index` itself. A
        picture that is to be turned has `TURNS` beside these.
        """
        ...

    def labels(self) -> np.ndarray | None:
        """Return all labels: int64 [n], multi-hot float32 [n, classes], float32 [n, values]; None: none."""
        ...

    def describe(self, index: int) -> str:
        """Name the example for people, in Unicode: its path, or its place in a file."""
        ...

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes alone, which outlives moving and renaming.

        `raw` is what the example holds, where it has been read already: nothing is read again.

        Raises:
            Unreadable: it cannot be read.
        """
        ...


class Labels(NamedTuple):
    """How to read labels: `kind` is the task's ("class", "multilabel", "regression", or "none": not at all).

    `names` are the classes in order where they are already fixed (evaluation of a run), and `reading` is how
    that run read its labels (`Info.reading`; "" unknown); None: found in the data.
    """

    kind: str = "class"
    names: tuple[str, ...] | None = None
    reading: str = ""


@dataclass(frozen=True)
class Config:
    """Settings every kind of source shares; a kind adds its own by extending this.

    `val_fraction` is split off the training examples where the data has no validation split of its own (0: no
    split). With `folds` (0: off) they are cut into so many parts instead, and part `fold` is for validation.
    `max_unreadable` is how many unreadable examples may be skipped (each is named); one more is an error.
    `train_per_class` keeps that many training examples a class (0: all); `train_fraction` that part of them,
    stratified. Both are deterministic and leave the other splits alone. With `rotated_classes` each picture
    of every split is there three times more, turned by 90, 180 and 270 degrees, as another class. `target` is
    where the examples of another domain lie that strategies adapt to; where it has labels (and
    `has_target_labels`) they measure X says how labels tell classes: "names", "places" (0 is the first
    class), or "" as the run's training labels did, or if there are none, as they look: numbers are compared
    as numbers, and are the names of as many classes as there are different ones.
    """

    name: str = "image_folder"
    path: str = ""
    val_fraction: Fraction = 0.2
    folds: CountOr0 = 0
    fold: CountOr0 = 0
    max_unreadable: CountOr0 = 0
    train_per_class: CountOr0 = 0
    train_fraction: Annotated[float, Range(above=0, high=1)] = 1.0
    rotated_classes: bool = False
    target: str = ""
    has_target_labels: Annotated[bool, ReadIf("target")] = True
    unlabelled: str = ""
    labels_are: str = ""

    def __post_init__(self) -> None:
        check(self, "data")
        if self.labels_are not in ASKED:
            raise UserError(
                f"data.labels_are is {shown(self.labels_are)}, expected one of {', '.join(map(repr, ASKED))}"
            )
        if self.folds == 1:
            raise UserError(f"data.folds is {self.folds}, expected 0 (none) or 2 or more")
        if not 0 <= self.fold < max(self.folds, 1):
            raise UserError(
                f"data.fold is {self.fold}, expected 0 to {max(self.folds, 1) - 1} where data.folds is "
                f"{self.folds}"
            )
        if self.train_per_class and self.train_fraction < 1:
            raise UserError("data.train_per_class and data.train_fraction are both set, expected one of them")


def no_such_part(config: Any) -> None:
    """Return None: in data of this kind no part is known to be without labels."""
    del config


class SourceKind(NamedTuple):
    """One kind of source: its settings and `open(config, labels)` → `{"train": …[, "val": …][, "test": …]}`.

    Where `labels.names` is fixed, data without a training split opens too (evaluation needs none). `holds` is
    what all its examples are (`Info.holds`), "" where only what is opened says it. `unlabelled(config)` →
    the part of its data that is there to be learned from without labels, None where it has no such part.
    """

    Config: type
    open: Callable[[Any, Labels], dict[str, Source]]
    holds: str = ""
    unlabelled: Callable[[Any], Source | None] = no_such_part


# What to do where an example turns out to be unreadable that was not looked at before.
CURE = (
    "; mend or remove it and repeat the command, or set data.max_unreadable=1 or more: then all examples are "
    "read before, and those that cannot be are skipped"
)


class Example(NamedTuple):
    """An example that was read: its inputs, its label (None: it has none), and its index as its id."""

    inputs: Inputs
    label: Any
    id: int


def read(
    source: Source,
    index: int,
    transform: Transform,
    rng: np.random.Generator | None = None,
    *,
    cure: str = CURE,
) -> Example:
    """Read and transform an example.

    Raises:
        Unreadable: it cannot be read; the message names it, and ends in the cure.
    """
    try:
        found = source[index]
        inputs = transform(found["raw"], rng)
    except Unreadable as error:
        raise Unreadable(f"cannot read {source.describe(index)}: {error}{cure}") from error
    return Example(_turned(inputs, found[TURNS]) if TURNS in found else inputs, found["label"], index)


def _turned(inputs: Inputs, turns: int) -> Inputs:
    """Return the pixels of a picture [height, width, channels] turned by so many quarters."""
    assert isinstance(inputs, np.ndarray), "pictures are turned"
    return np.ascontiguousarray(np.rot90(inputs, turns))
