"""Items of many requests, answered in batches: read side by side in threads, computed one batch at a time.

A batch is begun when the model is free and either as many items wait as it can hold, or the oldest has waited
as long as it may, or no other item is on its way. All of this runs in the event loop but for the reading and
the computing, which have threads of their own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from jtl.data.workers import num_cores
from jtl.inputs import Inputs
from jtl.serve.refusal import busy

Found = TypeVar("Found")


class Waiting(NamedTuple):
    """An item that was read, since when it waits, and where its answer goes."""

    inputs: Inputs
    since: float
    answer: "asyncio.Future[np.ndarray]"


class Batcher:
    """Answers items in batches while `work` runs; `close` ends its threads.

    `compute(inputs of examples)` → what is said of each; `choose(waiting)` → how many the next batch takes
    at most. `seen(items, seconds)` is called of every batch. At most `max_items` are held, being read or
    waiting.
    """

    def __init__(
        self,
        compute: Callable[[list[Inputs]], np.ndarray],
        choose: Callable[[int], int],
        *,
        max_batch: int,
        max_wait_seconds: float,
        max_items: int,
        seen: Callable[[int, float], object],
    ) -> None:
        self._compute, self._choose, self._seen = compute, choose, seen
        self._max_batch, self._max_wait, self._max_items = max_batch, max_wait_seconds, max_items
        self._waiting: deque[Waiting] = deque()
        self._coming, self._held = 0, 0
        self._changed = asyncio.Event()
        self._readers = ThreadPoolExecutor(num_cores(), "read")
        self._model = ThreadPoolExecutor(1, "model")

    @property
    def num_held(self) -> int:
        """How many items are being read, wait, or are computed."""
        return self._held

    def admit(self, num_items: int) -> None:
        """Make room for so many items; `done` gives it back.

        Raises:
            Refused: there is none.
        """
        if self._held + num_items > self._max_items:
            raise busy(f"{self._held} items wait for the model, and {num_items} more are over the limit")
        self._held += num_items
        self._coming += num_items

    def done(self, num_items: int) -> None:
        """Give back the room of so many items."""
        self._held -= num_items

    async def read(self, call: Callable[[], Found]) -> Found:
        """Return `call()`, made in a thread that reads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def in_model(self, call: Callable[[], Found]) -> Found:
        """Return `call()`, made in the thread of the model, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._model, call)

    def arrived(self) -> None:
        """Note that an admitted item does not come any more: it has come, or cannot be read."""
        self._coming -= 1
        self._changed.set()

    def answered(self, inputs: Inputs) -> "Awaitable[np.ndarray]":
        """Return what will be said of an example that was read."""
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(inputs, time.monotonic(), answer))
        self._changed.set()
        return answer

    async def work(self) -> None:
        """Answer batch after batch, until cancelled."""
        while True:
            await self._until_due()
            size = min(self._choose(len(self._waiting)), self._max_batch)
            # Nobody waits for an answer whose client has gone.
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            batch = [each for each in batch if not each.answer.done()]
            if batch:
                await self._answer(batch)

    def close(self) -> None:
        """End the threads, without waiting for what they are at, such as a compiler."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._model.shutdown(wait=False, cancel_futures=True)

    async def _until_due(self) -> None:
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        due = self._waiting[0].since + self._max_wait
        while len(self._waiting) < self._max_batch and self._coming:
            left = due - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    async def _answer(self, batch: list[Waiting]) -> None:
        begin = time.perf_counter()
        try:
            found = await self.in_model(lambda: self._compute([each.inputs for each in batch]))
        except Exception as error:  # each request that waits for it says so; the next batch is another
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        self._seen(len(batch), time.perf_counter() - begin)
        for each, values in zip(batch, found, strict=True):
            if not each.answer.done():
                each.answer.set_result(values)
