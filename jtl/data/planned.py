"""The plan of training batches alone: which examples, and at which positions, but nothing of what is in them.

For examples that lie on the devices already; the order, the labels and the positions are those of `pipeline`.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from jtl.data import ahead, pipeline
from jtl.data.contract import Source
from jtl.data.pipeline import Batch, Config
from jtl.data.sampling import UNIFORM, Order

LOWER_HALF = 0xFFFFFFFF


def planned_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sampling: str = UNIFORM,
    num_views: int = 0,
    config: Config,
    shard_index: int = 0,
    num_shards: int = 1,
) -> Generator[Batch, None, None]:
    """Yield what `pipeline.train_batches` does, but for the inputs, of which only the plan is there.

    They are {"row": int32 [rows], "position": uint32 [rows, 2]}: the example, and what its variation is drawn
    by, its position in training or the number of its view, the upper half of 64 bits first.
    """
    batches = _Planned(
        order=pipeline.plan(source, sampling, seed)[0],
        num_examples=len(source),
        num_views=num_views,
        labels=source.labels(),
        first_row=start_step * batch_size + pipeline.first_row(batch_size, shard_index, num_shards),
        stride=batch_size,
        rows=batch_size // num_shards,
    )
    # Nothing is read or decoded: a thread for it would cost more than it does.
    del config
    return ahead.in_turn(batches)


@dataclass(frozen=True)
class _Planned:
    order: Order
    num_examples: int
    num_views: int
    labels: np.ndarray | None
    first_row: int
    stride: int
    rows: int

    def __len__(self) -> int:
        return (2**62 - self.first_row) // self.stride

    def __getitem__(self, index: int) -> Batch:
        start = self.first_row + index * self.stride
        positions = range(start, start + self.rows)
        rows = np.array([self.order[position] for position in positions], np.int64)
        drawn = [self._drawn_by(*each) for each in zip(positions, rows.tolist(), strict=True)]
        halves = [(each >> 32, each & LOWER_HALF) for each in drawn]
        inputs = {"row": rows.astype(np.int32), "position": np.array(halves, np.uint32)}
        batch = {"inputs": inputs, "id": rows, "mask": np.ones(self.rows, bool)}
        return batch if self.labels is None else {**batch, "label": self.labels[rows]}

    def _drawn_by(self, position: int, row: int) -> int:
        if not self.num_views:
            return position
        return pipeline.view_of(position, self.num_examples, self.num_views) * self.num_examples + row
