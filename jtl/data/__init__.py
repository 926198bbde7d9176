"""Data: the contract every source keeps, and the explicit dict of sources (one file each in `sources/`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


class Info(NamedTuple):
    """What a source says of itself. `label_names` is empty for regression; `name` is for messages."""

    name: str
    label_names: tuple[str, ...]


class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` gives `{"image": uint8 [height, width, channels], "label": int, multi-hot or float32 vector, "id": int}`
    (`id` is the position in the source), decoding on access; `labels()` gives all labels without decoding; `describe(i)`
    names example i for people (its path). Sources are picklable, so that worker processes can open them.
    """

    @property
    def info(self) -> Info: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def labels(self) -> np.ndarray: ...
    def describe(self, index: int) -> str: ...


class Labels(NamedTuple):
    """How to read labels: `kind` is the task's ("class", "multilabel", "regression").

    `names` are the classes in order where they are already fixed (evaluation of a run); None: found in the data.
    """

    kind: str = "class"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Config:
    """Settings every kind of source shares; a kind adds its own by extending this.

    `val_fraction` is split off the training examples where the data has no validation split of its own (0: no split).
    `max_unreadable` is how many unreadable examples may be skipped (each is named); one more is an error.
    `train_per_class` keeps that many training examples a class (0: all); `train_fraction` that part of them,
    stratified. Both are deterministic and leave the other splits alone.
    """

    name: str = "image_folder"
    path: str = ""
    val_fraction: float = 0.2
    max_unreadable: int = 0
    train_per_class: int = 0
    train_fraction: float = 1.0


class SourceKind(NamedTuple):
    """One kind of source: its settings and `open(config, labels)` → `{"train": …[, "val": …][, "test": …]}`."""

    Config: type
    open: Callable[[Any, Labels], dict[str, Source]]
