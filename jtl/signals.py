"""Signals that ask the process to stop, heard from a command's first line to its last.

Where nothing would be lost, the process is stopped where it stands: `Stopped` is raised. Where something
would be (training), the request is only noted, and the loop looks at it. Python answers a signal between two
of its own instructions, which a compiler in C++ can hold up for minutes: a thread watches over that. Where
these instructions are of a destructor, or of what the garbage collector calls (JAX registers some), Python
drops what is raised: `Stopped` is raised again once they are done.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import concurrent.futures

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
# How long a process that has nothing to save may take to come to its end by itself.
GRACE_SECONDS = 4.0
# Service managers send two different signals at once; a second one that means it comes later, or is the same.
SAME_REQUEST_SECONDS = 1.0


class Stopped(BaseException):
    """A signal asked the process to stop. No `Exception`: what mends single failures must let it through."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has asked this process to stop; `number` is the signal's, 0 before any.

    The second signal ends the process at once, as if it were not caught. `overdue` is called in another
    thread, with the signal, where the process should have ended and has not.
    """

    def __init__(self, overdue: Callable[[int], None] | None = None) -> None:
        self.number = 0
        self._overdue = overdue
        self._asked_at = 0.0
        self._is_noted, self._is_protected, self._is_over = False, False, False
        self._is_dropped = False

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.number != 0

    @property
    def is_of_command(self) -> bool:
        """Whether the process is a command's own, which may be ended."""
        return self._overdue is not None

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask the process to stop, as a signal of that number does."""
        self.number, self._asked_at = number, time.monotonic()

    def latest(self) -> int:
        """Return the number of the signal that has come, 0 before any."""
        return self.number

    def check(self) -> None:
        """Raise Stopped if a signal has come; a library may have swallowed the first one."""
        if self.number:
            raise Stopped(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal inside the `with` block, where there is something to save."""
        before = self._is_noted, self._is_protected
        self._is_noted, self._is_protected = True, True
        try:
            yield
        finally:
            self._is_noted, self._is_protected = before

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside of `deferred`, raise Stopped all the same: what is under way here can be done again."""
        before, self._is_noted = self._is_noted, False
        try:
            yield
        finally:
            self._is_noted = before

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        del frame
        if not self.number:
            self.ask(number)
            if not self._is_noted:
                raise Stopped(number)
        elif self._is_dropped:
            self._is_dropped = False
            if not self._is_noted:
                raise Stopped(self.number)
        elif number == self.number or time.monotonic() - self._asked_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def drop(self) -> None:
        """Note that what was raised has come to nothing: it is raised again."""
        self._is_dropped = True

    def watch(self, wakeup: int) -> None:
        """Call `overdue` once a signal has come and the process has had its time to end."""
        with suppress(OSError), open(wakeup, "rb", buffering=0) as pipe:
            received = pipe.read(1)
            left = GRACE_SECONDS
            while received and left > 0 and not self._is_over:
                time.sleep(0.1)
                if self._is_dropped:
                    _send_to_main_thread(self.number)
                left -= 0.0 if self._is_protected else 0.1
            if received and self._overdue is not None and not self._is_over:
                self._overdue(received[0])

    def end(self) -> None:
        """Leave off watching: nobody listens any more."""
        self._is_over = True


@contextmanager
def listening(overdue: Callable[[int], None] | None = None) -> Iterator[StopRequest]:
    """Hear signals inside the `with` block; where one is open already, that one goes on.

    What the process was started to ignore (`nohup`) stays ignored. Python hears signals in its main thread
    alone: elsewhere the request is never set.
    """
    outer = current()
    if outer is not None or threading.current_thread() is not threading.main_thread():
        yield outer or StopRequest()
        return
    request = StopRequest(overdue)
    before = {number: signal.getsignal(number) for number in STOPPING}
    unraisable = sys.unraisablehook

    def hear(found: "sys.UnraisableHookArgs") -> None:
        if issubclass(found.exc_type, Stopped):
            request.drop()
        else:
            unraisable(found)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    old_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=request.watch, args=(reading,), daemon=True).start()
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, request.handle)
        sys.unraisablehook = hear
        yield request
    finally:
        request.end()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        sys.unraisablehook = unraisable
        signal.set_wakeup_fd(old_wakeup)
        os.close(writing)


def current() -> StopRequest | None:
    """Return the request of the innermost `listening`, None outside of any: its handlers say which."""
    for number in STOPPING:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, StopRequest):
            return owner
    return None


def is_asked() -> bool:
    """Return whether a signal has asked this process to stop."""
    request = current()
    return request is not None and request.is_set


def interruptibly(call: Callable[[], Any]) -> Any:
    """Return `call()`, made in a thread of its own, so that a signal is answered while C++ code runs."""
    found: list[Any] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:  # it is raised again below
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if faults:
        raise faults[0]
    return found[0]


@contextmanager
def pool(num_threads: int) -> Iterator["concurrent.futures.ThreadPoolExecutor"]:
    """Yield a pool of threads; where an error or a signal ends the block, what is queued is given up."""
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadPoolExecutor(num_threads)
    is_done = False
    try:
        yield threads
        is_done = True
    finally:
        threads.shutdown(wait=is_done, cancel_futures=not is_done)


def _send_to_main_thread(number: int) -> None:
    """Send a signal that also ends a call of the system which the main thread waits in."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:  # on Windows
        signal.raise_signal(number)


def check() -> None:
    """Raise Stopped where a signal has asked this process to stop and nothing else has answered it."""
    request = current()
    if request is not None:
        request.check()
