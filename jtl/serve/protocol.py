"""HTTP/1.1 by uvicorn and h11, with what they leave open: time limits, a bound on connections, clear errors.

A connection that has not said all of a request's head in time, or does not take its answer, is closed. What
is no HTTP is answered in JSON like everything else, and the connection read on for a moment, so that the
client sees the answer and not a broken connection.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from jtl.serve import refusal
from jtl.serve.refusal import Refused
from jtl.serve.settings import Settings

# How long what a refused client still sends is dropped before the connection is closed.
LINGER_SECONDS = 2.0


def of_settings(settings: Settings) -> type[H11Protocol]:
    """Return the protocol under these limits; uvicorn makes one for every connection."""

    class Protocol(Bounded):
        limits = settings

    return Protocol


class Bounded(H11Protocol):
    """One connection."""

    limits = Settings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a head, or turn the connection away."""
        super().connection_made(transport)
        most = self.limits.max_connections
        if len(self.connections) > 2 * most:
            # Not even for answers is there room.
            transport.abort()
            return
        if len(self.connections) > most:
            self._refuse(refusal.busy(f"{most} connections are open"))
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._is_refused:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None and not self._is_refused:
            self._expect_head()

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  # asyncio asks for it
        """Answer a client that sends no more: what it sent is whole, or cut short."""
        cycle, their_state = self.cycle, self.conn.their_state
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False
            return True
        is_between = their_state is h11.IDLE and not self.conn.trailing_data[0]
        if not (self._is_refused or is_between or self.transport.is_closing()):
            self._refuse(Refused(refusal.BAD_REQUEST, "a request that is cut short", "all of it"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 does not take for HTTP."""
        del msg
        self._refuse(Refused(refusal.BAD_REQUEST, "what is no HTTP/1.1 request, or too long a head", "one"))

    def pause_writing(self) -> None:
        """Give the client its time to take what was written."""
        super().pause_writing()
        self._writing = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if self.flow is not None:
            super().resume_writing()

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_seconds, self._on_slow_head)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow_head(self) -> None:
        self._timer = None
        found = f"no whole head of a request in {self.limits.header_seconds:g} s"
        self._refuse(Refused(refusal.TOO_SLOW, found, "one"))

    def _refuse(self, refused: Refused) -> None:
        """Answer in place of the application, and close the connection once the client has had its say."""
        self._stop_timer()
        self._is_refused = True
        cycle = self.cycle
        is_answered = cycle is not None and not cycle.response_complete and cycle.response_started
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if is_answered or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write(_written(refused))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _written(refused: Refused) -> bytes:
    """Return a whole answer that closes the connection, as it goes over the wire."""
    body = json.dumps(refusal.as_json(refused)).encode("ascii") + b"\n"
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    response = h11.Response(status_code=refused.status, headers=list((headers | refused.headers).items()))
    written = h11.Connection(h11.SERVER)
    return (written.send(response) or b"") + body
