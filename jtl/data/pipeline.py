"""Source → batches. The plan is pure: batch `step` depends on (seed, step) alone, however it is read.

Position p of training is example `order[p]` (by default a fresh permutation every epoch; sampling.py has
others), varied with a generator keyed by (seed, p), or where views are fixed, by (seed, view, example); batch
`step` is positions `step * batch_size` onward, running across the ends of epochs. Grain supplies the
permutation, threads and worker processes; each batch is built whole by one thread, so none changes a bit.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np

from jtl.data import ahead
from jtl.data.contract import CURE, Example, Source, read
from jtl.data.sampling import UNIFORM, Order, order_of
from jtl.errors import UserError, nearest, shown
from jtl.inputs import Input, Inputs, Transform, Unreadable
from jtl.inputs.contract import leaves_of, map_leaves
from jtl.ranges import Range, Share, Width, check

Batch = dict[str, Any]

PADDING_ID = -1
AUTO, STREAM, CACHE, DEVICE = "auto", "stream", "cache", "device"
ROUTES = (AUTO, STREAM, CACHE, DEVICE)


@dataclass(frozen=True)
class Config:
    """How batches are read; no value here but `buckets` changes their content.

    `threads` decode in parallel (0: one a core) in each of `workers` processes (0: in this one); `prefetch`
    batches are kept ready, and at least one a thread, but no more than fit in `prefetch_bytes`, all processes
    together (one in each always). Evaluation inputs of a split that is read again and again are transformed
    once and kept if they fit in `cache_bytes`. What frozen layers give (`train.cache_features`) takes at most
    `features_bytes` of the user's cache folder, that of all runs together. Where examples differ in length, a
    batch is padded to the smallest of `buckets` that holds them all, so that few shapes, and few programs,
    come about.

    `route` is how training reads its examples: "stream" (from their files, every time), "cache" (read once,
    and kept in the user's cache folder, of which `store_bytes` are the most), "device" (read once and varied
    on the devices, of whose memory `device_share` is the most), or "auto": what pays and fits.
    """

    route: str = AUTO
    threads: Annotated[int, Range(0, 1024)] = 0
    workers: Annotated[int, Range(0, 1024)] = 0
    prefetch: Annotated[int, Range(1, 1024)] = 4
    prefetch_bytes: Annotated[int, Range(0, 2**62)] = 2 << 30
    cache_bytes: Annotated[int, Range(0, 2**62)] = 1 << 30
    store_bytes: Annotated[int, Range(0, 2**62)] = 16 << 30
    device_share: Share = 0.5
    features_bytes: Annotated[int, Range(0, 2**62)] = 16 << 30
    buckets: tuple[Width, ...] = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)

    def __post_init__(self) -> None:
        check(self, "inputs")
        if self.route not in ROUTES:
            raise UserError(
                f"inputs.route {shown(self.route)} is unknown; nearest: {nearest(self.route, ROUTES)}"
            )
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)):
            raise UserError(f"inputs.buckets is {shown(self.buckets)}, expected lengths from short to long")


def train_batches(
    source: Source,
    transform: Transform,
    kind: Input,
    *,
    preprocess: Any = None,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sampling: str = UNIFORM,
    num_views: int = 0,
    varied_by: int | None = None,
    config: Config,
    shard_index: int = 0,
    num_shards: int = 1,
) -> Generator[Batch, None, None]:
    """Yield the endless training batches from `start_step` on; close the iterator to release its threads.

    A batch is `{"inputs": tree of [rows, …], "label": rows of source.labels(), "id": int64 [rows], "mask":
    bool [rows]}`, all true, without "label" where there are none. `preprocess` is what the kind collates by
    (None: it needs none). With `num_views` (0: a new one each time) an example is varied in that many ways,
    in turn. `varied_by` is the seed that this is drawn by (None: `seed`, which decides the order). Shard
    `shard_index` of `num_shards` gets its rows of every batch, in order.
    """
    order, key = plan(source, sampling, seed)
    key = key if varied_by is None else variation_key(varied_by)
    batches = _TrainBatches(
        source=source,
        transform=transform,
        collate=partial(kind.collate, buckets=_buckets(config, num_shards), preprocess=preprocess),
        order=order,
        key=key,
        num_views=num_views,
        first_row=start_step * batch_size + first_row(batch_size, shard_index, num_shards),
        stride=batch_size,
        rows=batch_size // num_shards,
    )
    return ahead.read(batches, config, _num_bytes(kind, preprocess, batches.rows))


def eval_batches(
    source: Source,
    transform: Transform,
    kind: Input,
    *,
    preprocess: Any = None,
    batch_size: int,
    config: Config,
    blank: Inputs | None = None,
    is_read_again: bool = False,
    shard_index: int = 0,
    num_shards: int = 1,
) -> "EvalBatches":
    """Return the batches of one pass over the source in order, each example once, as often as it is iterated.

    Arguments and batches are as in training; rows past the end are zeros with mask False and id -1. With
    `blank`, the inputs of some example, those stand in for an example that cannot be read, and every batch
    has "fault": why, by row ("" where it was read). With `is_read_again`, what a later pass can use is kept
    (see `EvalBatches`).
    """
    rows = batch_size // num_shards
    first = first_row(batch_size, shard_index, num_shards)
    collate = partial(kind.collate, buckets=_buckets(config, num_shards), preprocess=preprocess)
    batches = _EvalBatches(source, transform, collate, batch_size, first, rows, blank)
    num_bytes = _num_bytes(kind, preprocess, rows)
    return EvalBatches(batches, config, num_bytes=num_bytes, is_read_again=is_read_again)


class EvalBatches:
    """The evaluation batches of one split; iterating again gives the same ones.

    Of a split that is read again the first whole pass keeps the batches, where they fit in `cache_bytes`;
    where they do not, worker processes stay for the next pass, as starting them takes seconds.
    """

    def __init__(
        self, batches: "_EvalBatches", config: Config, *, num_bytes: int, is_read_again: bool
    ) -> None:
        self._batches, self._config, self._num_bytes = batches, config, num_bytes
        self._is_read_again = is_read_again
        self._kept: list[Batch] = []
        self._reader: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if len(self._kept) == len(self):
            yield from self._kept
            return
        reader, self._reader = self._reader or self._opened(), None
        kept: list[Batch] = []
        is_whole = False
        try:
            for batch in itertools.islice(reader, len(self)):
                if self._is_read_again and self._fits(batch):
                    kept.append(batch)
                yield batch
            is_whole = True
        finally:
            # Only a pass that came to its end leaves anything.
            if is_whole:
                self._kept = kept
            if is_whole and self._keeps_workers() and len(kept) < len(self) and self._reader is None:
                self._reader = reader
            else:
                reader.close()

    def close(self) -> None:
        """End the processes that wait for another pass, and forget what was kept."""
        self._kept = []
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _opened(self) -> Generator[Batch, None, None]:
        batches = _Repeated(self._batches) if self._keeps_workers() else self._batches
        return ahead.read(batches, self._config, self._num_bytes)

    def _keeps_workers(self) -> bool:
        return self._is_read_again and self._config.workers > 0

    def _fits(self, batch: Batch) -> bool:
        return sum(array.nbytes for array in leaves_of(batch)) * len(self) <= self._config.cache_bytes


def plan(source: Source, sampling: str, seed: int) -> tuple[Order, int]:
    """Return which example stands at each position of training, and the key that variation is drawn by."""
    words = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    return order_of(source, sampling, int(words[0] >> np.uint64(32))), variation_key(seed)


def variation_key(seed: int) -> int:
    """Return the key that the variation of examples is drawn by."""
    return int(np.random.SeedSequence(seed).generate_state(2, np.uint64)[1])


def view_batches(
    source: Source,
    transform: Transform,
    kind: Input,
    *,
    preprocess: Any = None,
    view: int,
    key: int,
    batch_size: int,
    config: Config,
) -> Iterator[Batch]:
    """Yield one view of every training example, in order, in batches as evaluation has them.

    `transform` is that of training, `key` what `plan` says; it is the view that `train_batches` shows of
    an example where the number of views is fixed.
    """
    collate = partial(kind.collate, buckets=config.buckets, preprocess=preprocess)
    batches = _EvalBatches(source, transform, collate, batch_size, 0, batch_size, None, (key, view))
    yield from EvalBatches(
        batches, config, num_bytes=_num_bytes(kind, preprocess, batch_size), is_read_again=False
    )


def view_of(position: int, num_examples: int, num_views: int) -> int:
    """Return which of its views an example shows at a position of training: each pass has the next one."""
    return position // num_examples % num_views


@dataclass(frozen=True)
class _TrainBatches:
    """Random access to training batches: [i] is step `start_step + i`."""

    source: Source
    transform: Transform
    collate: Callable[[list[Inputs]], Inputs]
    order: Order
    key: int
    first_row: int
    stride: int
    rows: int
    num_views: int = 0

    def __len__(self) -> int:
        return (2**62 - self.first_row) // self.stride

    def __getitem__(self, index: int) -> Batch:
        examples = []
        start = self.first_row + index * self.stride
        for position in range(start, start + self.rows):
            row, count = self.order[position], len(self.source)
            view = view_of(position, count, self.num_views) * count + row if self.num_views else position
            examples.append(read(self.source, row, self.transform, _generator(self.key, view)))
        return _batch(examples, self.collate, self.rows)


@dataclass(frozen=True)
class _EvalBatches:
    """Random access to evaluation batches: the rows `first_row` on of each batch of `stride`."""

    source: Source
    transform: Transform
    collate: Callable[[list[Inputs]], Inputs]
    stride: int
    first_row: int
    rows: int
    blank: Inputs | None
    # The key and the number of a view of training, None: as in evaluation.
    view: tuple[int, int] | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.stride)

    def __getitem__(self, index: int) -> Batch:
        start = self.first_row + index * self.stride
        rows = range(start, min(start + self.rows, len(self.source)))
        # Where this shard's rows are all past the end, one example gives the shapes.
        examples, faults = zip(*(self._read(row) for row in rows or (0,)), strict=True)
        batch = _batch(examples, self.collate, self.rows, num_real=len(rows))
        if self.blank is None:
            return batch
        return {**batch, "fault": np.array([*faults, *[""] * (self.rows - len(faults))])}

    def _read(self, row: int) -> tuple[Example, str]:
        try:
            rng = None
            if self.view is not None:
                key, view = self.view
                rng = _generator(key, view * len(self.source) + row)
            return read(self.source, row, self.transform, rng, cure=CURE if self.blank is None else ""), ""
        except Unreadable as error:
            if self.blank is None:
                raise
            return Example(self.blank, None, row), str(error)


@dataclass(frozen=True)
class _Repeated:
    """The batches of pass after pass."""

    batches: _EvalBatches

    def __len__(self) -> int:
        return 2**62 // len(self.batches) * len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index % len(self.batches)]


def _generator(key: int, number: int) -> np.random.Generator:
    """Return the generator of a position, or of a view.

    Philox is keyed, not seeded: streams of different numbers never overlap, and making one costs 10 µs.
    """
    return np.random.Generator(np.random.Philox(key=np.array([key, number], np.uint64)))


def _batch(
    examples: Sequence[Example],
    collate: Callable[[list[Inputs]], Inputs],
    rows: int,
    num_real: int | None = None,
) -> Batch:
    """Put examples together and pad them with zeros to `rows`; only the first `num_real` count."""
    num_real = len(examples) if num_real is None else num_real
    inputs = collate([each.inputs for each in examples])
    batch = {
        "inputs": map_leaves(lambda leaf: padded(leaf[:num_real], rows), inputs),
        "id": np.full(rows, PADDING_ID, np.int64),
        "mask": np.arange(rows) < num_real,
    }
    batch["id"][:num_real] = [each.id for each in examples[:num_real]]
    if examples[0].label is not None:
        batch["label"] = padded(np.stack([each.label for each in examples])[:num_real], rows)
    return batch


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """Return the rows and as many of zeros behind them as are missing."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def first_row(batch_size: int, shard_index: int, num_shards: int) -> int:
    """Return the first row of a batch that is a shard's.

    Raises:
        UserError: the shards cannot share a batch evenly.
    """
    if batch_size < 1 or batch_size % num_shards:
        raise UserError(
            f"batch size is {batch_size}, expected a positive multiple of {num_shards} (the processes)"
        )
    assert 0 <= shard_index < num_shards
    return shard_index * (batch_size // num_shards)


def _buckets(config: Config, num_shards: int) -> tuple[int, ...]:
    """Return the lengths to pad to; a shard, which knows not how long the others' examples are, has none."""
    return config.buckets if num_shards == 1 else ()


def _num_bytes(kind: Input, preprocess: Any, rows: int) -> int:
    """Return what a batch's inputs take, as the kind's spec has them; 0 where there is none to ask."""
    if preprocess is None:
        return 0
    leaves = leaves_of(kind.spec(preprocess))
    return rows * sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
