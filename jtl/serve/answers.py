"""What `/v1/predict` answers: each item by itself, in the order in which they came."""

import asyncio
import hmac
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from jtl import predictor as predictors
from jtl.errors import counted
from jtl.inputs import Inputs, Unreadable
from jtl.serve import bodies, refusal
from jtl.serve import engine as engines
from jtl.serve.batching import Batcher
from jtl.serve.bodies import AnswerOptions, Item
from jtl.serve.refusal import Refused
from jtl.serve.settings import KEY_VARIABLE
from jtl.serve.state import Served

MAX_EXPLAINED = 8
OK = 200


async def predict(served: Served, request: Request) -> Response:
    """Answer a request.

    Raises:
        Refused: it is not read, or not answered as a whole.
        Gone: the client left.
    """
    check_key(served, request)
    asked = bodies.asked(request.scope["query_string"])
    batcher = served.batcher
    if not served.costs or batcher is None:
        raise refusal.busy(served.progress())
    taken = 0

    def take(num_bytes: int) -> None:
        nonlocal taken
        served.held.take(num_bytes)
        taken += num_bytes

    try:
        body = await bodies.read(request.receive, request.scope, served.settings, take)
        content_type = request.headers.get("content-type", "")
        parse = partial(bodies.items_of, body, content_type, served.holds, served.settings)
        items = await batcher.read(parse)
        if asked.is_explained and len(items) > MAX_EXPLAINED:
            found = f"{counted(len(items), 'items')} to explain"
            raise Refused(refusal.TOO_LARGE, found, f"at most {MAX_EXPLAINED} in one request")
        batcher.admit(len(items))
        try:
            rows = await asyncio.gather(*(_row(served, batcher, item, asked) for item in items))
        finally:
            batcher.done(len(items))
    finally:
        served.held.give_back(taken)
    return _summed(served, list(rows))


def check_key(served: Served, request: Request) -> None:
    """Raise Refused where the server has a key and the request does not carry it."""
    key = served.settings.key
    given = dict(request.scope["headers"]).get(b"authorization", b"")
    scheme, _, value = given.partition(b" ")
    is_right = hmac.compare_digest(value.strip(), key.encode()) and scheme.lower() == b"bearer"
    if key and not is_right:
        found = "another key" if given else "no key"
        expected = f"`Authorization: Bearer KEY`, the key that the server has in {KEY_VARIABLE}"
        raise Refused(refusal.UNAUTHORISED, found, expected, {"WWW-Authenticate": "Bearer"})


def as_response(
    value: Mapping[str, Any], status: int = OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return JSON, in ASCII: names may hold what is no Unicode."""
    content = json.dumps(value).encode("ascii") + b"\n"
    return Response(content, status, dict(headers or {}), media_type="application/json")


async def _row(served: Served, batcher: Batcher, item: Item, asked: AnswerOptions) -> dict[str, Any]:
    """Return what is said of an item, or why it cannot be read."""
    engine = served.engine
    try:
        try:
            inputs = await batcher.read(partial(_inputs, served, item))
            answer = batcher.answered(inputs)
        finally:
            batcher.arrived()
        values = await answer
    except Refused as error:
        served.counters.item("refused")
        return {"id": item.name, **refusal.as_json(error)}
    names = engine.predictor.stats.label_names
    row: dict[str, Any] = {"id": item.name, "predictions": predictors.ranked(values, names, asked.top)}
    served.counters.item("predicted")
    if not asked.is_explained:
        return row
    if engine.explain is None:
        return {**row, "explanation": {"missing": engine.method}}
    output, relevance = await batcher.in_model(partial(engines.explained, engine, inputs))
    told = await batcher.read(partial(engines.told, engine, inputs, output, relevance))
    served.counters.item("explained")
    return {**row, "explanation": told}


def _inputs(served: Served, item: Item) -> Inputs:
    """Return what the model reads of an item, by the pre-processing that is its own everywhere.

    Raises:
        Refused: it is none, is too large, or cannot be read.
    """
    if item.refused is not None:
        raise item.refused
    kind = served.engine.predictor.input
    try:
        _check_size(kind.glimpse(item.raw, is_shown=False).size, served)
        return served.transform(item.raw, None)
    except Unreadable as error:
        raise Refused(refusal.UNREADABLE, str(error), f"{kind.unit} that can be read") from error


def _check_size(size: Mapping[str, int], served: Served) -> None:
    """Raise Refused for a picture or a text that is too large, before it is decoded."""
    settings = served.settings
    width, height, letters = (size.get(name, 0) for name in ("width", "height", "letters"))
    if width * height > settings.max_pixels:
        raise Refused(
            refusal.TOO_LARGE,
            f"{width:,} x {height:,} pixels",
            f"at most {settings.max_pixels:,} in all: shrink it",
        )
    if letters > settings.max_letters:
        raise Refused(refusal.TOO_LARGE, counted(letters, "letters"), f"at most {settings.max_letters:,}")


def _summed(served: Served, rows: Sequence[dict[str, Any]]) -> Response:
    """Return the rows; where some could not be answered, with the status of the only one or 422."""
    faults = [row["error"] for row in rows if "error" in row]
    value = {"model": served.title, "kind": served.label_kind, "results": list(rows)}
    if not faults:
        return as_response(value)
    if len(rows) == 1:
        return as_response({**value, "error": faults[0]}, faults[0]["status"])
    found = f"{len(faults)} of {len(rows)} items are refused, the others answered"
    whole = Refused(refusal.UNREADABLE, found, 'items without an error in "results"')
    return as_response({**value, **refusal.as_json(whole)}, whole.status)
