"""Examples of a source as the model reads them, in memory, by their rows; and those of an episode alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl import memory
from jtl.data import Info, Source
from jtl.errors import UserError
from jtl.inputs.contract import leaves_of, map_leaves
from jtl.predictor import Predictor, batches

BATCH_SIZE = 32
# From rows to their inputs.
Rows = Callable[[np.ndarray], Any]


@dataclass(frozen=True, eq=False)
class Few:
    """Source of the labelled examples of an episode: rows of another, whose classes are numbered anew."""

    source: Source
    rows: np.ndarray
    values: np.ndarray
    label_names: tuple[str, ...]

    @property
    def info(self) -> Info:
        """Its name and its classes."""
        return self.source.info._replace(label_names=self.label_names, notes=())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {**self.source[int(self.rows[index])], "label": self.values[index], "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name the example as the source does."""
        return self.source.describe(int(self.rows[index]))

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        return self.source.fingerprint(int(self.rows[index]), raw)


def rows_of(opened: Predictor, source: Source) -> Rows:
    """Return a function from rows to their inputs, all of which are read now.

    Raises:
        UserError: they are not of one shape, or do not fit in memory.
    """
    found: list[Any] = []
    for batch in batches(opened, source, BATCH_SIZE):
        found.append(map_leaves(lambda leaf, mask=batch["mask"]: leaf[mask], batch["inputs"]))
        if len(found) == 1:
            num_bytes = sum(leaf.nbytes for leaf in leaves_of(batch["inputs"]))
            what = f"{len(source):,} {opened.input.unit}, as the model reads them,"
            memory.check(
                num_bytes * len(source) // BATCH_SIZE, what.removesuffix(","), "give fewer, or --split"
            )
    shapes = {tuple(leaf.shape[1:] for leaf in leaves_of(each)) for each in found}
    if len(shapes) > 1:
        raise UserError(
            f"batches of these {opened.input.unit} are of {len(shapes)} lengths, and learning an episode "
            f"needs one; set one bucket, such as --config.inputs.buckets=(128,)"
        )
    whole = map_leaves(lambda *parts: np.concatenate(parts), *found)
    return lambda rows: map_leaves(lambda leaf: leaf[rows], whole)
