"""What every request goes through, whatever its path: it is counted, and heard to its end within bounds."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jtl.serve.counters import OTHER
from jtl.serve.state import Served

# A client that is not heard to the end of its body sees a broken connection in place of the answer: so long,
# and up to so many times the largest body, one that was refused is read on.
DRAIN_SECONDS, DRAIN_BODIES = 2.0, 4


def around(served: Served, app: ASGIApp, paths: set[str]) -> ASGIApp:
    """Return the application with all that is common to its paths."""
    return partial(_counted, served, paths, partial(_heard, served, app))


async def _counted(
    served: Served, paths: set[str], app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Count a request, and close the connection behind its answer where the server stops."""
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    begin, code = time.perf_counter(), 0

    async def noted(message: Message) -> None:
        nonlocal code
        if message["type"] == "http.response.start":
            code = message["status"]
            own = [(b"x-content-type-options", b"nosniff")]
            own += [(b"connection", b"close")] if served.is_stopping else []
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await send(message)

    served.num_active += 1
    try:
        await app(scope, receive, noted)
    finally:
        served.num_active -= 1
        path = scope["path"] if scope["path"] in paths else OTHER
        served.counters.answered(path, code, time.perf_counter() - begin)


async def _heard(served: Served, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body of a request that was answered before it was read, and drop it."""
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    headers = dict(scope["headers"])
    is_read = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"

    async def noted() -> Message:
        nonlocal is_read
        message = await receive()
        is_read = is_read or message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def ended(message: Message) -> None:
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not is_last or is_read:
            await send(message)
            return
        # The client has its answer, and the connection stays open for what it still sends.
        await send({**message, "more_body": True})
        await _dropped(noted, lambda: is_read, DRAIN_BODIES * served.settings.max_body_bytes)
        await send({"type": "http.response.body", "body": b""})

    await app(scope, noted, ended)


async def _dropped(receive: Receive, is_read: Callable[[], bool], most: int) -> None:
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while not is_read() and num_bytes < most:
                num_bytes += len((await receive()).get("body", b""))
