"""The server: its socket, and its end, at which every request that came is answered and no more are taken.

A stop goes so: the server says that it is not ready, and closes each connection behind its answer; what has
been connected and waits to be taken is taken; connections that are open and silent may speak for a moment
more, as a request may be on its way; then whatever has begun is finished, within `stop_seconds`.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import uvicorn

from jtl import signals
from jtl.errors import UserError
from jtl.serve import app, protocol
from jtl.serve.settings import Settings
from jtl.serve.state import Served

# How long a connection may be silent between two requests, and how long it is listened to at the end.
KEEP_ALIVE_SECONDS, LISTEN_SECONDS = 15, 1.0
BACKLOG = 1024
POLL_SECONDS = 0.02
# Files that are open beside connections.
OTHER_FILES = 256
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Ended(NamedTuple):
    """How a server came to its end: whether it was ever ready, and how many requests were cut off."""

    was_ready: bool
    num_cut: int


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has the address, on which nothing listens yet; of port 0 some free one.

    Raises:
        UserError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"--host {host!r} is no address of this machine ({error}); expected 127.0.0.1"
        ) from error
    family, kind, number, _, address = found[0]
    made = socket.socket(family, kind, number)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        raise UserError(
            f"--host {host} --port {port}: {error.strerror or error}; give another --port (0: some free one)"
        ) from error
    return made


def url_of(made: socket.socket) -> str:
    """Return the address of a bound socket as a browser takes it."""
    host, port = made.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(
    served: Served, made: socket.socket, stop: signals.StopRequest, on_warm: Callable[[], object]
) -> Ended:
    """Serve on a bound socket until a signal comes, and return how that went.

    `on_warm` is called once requests are answered.

    Raises:
        Exception: the programs could not be compiled.
    """
    make_room(served.settings)
    server = Server(served, made, stop, on_warm)
    with stop.deferred():
        asyncio.run(server.serve(sockets=[made]))
    if served.fault is not None:
        raise served.fault
    return Ended(server.was_ready, server.num_cut)


def make_room(settings: Settings) -> None:
    """Raise the number of files that this process may open to what its connections need.

    Raises:
        UserError: so many may not be opened.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    wanted = 2 * settings.max_connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) and soft in (resource.RLIM_INFINITY, hard):
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(
            f"--max-connections {settings.max_connections} needs {wanted} open files, and `ulimit -Hn` is "
            f"{hard}; lower it, or raise the limit"
        )
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server(uvicorn.Server):
    """One server in one event loop; signals are heard outside of it."""

    def __init__(
        self,
        served: Served,
        made: socket.socket,
        stop: signals.StopRequest,
        on_warm: Callable[[], object],
    ) -> None:
        self._served, self._stop, self._on_warm = served, stop, on_warm
        self.was_ready, self.num_cut = False, 0
        # The kernel closes what waits to be taken only with the last of these.
        self._listening = made.dup()
        super().__init__(
            uvicorn.Config(
                app.make(served, self._warm),
                http=protocol.of_settings(served.settings),
                loop="asyncio",
                ws="none",
                interface="asgi3",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to who hears them."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop."""
        self.should_exit = self.should_exit or self._stop.is_set
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Come to an end, and lose no request."""
        served = self._served
        end = time.monotonic() + served.settings.stop_seconds
        served.is_stopping = True
        for server in self.servers:
            server.close()
        await self._take_waiting()
        listened = min(time.monotonic() + LISTEN_SECONDS, end)
        while self.server_state.connections and time.monotonic() < listened:
            await asyncio.sleep(POLL_SECONDS)
        while served.num_active and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)
        self.num_cut = served.num_active
        self.config.timeout_graceful_shutdown = 0 if self.num_cut else round(protocol.LINGER_SECONDS) + 1
        if self.num_cut:
            # What is cut off is counted; each of them would be told with a traceback.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        await super().shutdown(sockets)

    def _warm(self) -> None:
        if self._served.fault is not None:
            self.should_exit = True
            return
        self.was_ready = True
        self._on_warm()

    async def _take_waiting(self) -> None:
        """Take the connections that the kernel has made and nobody has taken; then there are no more."""
        make: Any = partial(
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._listening.setblocking(False)
        with self._listening, suppress(BlockingIOError):
            while True:
                taken, _ = self._listening.accept()
                taken.setblocking(False)
                await asyncio.get_running_loop().connect_accepted_socket(make, taken)
