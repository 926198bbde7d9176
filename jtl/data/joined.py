"""Several sources one behind the other: the shards of a split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jtl.data.contract import Info, Source


@dataclass(frozen=True, eq=False)
class Joined:
    """Source of the examples of all `parts`, which end at `ends`."""

    info: Info
    parts: tuple[Source, ...]
    ends: np.ndarray
    values: np.ndarray | None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        part, place = self._at(index)
        return {**part[place], "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name the example as its part does."""
        part, place = self._at(index)
        return part.describe(place)

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        part, place = self._at(index)
        return part.fingerprint(place, raw)

    def _at(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[number], index - (int(self.ends[number - 1]) if number else 0)


def joined(parts: Sequence[Any], info: Info) -> Source:
    """Return one source of all parts, which have the same classes; a part alone is that, under this info."""
    if len(parts) == 1:
        return replace(parts[0], info=info)
    labels = [part.labels() for part in parts]
    found = [each for each in labels if each is not None]
    values = np.concatenate(found) if len(found) == len(parts) else None
    return Joined(info, tuple(parts), np.cumsum([len(part) for part in parts]), values)
