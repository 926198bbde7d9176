"""Bodies of requests, read under limits of size and time, and the items in them, still as they were sent.

An item is what a kind of input calls a raw example (the bytes of a file, a text, two texts) and a name. What
is wrong with one item is kept beside the others; what is wrong with the whole is raised.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from jtl.errors import counted, nearest, shortened, shown
from jtl.serve.refusal import BAD_REQUEST, TOO_LARGE, TOO_SLOW, UNREADABLE, WRONG_TYPE, Refused, busy
from jtl.serve.settings import Settings

MEGA = 10**6
MAX_NAME = 200
# Headers of a part of a form.
MAX_HEADERS = 8
DATA_URL = "data:"
TYPES = "application/json, multipart/form-data, application/octet-stream, image/* or text/plain"


class Gone(Exception):
    """The client has closed the connection."""


class Item(NamedTuple):
    """One thing to predict: its name, and what was sent, or why that is none."""

    name: str
    raw: Any = None
    refused: Refused | None = None


class AnswerOptions(NamedTuple):
    """What of an answer is chosen by the query: how many classes, and whether they are explained."""

    top: int = 5
    is_explained: bool = False


class Held:
    """How many bytes of bodies a server holds, all requests together."""

    def __init__(self, most: int) -> None:
        self.num_bytes, self._most = 0, most

    def take(self, num_bytes: int) -> None:
        """Count so many bytes in.

        Raises:
            Refused: there is no room for them.
        """
        if self.num_bytes + num_bytes > self._most:
            raise busy(f"{self.num_bytes / MEGA:.0f} MB of bodies are held, and no more are taken")
        self.num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Count so many bytes out."""
        self.num_bytes -= num_bytes


async def read(receive: Receive, scope: Scope, settings: Settings, take: Callable[[int], None]) -> bytes:
    """Return the body of a request; `take` is called with the length of every part of it, before the next.

    Raises:
        Refused: it is too long, too slow, compressed, or nothing.
        Gone: the client left.
    """
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding != "identity":
        raise Refused(WRONG_TYPE, f"a body of content-encoding {shown(encoding)}", "one that is not encoded")
    stated = int(headers.get(b"content-length", b"0"))
    if stated > settings.max_body_bytes:
        raise _too_long(f"a body of {stated / MEGA:,.1f} MB", settings)
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Gone
                part = message.get("body", b"")
                length += len(part)
                if length > settings.max_body_bytes:
                    raise _too_long(f"a body of over {settings.max_body_mb} MB", settings)
                take(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise Refused(
            TOO_SLOW, f"{length:,} bytes of a body in {settings.body_seconds:g} s", "all of it in that time"
        ) from error
    if not length:
        raise Refused(BAD_REQUEST, "an empty body", f"files or texts, as {TYPES}")
    return b"".join(parts)


def items_of(body: bytes, content_type: str, holds: str, settings: Settings) -> list[Item]:
    """Return the items of a body for a model whose raw examples are of that kind ("image", "text").

    Raises:
        Refused: it is of no type that is read, is not what its type says, or has too many items or none.
    """
    kind, options = parse_options_header(content_type)
    name = kind.decode("latin-1").lower()
    parse = TYPED.get(name) or TYPED.get(name.partition("/")[0] + "/*")
    if parse is None:
        said = shown(name) if name else "no content-type"
        hint = " (curl: -F file=@PHOTO.jpg)" if name == "application/x-www-form-urlencoded" else ""
        raise Refused(WRONG_TYPE, f"content-type {said}" if name else said, f"{TYPES}{hint}")
    found = parse(body, options, holds, settings.max_items)
    if not found:
        raise Refused(BAD_REQUEST, "a request without items", "one file or text, or more")
    if len(found) > settings.max_items:
        raise _too_many(len(found), settings.max_items)
    return found


def asked(query: bytes) -> AnswerOptions:
    """Return what a query chooses.

    >>> asked(b"top=3&explain=1")
    AnswerOptions(top=3, is_explained=True)

    Raises:
        Refused: it chooses something else, or what cannot be.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = dict(pairs)
    for name in values:
        if name not in ("top", "explain"):
            expected = f"top or explain; nearest: {nearest(name, ('top', 'explain'))}"
            raise Refused(BAD_REQUEST, f"query parameter {shown(name)}", expected)
    top = values.get("top", str(AnswerOptions().top))
    if not (top.isascii() and top.isdecimal() and int(top[:9]) > 0):
        raise Refused(BAD_REQUEST, f"top={shown(top)}", "a number of classes, 1 or more")
    explain = values.get("explain", "0")
    if explain not in ("0", "1"):
        raise Refused(BAD_REQUEST, f"explain={shown(explain)}", "0 or 1")
    return AnswerOptions(int(top[:9]), explain == "1")


def _raw(body: bytes, options: Mapping[bytes, bytes], holds: str, most: int) -> list[Item]:
    """Return the one item that a body is."""
    del options, holds, most
    return [Item("0", body)]


def _image(body: bytes, options: Mapping[bytes, bytes], holds: str, most: int) -> list[Item]:
    if holds != "image":
        raise Refused(WRONG_TYPE, "a picture", f"{holds}s: this model reads no pictures")
    return _raw(body, options, holds, most)


def _text(body: bytes, options: Mapping[bytes, bytes], holds: str, most: int) -> list[Item]:
    if holds != "text":
        raise Refused(WRONG_TYPE, "a text", f"{holds}s: this model reads no texts")
    return _raw(body, options, holds, most)


def _json(body: bytes, options: Mapping[bytes, bytes], holds: str, most: int) -> list[Item]:
    del options
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(
            BAD_REQUEST, f"a body that is no JSON ({shown(str(error))})", _expected(holds)
        ) from error
    if not isinstance(values, dict) or "inputs" not in values:
        raise Refused(BAD_REQUEST, f'{_kind(values)} without "inputs"', _expected(holds))
    others = [name for name in values if name != "inputs"]
    if others:
        expected = '"inputs" alone; what is chosen stands in the query: ?top=3&explain=1'
        raise Refused(BAD_REQUEST, f"the key {shown(others[0])}", expected)
    given = values["inputs"] if isinstance(values["inputs"], list) else [values["inputs"]]
    if len(given) > most:
        raise _too_many(len(given), most)
    return [_item(each, str(index), holds) for index, each in enumerate(given)]


def _item(value: Any, name: str, holds: str) -> Item:
    """Return an item of JSON; an object may name it ("id")."""
    if isinstance(value, dict):
        given = value.pop("id", name)
        if not isinstance(given, str) or len(given) > MAX_NAME:
            found, expected = f"id {shown(given)}", f"a string of at most {MAX_NAME} characters"
            return Item(name, refused=Refused(UNREADABLE, found, expected))
        name = given
    try:
        return Item(name, ITEMS[holds](value))
    except Refused as error:
        return Item(name, refused=error)


def _image_of(value: Any) -> bytes:
    """Return the bytes of a picture in base64, a data URL, or an object with "base64"."""
    if isinstance(value, dict) and value.keys() == {"base64"}:
        value = value["base64"]
    if not isinstance(value, str):
        raise Refused(UNREADABLE, _kind(value), 'a picture in base64, or {"base64": …, "id": …}')
    text = value.partition(",")[2] if value.startswith(DATA_URL) else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(UNREADABLE, f"no base64 ({error})", "the bytes of a picture in base64") from error


def _text_of(value: Any) -> Any:
    """Return a text, or two, of a string, a list of two, or an object with "text" and perhaps "text_pair"."""
    if isinstance(value, dict) and value.keys() in ({"text"}, {"text", "text_pair"}):
        value = value["text"] if len(value) == 1 else [value["text"], value["text_pair"]]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value):
        return tuple(value)
    if isinstance(value, str):
        return value
    raise Refused(UNREADABLE, _kind(value), 'a text, two texts [a, b], or {"text": …, "text_pair": …}')


def _multipart(body: bytes, options: Mapping[bytes, bytes], holds: str, most: int) -> list[Item]:
    """Return an item for every part of a form that has a file; the file's name is the item's."""
    del holds
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refused(BAD_REQUEST, "multipart/form-data without a boundary", "one in the content-type")
    form = _Form(most)
    try:
        parser = MultipartParser(boundary, form.callbacks(), max_header_count=MAX_HEADERS)
        parser.write(body)
    except (FormParserError, ValueError) as error:
        raise Refused(
            BAD_REQUEST, f"a damaged form ({shortened(str(error))})", "multipart/form-data"
        ) from error
    if not form.is_whole:
        raise Refused(BAD_REQUEST, "a form that is cut short", "its closing boundary at the end")
    return form.items


class _Form:
    """What the parser of a form calls while it reads it."""

    def __init__(self, most: int) -> None:
        self.items: list[Item] = []
        self.is_whole = False
        self._most = most
        self._headers: dict[str, bytes] = {}
        self._field, self._value = b"", b""
        self._parts: list[bytes] = []

    def callbacks(self) -> Any:
        """Return what is called, by its name."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._on_end,
            "on_end": self._whole,
        }

    def _begin(self) -> None:
        self._headers, self._parts = {}, []
        self._field, self._value = b"", b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value
        self._field, self._value = b"", b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])

    def _on_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        if b"filename" not in options:
            name = shown(options.get(b"name", b"").decode("utf-8", errors="replace"))
            expected = "files alone (curl: -F file=@PHOTO.jpg); what is chosen stands in the query"
            raise Refused(BAD_REQUEST, f"the field {name}, which is no file", expected)
        if len(self.items) == self._most:
            raise _too_many(self._most + 1, self._most)
        name = options[b"filename"].decode("utf-8", errors="replace")[:MAX_NAME]
        self.items.append(Item(name or str(len(self.items)), b"".join(self._parts)))

    def _whole(self) -> None:
        self.is_whole = True


def _too_long(found: str, settings: Settings) -> Refused:
    return Refused(TOO_LARGE, found, f"at most {settings.max_body_mb} MB")


def _too_many(found: int, most: int) -> Refused:
    return Refused(TOO_LARGE, counted(found, "items"), f"at most {most:,} in one request")


def _expected(holds: str) -> str:
    shape = {"image": '"<base64>"', "text": '"…"'}[holds]
    return f'{{"inputs": [{shape}, …]}}'


def _kind(value: Any) -> str:
    """Return what a value of JSON is, for a message.

    >>> _kind({"a": 1}), _kind([1]), _kind(None), _kind(3)
    ("an object of 'a'", 'a list of 1', 'null', 'a number')
    """
    if isinstance(value, dict):
        return f"an object of {', '.join(shown(name) for name in list(value)[:3]) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, str):
        return "a text"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a number"


Parse = Callable[[bytes, Mapping[bytes, bytes], str, int], list[Item]]
TYPED: dict[str, Parse] = {
    "application/json": _json,
    "multipart/form-data": _multipart,
    "application/octet-stream": _raw,
    "image/*": _image,
    "text/plain": _text,
}
# By what a raw example is: of a value of JSON.
ITEMS: dict[str, Callable[[Any], Any]] = {"image": _image_of, "text": _text_of}
