"""Data: the contract every source keeps, and the explicit dict of sources (one file each in `sources/`)."""

from collections.abc import Callable
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


class SourceKind(NamedTuple):
    """One kind of source: its settings and how to open them as `{"train": …, "val": …[, "test": …]}`."""

    Config: type
    open: Callable[[Any], dict[str, Source]]
