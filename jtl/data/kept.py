"""Batches of what was made of the examples before: rows of arrays, in the order that the examples have.

They are the batches that `pipeline` makes of the examples themselves, step for step, but for their inputs.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data import ahead, pipeline
from jtl.data.contract import Source
from jtl.data.pipeline import PADDING_ID, Batch, Config, padded, view_of
from jtl.data.sampling import UNIFORM, Order

# A batch that is copied in less time than a thread takes to hand it over.
SMALL_BYTES = 1 << 20
# By name, [rows, …].
Arrays = Mapping[str, np.ndarray]


def train_batches(
    arrays: Arrays,
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    sampling: str = UNIFORM,
    num_views: int,
    config: Config,
) -> Generator[Batch, None, None]:
    """Yield the endless training batches from `start_step` on, of the examples of a source.

    Row `v * len(source) + i` is of view v of example i; other arguments are as in `pipeline.train_batches`.
    """
    order, _ = pipeline.plan(source, sampling, seed)
    batches = _TrainBatches(arrays, source.labels(), order, len(source), num_views, start_step, batch_size)
    num_bytes = batch_size * sum(array[0].nbytes for array in arrays.values())
    return ahead.in_turn(batches) if num_bytes <= SMALL_BYTES else ahead.read(batches, config, num_bytes)


class KeptEvalBatches:
    """The padded batches of one pass in order, again each time.

    `arrays` gives what they are made of, and `close` ends what it holds.
    """

    def __init__(
        self, arrays: Callable[[], Arrays], source: Source, batch_size: int, close: Callable[[], None]
    ) -> None:
        self._arrays, self._source, self._batch_size, self.close = arrays, source, batch_size, close

    def __len__(self) -> int:
        return math.ceil(len(self._source) / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        arrays, labels, count = self._arrays(), self._source.labels(), len(self._source)
        for start in range(0, count, self._batch_size):
            rows = np.arange(start, min(start + self._batch_size, count))
            yield _batch(arrays, rows, labels, rows, self._batch_size)


@dataclass(frozen=True, eq=False)
class _TrainBatches:
    """Random access to training batches: [i] is step `start_step + i`."""

    arrays: Arrays
    labels: np.ndarray | None
    order: Order
    count: int
    num_views: int
    start_step: int
    batch_size: int

    def __len__(self) -> int:
        return 2**62 // self.batch_size - self.start_step

    def __getitem__(self, index: int) -> Batch:
        start = (self.start_step + index) * self.batch_size
        positions = range(start, start + self.batch_size)
        examples = np.array([self.order[position] for position in positions], np.int64)
        views = np.array([view_of(each, self.count, self.num_views) for each in positions], np.int64)
        return _batch(self.arrays, views * self.count + examples, self.labels, examples, self.batch_size)


def _batch(
    arrays: Arrays, rows: np.ndarray, labels: np.ndarray | None, examples: np.ndarray, size: int
) -> Batch:
    """Return the batch of these examples, whose rows of the arrays are `rows`, padded with zeros."""
    batch: dict[str, Any] = {
        "inputs": {name: padded(np.asarray(array[rows]), size) for name, array in arrays.items()},
        "id": np.full(size, PADDING_ID, np.int64),
        "mask": np.arange(size) < len(rows),
    }
    batch["id"][: len(rows)] = examples
    if labels is not None:
        batch["label"] = padded(labels[examples], size)
    return batch
