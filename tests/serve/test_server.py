"""The server itself, on a socket of this machine: slow and broken clients, its bounds, and its end."""

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from jtl import signals
from jtl.errors import UserError
from jtl.serve import engine as engines
from jtl.serve import server
from jtl.serve.settings import Settings, key_of
from tests.serve.conftest import make_served, png

LIMITS = {"header_seconds": 0.3, "body_seconds": 0.3, "write_seconds": 0.3, "max_connections": 20}
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Running(NamedTuple):
    """A server in a thread: its address, its events, how it is stopped, how it ended, and its clients."""

    address: tuple[str, int]
    computed: threading.Event
    begun: threading.Event
    stop: signals.StopRequest
    thread: threading.Thread
    ended: list[server.Ended]
    clients: list[socket.socket]

    def end(self) -> server.Ended:
        """Stop it and return how it ended."""
        self.stop.ask(signal.SIGTERM)
        self.thread.join(60)
        return self.ended[0]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Function that starts a server whose model says what it was told, once it is let."""
    computed, begun = threading.Event(), threading.Event()
    computed.set()
    started: list[Running] = []

    def run(engine: Any, examples: list[Any]) -> np.ndarray:
        del engine
        begun.set()
        assert computed.wait(60)
        return np.tile(np.float32([0.2, 0.5, 0.3]), (len(examples), 1))

    monkeypatch.setattr(engines, "warmed", lambda engine, said: dict.fromkeys(engine.sizes, 1.0))
    monkeypatch.setattr(engines, "run", run)

    def start(**changes: Any) -> Running:
        made, stop, ready = server.bound("127.0.0.1", 0), signals.StopRequest(), threading.Event()
        served, ended = make_served("vit", **{**LIMITS, **changes}), list[server.Ended]()
        thread = threading.Thread(target=lambda: ended.append(server.run(served, made, stop, ready.set)))
        thread.start()
        assert ready.wait(60)
        started.append(Running(made.getsockname(), computed, begun, stop, thread, ended, []))
        return started[-1]

    yield start
    computed.set()
    for each in started:
        for client in each.clients:
            client.close()
        each.end()


def connected(running: Running, *sent: bytes) -> socket.socket:
    made = socket.create_connection(running.address, 30)
    running.clients.append(made)
    for each in sent:
        made.sendall(each)
    return made


def heard(made: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := made.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def answered(made: socket.socket) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the JSON of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = made.recv(65_536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rows = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
    while len(body) < int(headers["content-length"]):
        body += made.recv(65_536)
    return int(first.split()[1]), headers, json.loads(body)


def post(body: bytes, *, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
BROKEN: dict[str, tuple[int, str, list[bytes]]] = {
    "nothing at all": (408, "no whole head of a request in 0.3 s", []),
    "half a head": (408, "no whole head", [b"GET / HT"]),
    "no HTTP": (400, "no HTTP/1.1 request", [b"\x16\x03\x01 hello\r\n\r\n"]),
    "a head without end": (400, "too long a head", [b"GET / HTTP/1.1\r\n", b"A: " + b"a" * 70_000]),
    "half a body": (408, "10 bytes of a body in 0.3 s", [post(b"a" * 10, length=100)]),
    "a bad chunk": (
        400,
        "no HTTP/1.1 request",
        [GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")],
    ),
    "a long body": (413, "a body of 3.0 MB", [post(bytes(3_000_000))]),
    "two lengths": (400, "no HTTP/1.1 request", [post(b"a").replace(b"Host: a", b"Content-Length: 2")]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_and_slow_clients_are_answered_and_let_go(start: Callable[..., Running], case: str) -> None:
    status, message, sent = BROKEN[case]
    running = start()
    made = connected(running, *sent)
    found, headers, told = answered(made)
    assert (found, headers["content-type"]) == (status, "application/json")
    assert message in told["error"]["message"]
    made.shutdown(socket.SHUT_WR)
    assert heard(made) == b""
    assert answered(connected(running, GET))[0] == 200


@pytest.mark.parametrize("sent", [b"GET / HT", post(b"abc", length=100)], ids=["head", "body"])
def test_request_that_is_cut_short_is_told_so(start: Callable[..., Running], sent: bytes) -> None:
    made = connected(start(), sent)
    made.shutdown(socket.SHUT_WR)
    status, _, told = answered(made)
    assert (status, told["error"]["found"]) == (400, "a request that is cut short")
    assert heard(made) == b""


def test_client_that_only_listens_on_gets_its_answer(start: Callable[..., Running]) -> None:
    made = connected(start(), post(png()))
    made.shutdown(socket.SHUT_WR)
    assert answered(made)[0] == 200
    assert heard(made) == b""


def test_client_that_leaves_ends_nothing(start: Callable[..., Running], caplog: Any) -> None:
    running = start()
    for sent in (post(b"abc", length=100), post(png())):
        connected(running, sent).close()
    assert answered(connected(running, GET))[0] == 200
    assert running.end().num_cut == 0
    assert caplog.text == ""


def test_connections_beyond_the_bound_are_turned_away(start: Callable[..., Running]) -> None:
    running = start(max_connections=2, header_seconds=30.0)
    kept = [connected(running, GET) for _ in range(2)]
    assert [answered(made)[0] for made in kept] == [200, 200]
    made = connected(running, GET)
    status, headers, told = answered(made)
    assert (status, headers["retry-after"], told["error"]["found"]) == (503, "1", "2 connections are open")


def test_stop_answers_what_has_come_and_what_waits_to_be_taken(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the kernel has connected and the server has not yet taken when it hears the signal."""
    running = start(header_seconds=30.0)
    waiting: list[socket.socket] = []
    are_waiting, take = threading.Event(), server.Server._take_waiting

    async def taking(self: server.Server) -> None:
        waiting.extend(connected(running, post(png())) for _ in range(3))
        are_waiting.set()
        await take(self)

    monkeypatch.setattr(server.Server, "_take_waiting", taking)
    monkeypatch.setattr(server, "LISTEN_SECONDS", 30.0)
    running.computed.clear()
    begun, silent, speaking = (connected(running, *sent) for sent in ([post(png())], [], [GET]))
    assert answered(speaking)[0] == 200
    assert running.begun.wait(60)
    running.stop.ask(signal.SIGTERM)
    assert are_waiting.wait(20)
    running.computed.set()
    for made in (begun, *waiting, speaking):
        if made is speaking:
            made.sendall(post(png()))
        status, headers, _ = answered(made)
        assert (status, headers["connection"]) == (200, "close")
    silent.close()
    assert running.end() == server.Ended(was_ready=True, num_cut=0)
    with pytest.raises(ConnectionRefusedError):
        connected(running)


def test_silent_connection_keeps_no_server_alive(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LISTEN_SECONDS", 0.1)
    running = start(header_seconds=60.0)
    silent = connected(running)
    assert running.end() == server.Ended(was_ready=True, num_cut=0)
    assert heard(silent) == b""


def test_what_is_not_answered_in_time_is_cut_off(start: Callable[..., Running], caplog: Any) -> None:
    running = start(stop_seconds=0.1)
    running.computed.clear()
    connected(running, post(png()))
    assert running.begun.wait(60)
    assert running.end() == server.Ended(was_ready=True, num_cut=1)
    assert caplog.text == ""


def test_fault_of_compiling_ends_the_server_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: Any, said: Any) -> dict[int, float]:
        raise MemoryError("no room")

    monkeypatch.setattr(engines, "warmed", fail)
    with pytest.raises(MemoryError, match="no room"):
        server.run(make_served("vit"), server.bound("127.0.0.1", 0), signals.StopRequest(), asyncio.Event)


def test_address_that_cannot_be_had_is_one_line() -> None:
    with server.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert server.url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; give another --port"):
            server.bound("127.0.0.1", port)
    with pytest.raises(UserError, match=r"'999\.1\.1\.1' is no address"):
        server.bound("999.1.1.1", 0)


def test_settings_have_ranges_and_a_key_is_no_empty_one() -> None:
    with pytest.raises(UserError, match=r"serve.max_batch is 0; expected 1 <= value <= 4096"):
        Settings(max_batch=0)
    with pytest.raises(UserError, match=r"serve.body_seconds is nan"):
        Settings(body_seconds=float("nan"))
    assert "s3cret" not in repr(Settings(key="s3cret"))
    assert (key_of({}), key_of({"JTL_SERVE_KEY": "s3cret"})) == ("", "s3cret")
    for key in ("", " ", "a\nb", "clé"):
        with pytest.raises(UserError, match=r"JTL_SERVE_KEY is set, and is .*: set one, or unset it"):
            key_of({"JTL_SERVE_KEY": key})
