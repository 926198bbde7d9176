"""A server on this machine that answers downloads: whole, cut, moved, refused."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT_AT = 100_000
COMMIT = "0" * 40


class Server(NamedTuple):
    """A server on this machine; `requests` are (method, path, Range header) as they came."""

    base: str
    requests: list[tuple[str, str, str]]
    answers: dict[str, Any]


def publish(server: Server, files: dict[str, bytes], revision: str = "main") -> None:
    """Answer as the hub does for a repository org/name with these files, at a branch and at its commit."""
    server.answers["*"] = {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}, "body": b""}
    for name, body in files.items():
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        for each in (revision, COMMIT):
            server.answers[f"/org/name/resolve/{each}/{name}"] = {"body": body, "etag": etag}


def move(server: Server, name: str, to: str, etag: str = "") -> None:
    """Answer for a published file as the hub does for large ones: with where it lies and its sha256."""
    for each in ("main", COMMIT):
        path = f"/org/name/resolve/{each}/{name}"
        body = server.answers[path]["body"]
        headers = {
            "Location": to,
            "X-Linked-Size": str(len(body)),
            "X-Linked-ETag": f'"{etag or hashlib.sha256(body).hexdigest()}"',
        }
        linked = {"X-Linked-ETag": headers["X-Linked-ETag"]}
        place = to.partition(server.base.rpartition(":")[2])[2] or to
        server.answers[place] = {"body": body, "etag": '"stored"', "headers": linked}
        server.answers[path] = {"status": 302, "headers": headers, "body": b""}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path says: whole, cut, refused; `cuts` are how often it ends in mid-file.

    `length` and `range` are what it says of the bytes it sends, None for the truth; length "" says nothing.
    """

    requests: list[tuple[str, str, str]]
    answers: dict[str, Any]

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        range_header = self.headers.get("Range") or ""
        self.requests.append((self.command, self.path, range_header))
        settings = {
            "status": 200,
            "etag": '"one"',
            "type": "application/octet-stream",
            "cuts": 0,
            "body": CONTENT,
            "headers": {},
            "length": None,
            "range": None,
        }
        settings |= self.answers.get(self.path, self.answers["*"])
        body, start = settings["body"], 0
        is_same = self.headers.get("If-Range", settings["etag"]) == settings["etag"]
        if range_header and settings["status"] == 200 and is_same:
            start = int(range_header.removeprefix("bytes=").removesuffix("-"))
            settings["status"] = 206
        self.send_response(settings["status"])
        if start or settings["range"] is not None:
            told = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", settings["range"] or told)
        length = str(len(body) - start) if settings["length"] is None else settings["length"]
        if length:
            self.send_header("Content-Length", length)
        self.send_header("Content-Type", settings["type"])
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in {"ETag": settings["etag"], **settings["headers"]}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        if settings["cuts"] > 0:
            self.answers[self.path]["cuts"] -= 1
            self.wfile.write(body[start : start + CUT_AT])
            self.close_connection = True
            return
        self.wfile.write(body[start:])


@contextmanager
def running() -> Iterator[Server]:
    """Serve until the block ends."""
    answers: dict[str, Any] = {"/ok.bin": {}, "*": {"status": 404}}
    requests: list[tuple[str, str, str]] = []
    handler = type("Bound", (Handler,), {"requests": requests, "answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(f"http://127.0.0.1:{server.server_port}", requests, answers)
        server.shutdown()
        thread.join()
