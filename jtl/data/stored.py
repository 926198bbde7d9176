"""Files of examples that lie inside larger files: in a column of a table, or in an archive."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jtl.data.contract import Info
from jtl.data.files import bytes_fingerprint


@runtime_checkable
class Places(Protocol):
    """Where the bytes of examples lie; picklable."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """Return the bytes of example `index`.

        Raises:
            Unreadable: what holds them is damaged, or has none there.
        """
        ...

    def describe(self, index: int) -> str:
        """Name the place for people, in Unicode."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """Source of the bytes at `places`, a row of `values` each (None: no labels)."""

    info: Info
    places: Places
    values: np.ndarray | None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = None if self.values is None else self.values[index]
        return {"raw": self.places.read(index), "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name where the example lies."""
        return self.places.describe(index)

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes: the same as of a file of them."""
        return bytes_fingerprint(self.places.read(index) if raw is None else raw)
