"""An end for what has none: an error raised where the processor's clock or the wall's has run too far."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_SECONDS, WALL_SECONDS = 60, 900


class NoEndError(BaseException):
    """No `Exception`, which the command line might make a line of."""


@contextmanager
def alarm() -> Iterator[None]:
    """Raise NoEndError in the `with` block where no end comes by the processor's clock or the wall's."""

    def ring(*_: object) -> None:
        raise NoEndError(f"no end after {LIMIT_SECONDS} s")

    before = {number: signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
