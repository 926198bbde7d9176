"""What is answered: every way to send something gives what `jtl predict` says of it, and errors say why."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from jtl import predictor as predictors
from jtl.serve import engine
from jtl.serve.state import Served
from tests.serve.conftest import make_served, png, warm

Running = tuple[Served, TestClient]
PREDICT, TYPE = "/v1/predict", "Content-Type"


def expected(served: Served, raws: list[Any]) -> np.ndarray:
    """What the predictor itself says, by its own pre-processing, of all in one batch."""
    parts = served.engine.predictor
    transform = parts.input.transform(parts.preprocess, None)
    batch = parts.input.collate([transform(raw, None) for raw in raws], (16,), parts.preprocess)
    return np.asarray(predictors.make_predict_step(parts)(parts.values, batch))


def values(results: list[dict[str, Any]]) -> np.ndarray:
    """The values of results in the order of the outputs."""
    found = np.zeros((len(results), len(results[0]["predictions"])))
    for row, result in enumerate(results):
        for each in result["predictions"]:
            found[row, each["index"]] = each["value"]
    return found


def raw(content: bytes, kind: str) -> dict[str, Any]:
    return {"content": content, "headers": {TYPE: kind}}


def form(*contents: bytes) -> dict[str, Any]:
    return {"files": [("file", (f"{index}.png", each)) for index, each in enumerate(contents)]}


def encoded(*contents: bytes) -> dict[str, Any]:
    given = [base64.b64encode(each).decode() for each in contents]
    named = [{"base64": each, "id": str(index)} for index, each in enumerate(given)]
    return {"json": {"inputs": [given[0], *named[1:]]}}


def test_every_way_to_send_pictures_gives_what_the_predictor_says(images: Running) -> None:
    served, client = images
    raws = [png(seed) for seed in range(5)]
    wanted = expected(served, raws)
    for sent in (form(*raws), encoded(*raws)):
        answer = client.post(PREDICT, **sent)
        assert answer.status_code == 200
        np.testing.assert_allclose(values(answer.json()["results"]), wanted, atol=1e-5)
    url = "data:image/png;base64," + base64.b64encode(raws[1]).decode()
    kinds = ("application/octet-stream", "image/png")
    for sent in (*(raw(raws[1], kind) for kind in kinds), {"json": {"inputs": url}}):
        answer = client.post(PREDICT, **sent)
        np.testing.assert_allclose(values(answer.json()["results"]), wanted[1:2], atol=1e-5)


def test_answer_names_items_and_classes_and_gives_the_first_ones(images: Running) -> None:
    _, client = images
    found = client.post(
        f"{PREDICT}?top=2", files=[("a", ("cat.png", png())), ("b", ("bär.png", png(1)))]
    ).json()
    assert (found["model"], found["kind"]) == ("tiny", "class")
    assert [row["id"] for row in found["results"]] == ["cat.png", "bär.png"]
    for row in found["results"]:
        first, second = row["predictions"]
        assert first["value"] >= second["value"]
        assert first["label"] == ("ant", "bee", "cow")[first["index"]]


def test_every_way_to_send_texts_gives_what_the_predictor_says(texts: Running) -> None:
    served, client = texts
    assert client.get("/v1/model").json()["reads"] == "texts"
    raws = ["a good film", ("a good film", "a bad one"), "bad"]
    wanted = expected(served, raws)
    inputs = [raws[0], list(raws[1]), {"text": raws[2], "id": "third"}]
    found = client.post(PREDICT, json={"inputs": inputs}).json()["results"]
    assert [row["id"] for row in found] == ["0", "1", "third"]
    np.testing.assert_allclose(values(found), wanted, atol=1e-5)
    pair = {"inputs": {"text": raws[1][0], "text_pair": raws[1][1]}}
    found = client.post(PREDICT, json=pair).json()["results"]
    np.testing.assert_allclose(values(found), wanted[1:2], atol=1e-5)
    for sent in (
        raw(raws[2].encode(), "text/plain; charset=utf-8"),
        {"files": {"file": ("a.txt", b"bad\n")}},
    ):
        found = client.post(PREDICT, **sent).json()["results"]
        np.testing.assert_allclose(values(found), wanted[2:], atol=1e-5)


def test_explanation_is_a_picture_of_pictures_and_tokens_of_texts(images: Running, texts: Running) -> None:
    row = client_row(images[1].post(f"{PREDICT}?explain=1", **form(png())))
    told = row["explanation"]
    assert told["label"] == row["predictions"][0]["label"]
    with Image.open(io.BytesIO(base64.b64decode(told["picture"].partition(",")[2]))) as picture:
        assert picture.format == "PNG"
    told = client_row(texts[1].post(f"{PREDICT}?explain=1", json={"inputs": "a good film"}))["explanation"]
    assert len(told["tokens"]) == 5
    assert {"text", "kind", "value"} == told["tokens"][0].keys()


def client_row(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def test_program_without_layers_predicts_and_says_why_it_explains_nothing(
    starting: Callable[..., Running],
) -> None:
    served, client = starting("cifar_resnet", is_program=True, max_batch=1)
    assert served.engine.num_programs == 1
    warm(client)
    told = client_row(client.post(f"{PREDICT}?explain=1", **form(png())))["explanation"]
    assert told == {"missing": served.engine.method}
    assert "no layers to look into" in served.engine.method
    assert client.get("/v1/model").json()["explains"] is False


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that states many pixels."""
    header = (side).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    packed = (len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


JSON, FORM = "application/json", "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "nothing": (400, "an empty body; expected files or texts", {}),
    "another type": (415, "content-type 'video/mp4'; expected app", raw(b"a", "video/mp4")),
    "no type": (415, "no content-type; expected application/json", {"content": b"a"}),
    "a form of fields": (415, r"curl: -F file=@PHOTO.jpg", {"data": {"a": "b"}}),
    "a text": (415, "a text; expected images", raw(b"a", "text/plain")),
    "no JSON": (400, "a body that is no JSON", raw(b"{", JSON)),
    "deep JSON": (400, "a body that is no JSON", raw(b"[" * 90_000, JSON)),
    "no Unicode": (400, "a body that is no JSON", raw(b'"\xff"', JSON)),
    "no inputs": (400, "an object of 'a' without \"inputs\"; expected", {"json": {"a": 1}}),
    "a list": (400, 'a list of 1 without "inputs"', {"json": [1]}),
    "another key": (400, "the key 'top'; expected .* in the query", {"json": {"inputs": [], "top": 1}}),
    "no items": (400, "a request without items", {"json": {"inputs": []}}),
    "no file": (400, "a form that is cut short|without items", raw(b"--x--", FORM)),
    "no boundary": (400, "without a boundary", raw(b"a", "multipart/form-data")),
    "a cut form": (400, "a form that is cut short", raw(PART + b"abc", FORM)),
    "a damaged form": (400, "a damaged form", raw(b"abc", FORM)),
    "headers without end": (400, "a damaged form", raw(PART[:-2] + b"A: b\r\n" * 20 + b"\r\n", FORM)),
    "a field": (400, "field 'top', which is no file", {"files": {"a": ("a", b"a")}, "data": {"top": "1"}}),
    "too many": (413, "9 items; expected at most 8", {"json": {"inputs": ["YQ=="] * 9}}),
    "too many files": (413, "9 items; expected at most 8", form(*[b"a"] * 9)),
    "too long": (413, "a body of 1.1 MB; expected at most 1 MB", {"content": bytes(1_100_000)}),
    "compressed": (415, "'gzip'; expected", {"content": b"a", "headers": {"Content-Encoding": "gzip"}}),
    "no picture": (422, "it is none of JPEG", form(b"hello")),
    "an empty file": (422, "it is empty", form(b"")),
    "a cut picture": (422, "it is damaged: it is cut short", form(png()[:-20])),
    "a bomb": (422, "pixels are over the limit|could be decompression bomb", form(bomb(60_000))),
    "a large picture": (413, "200 x 200 pixels; expected at most 10,000 in all", form(bomb(200))),
    "no base64": (422, "no base64", {"json": {"inputs": "no base64"}}),
    "a number": (422, "a number; expected a picture in base64", {"json": {"inputs": 3}}),
    "null": (422, "null; expected", {"json": {"inputs": [None]}}),
    "a bad id": (422, "id 3; expected a string", {"json": {"inputs": [{"base64": "", "id": 3}]}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_told_with_what_is_expected(images: Running, case: str) -> None:
    status, message, sent = REFUSED[case]
    answer = images[1].post(PREDICT, **sent)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"] == f"{error['found']}; expected {error['expected']}"
    with pytest.raises(ValueError, match=message):
        raise ValueError(error["message"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("top=0", "top='0'; expected a number of classes"),
        ("top=all", "top='all'; expected"),
        ("explain=yes", "explain='yes'; expected 0 or 1"),
        ("topp=3", "query parameter 'topp'; expected top or explain; nearest: 'top'"),
    ],
)
def test_query_that_says_nothing_is_refused(images: Running, query: str, message: str) -> None:
    answer = images[1].post(f"{PREDICT}?{query}", **form(png()))
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_texts_that_are_too_long_or_none_are_refused(texts: Running) -> None:
    client = texts[1]
    content = json.dumps({"inputs": ["good", "a" * 61, ["a"], "\ud800"]}).encode()
    told = client.post(PREDICT, **raw(content, JSON))
    assert told.status_code == 422
    first, *others = told.json()["results"]
    assert "predictions" in first
    assert [row["error"]["status"] for row in others] == [413, 422, 422]
    assert "61 letters; expected at most 60" in others[0]["error"]["message"]
    assert "a list of 1; expected a text" in others[1]["error"]["message"]
    assert client.post(PREDICT, **raw(png(), "image/png")).status_code == 415
    assert client.post(PREDICT, **raw(b"\xff", "text/plain")).status_code == 422


def test_one_bad_item_leaves_the_others_their_answers(images: Running) -> None:
    served, client = images
    answer = client.post(PREDICT, **form(png(1), b"no picture", png(2)))
    assert answer.status_code == 422
    told = answer.json()
    assert "1 of 3 items are refused, the others answered" in told["error"]["message"]
    good = [told["results"][0], told["results"][2]]
    np.testing.assert_allclose(values(good), expected(served, [png(1), png(2)]), atol=1e-5)
    assert "none of JPEG" in told["results"][1]["error"]["message"]


def test_too_many_to_explain_are_refused(images: Running) -> None:
    answer = images[1].post(f"{PREDICT}?explain=1", **form(*[png()] * 9))
    assert answer.status_code == 413


def test_names_that_are_no_unicode_come_back(images: Running) -> None:
    item = {"base64": base64.b64encode(png()).decode(), "id": "\ud83d"}
    content = json.dumps({"inputs": item}).encode()
    answer = images[1].post(PREDICT, **raw(content, JSON))
    assert answer.json()["results"][0]["id"] == "\ud83d"


def test_longer_batches_of_texts_give_the_same_answers() -> None:
    served = make_served("bert", max_batch=1)
    made = served.engine._replace(lengths=(8, 16))
    example = served.transform("a good film", None)
    short, long = (engine.run(made, [example], 1, length) for length in made.lengths)
    np.testing.assert_allclose(short, long, atol=1e-5)
