"""What every server keeps: readiness, the key, its counts, its queue, and a page that loads nothing else."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from jtl.serve import app
from jtl.serve import engine as engines
from jtl.serve.state import Served
from tests.serve.conftest import png, warm

Running = tuple[Served, TestClient]
SENT: dict[str, Any] = {"files": {"file": ("a.png", png())}}


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> dict[str, threading.Event]:
    """Compile nothing; what runs waits until it is let go."""
    events = {"compiled": threading.Event(), "computed": threading.Event(), "begun": threading.Event()}

    def warmed(engine: Any, said: Callable[[int], object]) -> dict[int, float]:
        said(1)
        assert events["compiled"].wait(60)
        return {size: 1.0 for size in engine.sizes}

    def run(engine: Any, examples: list[Any]) -> np.ndarray:
        del engine
        events["begun"].set()
        assert events["computed"].wait(60)
        return np.tile(np.float32([0.2, 0.5, 0.3]), (len(examples), 1))

    monkeypatch.setattr(engines, "warmed", warmed)
    monkeypatch.setattr(engines, "run", run)
    return events


@pytest.fixture
def running(starting: Callable[..., Running], stubbed: dict[str, threading.Event]) -> Running:
    """A server that is ready."""
    found = starting("vit")
    for event in stubbed.values():
        event.set()
    warm(found[1])
    return found


def test_it_is_alive_before_it_is_ready_and_predicts_only_then(
    starting: Callable[..., Running], stubbed: dict[str, threading.Event]
) -> None:
    _, client = starting("vit")
    stubbed["computed"].set()
    assert client.get("/healthz").json() == {"status": "alive"}
    while client.get("/readyz").json()["status"] != "1 of 4 programs are compiled":
        pass
    early = client.post("/v1/predict", **SENT)
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert "1 of 4 programs are compiled; expected" in early.json()["error"]["message"]
    stubbed["compiled"].set()
    warm(client)
    assert client.post("/v1/predict", **SENT).status_code == 200


@pytest.mark.parametrize(
    ("task", "kind", "labels"),
    [
        ("multilabel", "multilabel", ["bee", "cow"]),
        ("regression", "regression", ["value0", "value1", "value2"]),
    ],
)
def test_other_tasks_say_what_their_values_are(
    starting: Callable[..., Running],
    stubbed: dict[str, threading.Event],
    task: str,
    kind: str,
    labels: list[str],
) -> None:
    _, client = starting("vit", task=task)
    for event in stubbed.values():
        event.set()
    warm(client)
    found = client.post("/v1/predict?top=2", **SENT).json()
    assert found["kind"] == kind
    assert [each["label"] for each in found["results"][0]["predictions"]] == labels


def test_server_that_stops_is_not_ready_and_closes_connections_behind_its_answers(
    running: Running,
) -> None:
    served, client = running
    assert "connection" not in client.get("/readyz").headers
    served.is_stopping = True
    assert client.get("/readyz").status_code == 503
    answer = client.post("/v1/predict", **SENT)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_full_queue_is_503_with_when_to_come_again(
    starting: Callable[..., Running], stubbed: dict[str, threading.Event]
) -> None:
    served, client = starting("vit", max_queue=3)
    stubbed["compiled"].set()
    warm(client)
    three = {"files": [("file", (f"{index}.png", png())) for index in range(3)]}
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/v1/predict", **three)))
    asking.start()
    assert stubbed["begun"].wait(60)
    full = client.post("/v1/predict", **SENT)
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert "3 items wait for the model, and 1 more are over the limit" in full.json()["error"]["message"]
    assert "jtl_queue_items 3.0" in client.get("/metrics").text
    stubbed["computed"].set()
    asking.join()
    assert answers[0].status_code == 200
    assert client.post("/v1/predict", **SENT).status_code == 200
    assert served.held.num_bytes == 0


def test_bodies_beyond_what_is_held_are_503(running: Running) -> None:
    served, client = running
    served.held.take(served.settings.max_held_bytes)
    assert client.post("/v1/predict", **SENT).status_code == 503
    served.held.give_back(served.settings.max_held_bytes)
    assert client.post("/v1/predict", **SENT).status_code == 200


def test_fault_of_the_model_is_500_for_those_who_wait_and_ends_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = running
    assert served.batcher is not None

    def fail(inputs: list[Any]) -> np.ndarray:
        raise RuntimeError(f"{len(inputs)} lost")

    with monkeypatch.context() as patch:
        patch.setattr(served.batcher, "_compute", fail)
        answer = client.post("/v1/predict", **SENT)
    assert (answer.status_code, answer.json()["error"]["status"]) == (500, 500)
    assert client.post("/v1/predict", **SENT).status_code == 200


def test_model_that_cannot_be_compiled_is_said_once(
    starting: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Any, said: Any) -> dict[int, float]:
        raise MemoryError("no room")

    monkeypatch.setattr(engines, "warmed", fail)
    served, client = starting("vit")
    while served.fault is None:
        assert client.get("/readyz").status_code == 503
    assert str(served.fault) == "no room"


def test_key_is_asked_for_where_there_is_one(
    starting: Callable[..., Running], stubbed: dict[str, threading.Event]
) -> None:
    _, client = starting("vit", key="s3cret")
    for event in stubbed.values():
        event.set()
    warm(client)
    for given in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}):
        for ask in (partial_post(client, given), lambda given=given: client.get("/v1/model", headers=given)):
            answer = ask()
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "s3cret" not in answer.text
        assert client.get("/metrics", headers=given).status_code == 401
    right = {"Authorization": "Bearer s3cret"}
    assert client.post("/v1/predict", headers=right, **SENT).status_code == 200
    assert client.get("/metrics", headers=right).status_code == 200
    assert client.get("/").status_code == client.get("/healthz").status_code == 200


def partial_post(client: TestClient, headers: dict[str, str]) -> Callable[[], Any]:
    return lambda: client.post("/v1/predict", headers=headers, **SENT)


def test_metrics_count_requests_by_code_and_no_path_of_a_stranger(running: Running) -> None:
    _, client = running
    client.post("/v1/predict", **SENT)
    client.get("/wp-login.php")
    lines = client.get("/metrics").text.splitlines()
    assert any(line.startswith('jtl_requests_total{code="200",path="/v1/predict"}') for line in lines)
    assert any(line.startswith('jtl_requests_total{code="404",path="other"}') for line in lines)
    names = (
        "jtl_request_seconds_bucket",
        "jtl_batch_items_bucket",
        "jtl_batch_seconds_bucket",
        "jtl_ready 1.0",
    )
    for name in (
        *names,
        "jtl_queue_items 0.0",
        'jtl_items_total{outcome="predicted"}',
        "process_resident_memory",
    ):
        assert any(line.startswith(name) for line in lines), name
    assert not any("wp-login" in line for line in lines)


def test_paths_and_methods_that_there_are_not_say_which_there_are(running: Running) -> None:
    _, client = running
    assert "GET /nowhere; expected POST /v1/predict" in client.get("/nowhere").json()["error"]["message"]
    answer = client.get("/v1/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "expected POST for /v1/predict" in answer.json()["error"]["message"]


def test_page_loads_nothing_but_its_own_files(running: Running) -> None:
    _, client = running
    for path, (_, kind) in app.ASSETS.items():
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text.replace("${location.origin}", "")
    page = client.get("/").text
    assert "<script>" not in page
    assert "style=" not in page
    assert "innerHTML" not in client.get("/page.js").text


def test_model_says_what_it_reads_and_its_limits(running: Running) -> None:
    found = running[1].get("/v1/model").json()
    assert (found["reads"], found["classes"]) == ("images", ["ant", "bee", "cow"])
    assert found["batch_sizes"] == [1, 2, 4]
    assert found["limits"]["max_pixels"] == 10_000
