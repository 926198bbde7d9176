"""The application: what each path answers, and what errors look like."""

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jtl.serve import answers, middleware, refusal
from jtl.serve import engine as engines
from jtl.serve.batching import Batcher
from jtl.serve.bodies import Gone
from jtl.serve.counters import CONTENT_TYPE
from jtl.serve.refusal import Refused
from jtl.serve.state import Served

PREDICT, ABOUT, HEALTH, READY, METRICS = "/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"
# The page and what it loads: by path, the file and its type.
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Nothing else may run on the page, and nobody may put it into a frame.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; style-src 'self'; "
    "script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CLIENT_LEFT, BUG, SERVICE_UNAVAILABLE = 499, 500, 503
# What is expected where Starlette finds no such path, or no such method of it.
EXPECTED = {
    404: f"POST {PREDICT}, or GET of {ABOUT}, {HEALTH}, {READY}, {METRICS} or /",
    405: f"POST for {PREDICT}, GET for all else",
}


def make(served: Served, on_warm: Callable[[], object] = lambda: None) -> ASGIApp:
    """Return the application; `on_warm` is called when every program is compiled, or could not be."""
    routes = [
        Route(PREDICT, partial(answers.predict, served), methods=["POST"]),
        Route(ABOUT, partial(_about, served)),
        Route(HEALTH, _healthy),
        Route(READY, partial(_ready, served)),
        Route(METRICS, partial(_metrics, served)),
        *(Route(path, partial(_asset, *about)) for path, about in ASSETS.items()),
    ]
    handlers: Any = {Refused: _refused, HTTPException: _not_there, Gone: _left, Exception: _bug}
    app = Starlette(routes=routes, lifespan=partial(_alive, served, on_warm), exception_handlers=handlers)
    return middleware.around(served, app, {route.path for route in routes})


@asynccontextmanager
async def _alive(served: Served, on_warm: Callable[[], object], app: Starlette) -> AsyncIterator[None]:
    """Compile beside the event loop, and answer batches as long as the server lives."""
    del app
    settings, engine = served.settings, served.engine
    batcher = Batcher(
        partial(engines.run, engine),
        lambda waiting: engines.chosen_size(waiting, served.costs),
        max_batch=engine.sizes[-1],
        max_wait_seconds=settings.max_wait_ms / 1000,
        max_items=settings.max_queue,
        seen=served.counters.computed,
    )
    served.batcher = batcher
    served.counters.watch(lambda: batcher.num_held, lambda: served.is_ready)

    async def warm() -> None:
        try:
            told = partial(setattr, served, "num_compiled")
            served.costs = await batcher.in_model(partial(engines.warmed, engine, told))
        except Exception as error:  # whoever serves raises it
            served.fault = error
        on_warm()

    async with AsyncExitStack() as stack:
        stack.callback(batcher.close)
        for work in (warm(), batcher.work()):
            stack.callback(asyncio.get_running_loop().create_task(work).cancel)
        yield


async def _about(served: Served, request: Request) -> Response:
    """Say what is served, and within which limits."""
    answers.check_key(served, request)
    engine, settings = served.engine, served.settings
    parts = engine.predictor
    return answers.as_response(
        {
            "model": served.title,
            "kind": served.label_kind,
            "reads": parts.input.unit,
            "classes": list(parts.stats.label_names),
            "preprocess": parts.input.described(parts.preprocess),
            "explains": engine.explain is not None,
            "explanation": engine.method,
            "limits": {
                name: getattr(settings, name)
                for name in ("max_body_mb", "max_items", "max_pixels", "max_letters", "max_batch")
            },
            "batch_sizes": list(engine.sizes),
        }
    )


async def _healthy(request: Request) -> Response:
    """Say that the process is alive, whatever it is at."""
    del request
    return answers.as_response({"status": "alive"})


async def _ready(served: Served, request: Request) -> Response:
    """Say whether requests are answered; before and behind that it is no place to send them to."""
    del request
    status = answers.OK if served.is_ready else SERVICE_UNAVAILABLE
    return answers.as_response({"status": served.progress()}, status)


async def _metrics(served: Served, request: Request) -> Response:
    answers.check_key(served, request)
    return Response(served.counters.text(), headers={"Content-Type": CONTENT_TYPE})


async def _asset(name: str, kind: str, request: Request) -> Response:
    del request
    content = (importlib.resources.files("jtl") / "assets" / "serve" / name).read_bytes()
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
    }
    return Response(content, headers=headers, media_type=kind)


async def _refused(request: Request, error: Any) -> Response:
    del request
    return answers.as_response(refusal.as_json(error), error.status, error.headers)


async def _not_there(request: Request, error: Any) -> Response:
    found = f"{request.method} {request.url.path[:100]}"
    told = Refused(error.status_code, found, EXPECTED.get(error.status_code, str(error.detail)))
    return answers.as_response(refusal.as_json(told), told.status, error.headers)


async def _left(request: Request, error: Any) -> Response:
    """Answer a client that has gone, which nobody reads; the log of requests has it."""
    del request, error
    return Response(status_code=CLIENT_LEFT)


async def _bug(request: Request, error: Any) -> Response:
    """Answer a bug of ours; its traceback goes to standard error."""
    del request, error
    return answers.as_response(
        {"error": {"status": BUG, "message": "a bug of the server; its log has more"}}, BUG
    )
