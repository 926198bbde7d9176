"""Tiny models that are served in this process: one that reads pictures, one that reads texts."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from jtl.inputs import tokens
from jtl.serve import app, engine
from jtl.serve.settings import Settings
from jtl.serve.state import Served
from jtl.tasks import TASKS
from tests import tiny

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"
# Small, so that tests reach them.
LIMITS: dict[str, Any] = {
    **{"max_batch": 4, "max_items": 8, "max_body_mb": 1},
    **{"max_pixels": 10_000, "max_letters": 60},
}


def png(seed: int = 0, side: int = 20) -> bytes:
    """Return a picture file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_served(family: str, *, is_program: bool = False, task: str = "multiclass", **changes: Any) -> Served:
    """Return a tiny model, ready to be served."""
    predictor = tiny.make_predictor(family, **({"vocabulary": 200} if family == "bert" else {}))
    if family == "bert":
        predictor = predictor._replace(preprocess=tokens.of_file(TOKENIZER, max_tokens=16))
    kind = TASKS[task]
    names = ("ant", "bee", "cow") if kind.label_kind != "regression" else ()
    stats = kind.stats(tiny.LABELS[task](np.random.default_rng(0), 30), names)
    whole = replace(predictor.settings, task=kind.Config())
    built = kind.build(whole.task, stats, predictor.preprocess)
    predictor = predictor._replace(settings=whole, stats=stats, task=built)
    settings = Settings(**{**LIMITS, **changes})
    made = engine.of_model(predictor, settings.max_batch, is_program=is_program)
    return Served(made, settings, "tiny")


def warm(client: TestClient) -> None:
    """Wait until every program is compiled."""
    while client.get("/readyz").status_code != 200:
        pass


@pytest.fixture(scope="module")
def images() -> Iterator[tuple[Served, TestClient]]:
    """A model that reads pictures, and a client of its server."""
    yield from _running("vit")


@pytest.fixture(scope="module")
def texts() -> Iterator[tuple[Served, TestClient]]:
    """A model that reads texts, and a client of its server."""
    yield from _running("bert")


@pytest.fixture
def starting() -> Iterator[Callable[..., tuple[Served, TestClient]]]:
    """Function that starts a server of a family under other settings; it ends with the test."""
    clients: list[TestClient] = []

    def start(family: str, **changes: Any) -> tuple[Served, TestClient]:
        served = make_served(family, **changes)
        clients.append(TestClient(app.make(served), raise_server_exceptions=False))
        return served, clients[-1].__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def _running(family: str) -> Iterator[tuple[Served, TestClient]]:
    served = make_served(family)
    with TestClient(app.make(served), raise_server_exceptions=False) as client:
        warm(client)
        yield served, client
