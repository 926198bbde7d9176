"""Batches that are read ahead, in threads or in processes of Grain, which change no bit of them."""

import os
from collections.abc import Generator
from functools import partial
from typing import Any

from jtl.data import workers
from jtl.data.workers import num_cores
from jtl.errors import UserError

Batch = dict[str, Any]


def in_turn(batches: Any) -> Generator[Batch, None, None]:
    """Yield `batches[0], batches[1], …`, each made when it is asked for."""
    for index in range(len(batches)):
        yield batches[index]


def read(batches: Any, config: Any, num_bytes: int = 0) -> Generator[Batch, None, None]:
    """Yield `batches[0], batches[1], …`, of so many bytes (0: few), read ahead in threads or processes."""
    from grain import MapDataset, MultiprocessingOptions, ReadOptions

    threads, buffered = room(config, num_bytes)
    options = ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
    dataset = MapDataset.source(batches).to_iter_dataset(options)
    if config.workers:
        workers.mark_flags_as_parsed()
        workers.keep_tracker_quiet()
        options = MultiprocessingOptions(num_workers=config.workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(workers.end_with_parent, os.getpid()))
    iterator = iter(dataset)
    try:
        if config.workers:
            yield from workers.first_of_workers(iterator)
        yield from iterator
    except RuntimeError as error:
        found = workers.DEAD_WORKER.search(str(error))
        if found is None:
            raise
        raise UserError(workers.dead_worker(int(found.group(1)), config.workers)) from error
    finally:
        workers.close(iterator)


def room(config: Any, num_bytes: int) -> tuple[int, int]:
    """Return threads and batches read ahead, of so many bytes, in each process."""
    threads = config.threads or num_cores()
    buffered = max(config.prefetch, threads)
    if num_bytes:
        buffered = min(buffered, config.prefetch_bytes // (num_bytes * max(1, config.workers)))
    return min(threads, max(1, buffered)), max(1, buffered)
