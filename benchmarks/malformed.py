"""Requests that are malformed, by their kind: what a client sends, and how."""

import asyncio
import base64
import json
import zlib
from collections.abc import Awaitable, Callable, Sequence

# What a client does once it is connected: it writes, and may take its time or break off.
Kind = Callable[[asyncio.StreamWriter], Awaitable[None]]
SLOW_SECONDS = 0.2
HUGE_BYTES = 40_000_000
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"\r\n--x--\r\n"


def kinds(picture: bytes) -> dict[str, Kind]:
    """Return every kind of malformed request; `picture` is a good one, of which some are made."""
    image, whole = "image/jpeg", json.dumps({"inputs": base64.b64encode(picture).decode()}).encode()
    found = {
        "empty body": _whole(image, b""),
        "empty file": _whole(FORM, PART + END),
        "empty list": _whole("application/json", b'{"inputs": []}'),
        "huge body": _whole(image, bytes(HUGE_BYTES)),
        "huge length": _head("POST", image, 10**15),
        "huge list": _whole("application/json", json.dumps({"inputs": ["YQ=="] * 100_000}).encode()),
        "huge head": _raw(b"GET / HTTP/1.1\r\nA: " + b"a" * 200_000),
        "deep JSON": _whole("application/json", b"[" * 100_000),
        "cut picture": _whole(image, picture[: len(picture) // 2]),
        "cut form": _whole(FORM, PART + picture),
        "cut JSON": _whole("application/json", whole[:-9]),
        "cut body": _cut(image, picture),
        "cut head": _raw(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-", is_over=True),
        "wrong type": _whole("video/mp4", picture),
        "form of fields": _whole("application/x-www-form-urlencoded", b"a=b"),
        "text for a picture": _whole("text/plain", b"hello"),
        "JSON that is a picture": _whole("application/json", picture),
        "picture that is JSON": _whole(image, whole),
        "number for a picture": _whole("application/json", b'{"inputs": [1e999]}'),
        "no base64": _whole("application/json", b'{"inputs": ["%%%"]}'),
        "compressed body": _whole(image, zlib.compress(bytes(1_000_000)), "Content-Encoding: deflate"),
        "bomb of pixels": _whole(image, png(60_000, 60_000)),
        "bomb within Pillow's bound": _whole(image, png(9_000, 9_000)),
        "bomb of a row": _whole(image, png(50_000_000, 1)),
        "bomb with EXIF": _whole(image, png(8_000, 8_000, extra=b"eXIf")),
        "no HTTP": _raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
        "no path": _head("GET", "", 0, path="/v2/predict"),
        "no method": _head("PUT", image, 0),
        "bad chunk": _raw(CHUNKED + b"zz\r\n"),
        "unknown query": _whole(image, picture, path="/v1/predict?topp=1"),
    }
    slow = {
        "slow head": _slow(_start("POST", image, 9)),
        "slow body": _slow(b"a" * 100, _start("POST", image, 100)),
    }
    return {**found, **slow}


def png(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """Return a PNG whose header states so many pixels, black; its bytes are a thousandth of them."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(min((width // 8 + 1) * height, 9_000_000)), 9)
    chunks = [
        (b"IHDR", header),
        *([(extra, b"MM\0*\0\0\0\x08\0\0")] if extra else []),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    packed = (len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _start(method: str, kind: str, length: int, *more: str, path: str = "/v1/predict") -> bytes:
    rows = [
        f"{method} {path} HTTP/1.1",
        "Host: a",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*rows, "", ""]).encode()


def _head(method: str, kind: str, length: int, path: str = "/v1/predict") -> Kind:
    return _raw(_start(method, kind, length, path=path))


def _whole(kind: str, body: bytes, *more: str, path: str = "/v1/predict") -> Kind:
    return _raw(_start("POST", kind, len(body), *more, path=path) + body)


def _cut(kind: str, body: bytes) -> Kind:
    return _raw(_start("POST", kind, len(body)) + body[: len(body) // 2], is_over=True)


def _raw(data: bytes, *, is_over: bool = False) -> Kind:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if is_over:
            writer.write_eof()

    return send


def _slow(data: bytes, before: bytes = b"") -> Kind:
    """Send a byte, wait, and so on, for longer than a server may wait."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        for each in _bytes(data):
            writer.write(each)
            await asyncio.sleep(SLOW_SECONDS)

    return send


def _bytes(data: bytes) -> Sequence[bytes]:
    return [data[index : index + 1] for index in range(len(data))]
