"""Classes multiplied: every picture turned by quarters, as an example of three classes more.

The customary augmentation of drawn characters (Santoro et al. 2016), and of whatever is another thing when it
lies on its side: four times the classes to tell apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import IMAGE, TURNS, Config, Info, Source
from jtl.errors import UserError

QUARTERS = 4
DEGREES = 90


@dataclass(frozen=True, eq=False)
class Rotated:
    """Source of the pictures of another, then of all of them turned by 90°, by 180° and by 270°.

    Class `c` of `n` turned by `q` quarters, counter-clockwise, is class `c + q * n`.
    """

    source: Source

    @property
    def info(self) -> Info:
        """Its name and its classes."""
        info = self.source.info
        names = multiplied(info.label_names)
        note = (
            f"data.rotated_classes: each picture also turned by 90, 180 and 270 degrees, as another class: "
            f"{len(self):,} pictures of {len(names):,} classes"
        )
        return info._replace(label_names=names, notes=(*info.notes, note))

    def __len__(self) -> int:
        return QUARTERS * len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        quarters, row = divmod(index, len(self.source))
        found = self.source[row]
        label = found["label"] + quarters * self._num_classes()
        return {**found, "label": label, "id": index, TURNS: quarters}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        labels = self.source.labels()
        assert labels is not None, "classes are multiplied"
        return np.concatenate([labels + quarters * self._num_classes() for quarters in range(QUARTERS)])

    def describe(self, index: int) -> str:
        """Name the example as the source does."""
        quarters, row = divmod(index, len(self.source))
        turned = f", turned by {quarters * DEGREES} degrees" if quarters else ""
        return f"{self.source.describe(row)}{turned}"

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes, and another for each way they are turned."""
        quarters, row = divmod(index, len(self.source))
        found = self.source.fingerprint(row, raw)
        return found + bytes([quarters]) if quarters else found

    def _num_classes(self) -> int:
        return len(self.info.label_names) // QUARTERS


def rotated(source: Source) -> Rotated:
    """Return the source with its classes multiplied.

    Raises:
        UserError: it holds no pictures, or has not one class an example.
    """
    info, labels = source.info, source.labels()
    if info.holds != IMAGE:
        raise UserError(
            f"data.rotated_classes turns pictures, and {info.name} holds {info.holds}s; set it to false"
        )
    if labels is None or labels.ndim != 1 or not info.label_names:
        raise UserError(
            f"data.rotated_classes makes more classes, and the examples of {info.name} have not one class "
            f"each; set it to false"
        )
    return Rotated(source)


def check(config: Config, spec: Any) -> None:
    """Check that a model whose examples are of this spec reads a turned picture as well.

    Raises:
        UserError: it reads no squares.
    """
    if config.rotated_classes and spec.shape[0] != spec.shape[1]:
        raise UserError(
            f"data.rotated_classes turns pictures by a quarter, and the model reads {spec.shape[1]} x "
            f"{spec.shape[0]} pixels; expected a square: set model.image_px, or data.rotated_classes=false"
        )


def multiplied(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the classes and of all of them turned; those of a run have them already.

    >>> multiplied(("a", "b"))
    ('a', 'b', 'a@90', 'b@90', 'a@180', 'b@180', 'a@270', 'b@270')
    >>> multiplied(multiplied(("a", "b"))) == multiplied(("a", "b"))
    True
    """
    own = names[: len(names) // QUARTERS]
    return names if names and names == _turned(own) else _turned(names)


def _turned(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"{name}@{quarters * DEGREES}" if quarters else name for quarters in range(QUARTERS) for name in names
    )
