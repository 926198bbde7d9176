"""A signal to any of several processes, answered by all of them at the same step.

Each step has a small program beside it: the largest of the numbers of the signals that processes have heard.
All of them read it as many steps later, so that none goes on to a program which another leaves out, and the
device waits for nothing.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl.signals import Stopped, StopRequest
from jtl.training import sharding

# Steps dispatched beyond the one that is waited for (see `loop`), and answers that are on their way.
MAX_AHEAD = 2


@runtime_checkable
class StopSource(Protocol):
    """Whether the run is asked to stop, by a signal to this process or to any."""

    @property
    def is_set(self) -> bool:
        """Whether it is."""
        ...

    @property
    def number(self) -> int:
        """The signal's number, 0 before any."""
        ...

    def check(self) -> None:
        """Raise Stopped if it is."""
        ...

    def latest(self) -> int:
        """Return the signal's number as of now, 0 before any."""
        ...

    def deferred(self) -> AbstractContextManager[None]:
        """Only note a signal inside the `with` block, where there is something to save."""
        ...

    def raising(self) -> AbstractContextManager[None]:
        """Inside of `deferred`, raise Stopped all the same: what is under way here can be done again."""
        ...


class StoppedAlone(BaseException):
    """A signal before the first step: nothing is saved, and nothing is asked of the others, which it ends."""


class Shared:
    """The request of all processes, each of which has one of its own; they ask alike, at the same steps.

    Until the first step there is nothing to save: a signal then ends its process where it stands, which ends
    the others (see `peers`).
    """

    def __init__(self, own: StopRequest, mesh: Mesh) -> None:
        self._own, self._mesh, self._number = own, mesh, 0
        self._has_begun = False
        self._pending: deque[Any] = deque()
        self._largest = jax.jit(jnp.max, out_shardings=sharding.whole(mesh))
        self._known: dict[int, jax.Array] = {}

    @property
    def is_set(self) -> bool:
        """Whether all know that the run is asked to stop."""
        return self._number != 0

    @property
    def number(self) -> int:
        """The number of a signal that all know of, 0 before any."""
        return self._number

    def check(self) -> None:
        """Raise Stopped in all processes at once, some calls after a signal came."""
        self._has_begun = True
        self._pending.append(self._largest(self._heard()))
        if len(self._pending) > MAX_AHEAD:
            self._note(self._pending.popleft())
        if self._number:
            raise Stopped(self._number)

    def latest(self) -> int:
        """Return the number of a signal that any process has heard by now; waits for all of them."""
        self._note(self._largest(self._heard()))
        return self._number

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal inside the `with` block; one before the first step is raised at its end."""
        try:
            with self._own.deferred():
                yield
        except StoppedAlone:
            raise Stopped(self._own.number) from None

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise StoppedAlone in this process before the first step, and nothing after it."""
        if self._has_begun:
            yield
            return
        try:
            with self._own.raising():
                yield
        except Stopped:
            raise StoppedAlone from None

    def _note(self, answer: jax.Array) -> None:
        self._number = max(self._number, int(answer))

    def _heard(self) -> jax.Array:
        """Return the number of the signal that this process has heard, on each of its devices."""
        number = self._own.number
        if number not in self._known:
            place = NamedSharding(self._mesh, PartitionSpec(sharding.AXES))
            values = np.full(self._mesh.size, number, np.int32)
            self._known[number] = jax.make_array_from_callback(
                values.shape, place, lambda index: values[index]
            )
        return self._known[number]


def of(own: StopRequest, mesh: Mesh) -> StopSource:
    """Return the request that the processes of a run share; of one process its own."""
    return own if jax.process_count() == 1 else Shared(own, mesh)
