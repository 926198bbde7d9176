"""Source → batches. The plan is pure: batch `step` depends on (seed, step) alone, however it is read.

Position p of training is example `order[p]` (by default a fresh permutation every epoch; sampling.py has
others), varied with a generator keyed by (seed, p); batch `step` is positions `step * batch_size` onward,
running across the ends of epochs. Grain supplies the permutation, threads and worker processes; each batch is
built whole by one thread, so none of them changes a bit.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jtl.data.contract import Source
from jtl.data.sampling import UNIFORM, Order, order_of
from jtl.errors import UserError

Batch = dict[str, np.ndarray]

PADDING_ID = -1
PARENT_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class Config:
    """How batches are read; no value here changes their content.

    `threads` decode in parallel (0: one a core) in each of `workers` processes (0: in this one); `prefetch`
    batches are kept ready, and at least one a thread. Evaluation inputs of a split that fit in `cache_bytes`
    are transformed once and kept.
    """

    threads: int = 0
    workers: int = 0
    prefetch: int = 4
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name, low in (("threads", 0), ("workers", 0), ("prefetch", 1), ("cache_bytes", 0)):
            if getattr(self, name) < low:
                raise UserError(f"input.{name} is {getattr(self, name)}, expected {low} or more")


def train_batches(
    source: Source,
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sampling: str = UNIFORM,
    config: Config,
    shard_index: int = 0,
    num_shards: int = 1,
) -> Generator[Batch, None, None]:
    """Yield the endless training batches from `start_step` on; close the iterator to release its threads.

    A batch is `{"image": uint8 [rows, height, width, channels], "label": rows of source.labels(), "id": int64
    [rows], "mask": bool [rows]}`, all true. Shard `shard_index` of `num_shards` gets its rows of every batch,
    in order.
    """
    words = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    batches = _TrainBatches(
        source=source.reduced(getattr(transform, "min_px", 0)),
        transform=transform,
        order=order_of(source, sampling, int(words[0] >> np.uint64(32))),
        key=int(words[1]),
        first_row=start_step * batch_size + _first_row(batch_size, shard_index, num_shards),
        stride=batch_size,
        rows=batch_size // num_shards,
    )
    return _read(batches, config)


def eval_batches(
    source: Source,
    transform: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int,
    config: Config,
    shard_index: int = 0,
    num_shards: int = 1,
) -> "EvalBatches":
    """Return the batches of one pass over the source in order, each example once, as often as it is iterated.

    Batches are as in training; rows past the end are zeros with mask False and id -1.
    """
    _first_row(batch_size, shard_index, num_shards)
    return EvalBatches(source, transform, batch_size, config, shard_index, num_shards)


class EvalBatches:
    """The evaluation batches of one split; iterating again gives the same ones, from memory if they fit."""

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray], np.ndarray],
        batch_size: int,
        config: Config,
        shard_index: int,
        num_shards: int,
    ) -> None:
        rows = batch_size // num_shards
        self._batches = _EvalBatches(source, transform, batch_size, shard_index * rows, rows)
        self._config = config
        self._kept: list[Batch] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if len(self._kept) == len(self):
            yield from self._kept
            return
        kept: list[Batch] = []
        for batch in _read(self._batches, self._config):
            if sum(array.nbytes for array in batch.values()) * len(self) <= self._config.cache_bytes:
                kept.append(batch)
            yield batch
        self._kept = kept  # only a pass that came to its end gets here


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _TrainBatches:
    """Random access to training batches: [i] is step `start_step + i`."""

    source: Source
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    order: Order
    key: int
    first_row: int
    stride: int
    rows: int

    def __len__(self) -> int:
        return (2**62 - self.first_row) // self.stride

    def __getitem__(self, index: int) -> Batch:
        examples = []
        start = self.first_row + index * self.stride
        for position in range(start, start + self.rows):
            example = self.source[self.order[position]]
            # Philox is keyed, not seeded: streams of different positions never overlap, and making one costs
            # 10 µs.
            rng = np.random.Generator(np.random.Philox(key=np.array([self.key, position], np.uint64)))
            examples.append((self.transform(example["image"], rng), example["label"], example["id"]))
        return _stack(examples, self.rows)


@dataclass(frozen=True)
class _EvalBatches:
    """Random access to evaluation batches: the rows `first_row` on of each batch of `stride`."""

    source: Source
    transform: Callable[[np.ndarray], np.ndarray]
    stride: int
    first_row: int
    rows: int

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.stride)

    def __getitem__(self, index: int) -> Batch:
        examples = []
        start = self.first_row + index * self.stride
        for row in range(start, min(start + self.rows, len(self.source))):
            example = self.source[row]
            examples.append((self.transform(example["image"]), example["label"], example["id"]))
        if not examples:  # this shard's rows are all past the end; one example gives the shapes
            first = self.source[0]
            examples = [(self.transform(first["image"]), first["label"], first["id"])]
            return _stack(examples, self.rows, num_real=0)
        return _stack(examples, self.rows)


def _stack(examples: list[tuple[np.ndarray, Any, int]], rows: int, num_real: int | None = None) -> Batch:
    """Stack examples and pad with zeros to `rows`."""
    num_real = len(examples) if num_real is None else num_real
    images, labels, ids = zip(*examples, strict=True)
    batch = {
        "image": _padded(np.stack(images)[:num_real], rows),
        "label": _padded(np.stack(labels)[:num_real], rows),
        "id": np.full(rows, PADDING_ID, np.int64),
        "mask": np.arange(rows) < num_real,
    }
    batch["id"][:num_real] = ids[:num_real]
    return batch


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def _first_row(batch_size: int, shard_index: int, num_shards: int) -> int:
    if batch_size < 1 or batch_size % num_shards:
        raise UserError(
            f"batch size is {batch_size}, expected a positive multiple of {num_shards} (the processes)"
        )
    assert 0 <= shard_index < num_shards
    return shard_index * (batch_size // num_shards)


def _read(batches: Any, config: Config) -> Generator[Batch, None, None]:
    """Yield `batches[0], batches[1], …`, read ahead in threads or worker processes."""
    from grain import MapDataset, MultiprocessingOptions, ReadOptions

    threads = config.threads or num_cores()
    options = ReadOptions(num_threads=threads, prefetch_buffer_size=max(config.prefetch, threads))
    dataset = MapDataset.source(batches).to_iter_dataset(options)
    if config.workers:
        _mark_flags_as_parsed()
        options = MultiprocessingOptions(num_workers=config.workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(_end_with_parent, os.getpid()))
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _end_with_parent(parent: int, worker: int, num_workers: int) -> None:
    """Watch the training process from inside a worker: one that was killed cannot stop its workers itself."""
    del worker, num_workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _mark_flags_as_parsed() -> None:
    """Let Grain read its command-line flags where no absl main has parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
