"""hf://org/name becomes a folder with weights and what describes them, and every refusal says what to do."""

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save

from jtl.errors import UserError
from jtl.inputs import INPUTS, tokens
from jtl.training import config, seen
from jtl.weights import Config
from jtl.weights.hub import beside
from jtl.weights.hub import resolve as hub
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from tests.weights import serving
from tests.weights.serving import COMMIT, CONTENT, SHA256, Server

WEIGHTS = save({"a": np.arange(4, dtype=np.float32)})
TOKENIZERS = Path(__file__).parents[1] / "goldens" / "tokens"
RESOLVE = "/org/name/resolve"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client repeat what failed without waiting."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def fetched(server: Server) -> list[str]:
    """Return the paths whose content was asked for, less what the client asks about itself."""
    return [path for method, path, _ in server.requests if method == "GET" and "/api/" not in path]


def resolve(tmp_path: Path, spec: str = "hf://org/name", **settings: Any) -> hub.Resolved:
    return hub.resolve(spec, Config(cache_dir=str(tmp_path), **settings))


def refusal(tmp_path: Path, spec: str = "hf://org/name", **settings: Any) -> str:
    """Return the one line that a spec is refused with."""
    with pytest.raises(UserError) as caught:
        resolve(tmp_path, spec, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def shard_files(second: str = "model-00002-of-00002.safetensors") -> dict[str, bytes]:
    first = "model-00001-of-00002.safetensors"
    return {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": first, "b": second}}).encode(),
        first: save({"a": np.ones(2, np.float32)}),
        "model-00002-of-00002.safetensors": save({"b": np.ones(3, np.float32)}),
    }


def test_repository_is_fetched_once_with_what_describes_it(hugging_face: Server, tmp_path: Path) -> None:
    files = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type": "none"}', "README.md": b"# no"}
    serving.publish(hugging_face, files)
    found = resolve(tmp_path)
    assert found.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert sorted(each.name for each in found.path.iterdir()) == ["config.json", "model.safetensors"]
    assert list(open_path(found.path).tensors) == ["a"]
    assert resolve(tmp_path) == found
    wanted = [f"{RESOLVE}/main/model.safetensors", f"{RESOLVE}/{COMMIT}/config.json"]
    assert sorted(fetched(hugging_face)) == sorted(wanted)


def asked_for(server: Server) -> set[str]:
    """Return the names of the files that the hub was asked about."""
    return {path.rpartition("/")[2] for _, path, _ in server.requests if "/resolve/" in path}


def test_tokenizer_of_a_text_model_is_fetched_and_not_its_parts(hugging_face: Server, tmp_path: Path) -> None:
    files = {name: (TOKENIZERS / "words" / name).read_bytes() for name in ("tokenizer.json", "vocab.txt")}
    settings = {"config.json": b'{"model_type": "none"}', "tokenizer_config.json": b'{"model_max_length": 9}'}
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS, **settings, **files})
    found = resolve(tmp_path)
    assert open_path(found.path).preprocess == tokens.of_file(found.path / "tokenizer.json", max_tokens=9)
    assert "vocab.txt" not in asked_for(hugging_face)


def test_parts_of_a_tokenizer_are_fetched_where_it_has_no_file(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    files = {name: (TOKENIZERS / "pairs" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS, **files})
    preprocess = open_path(resolve(tmp_path).path).preprocess
    assert isinstance(preprocess, tokens.Preprocess)
    assert (
        preprocess.vocabulary == tokens.of_file(TOKENIZERS / "pairs/tokenizer.json", max_tokens=9).vocabulary
    )


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b'{"architecture": "resnet18", "num_classes": 2}'},
        {"preprocessor_config.json": b'{"image_processor_type": "CLIPImageProcessor"}'},
    ],
)
def test_hub_is_not_asked_for_the_tokenizer_of_a_model_of_images(
    hugging_face: Server, tmp_path: Path, files: dict[str, bytes]
) -> None:
    tokenizer = (TOKENIZERS / "words/tokenizer.json").read_bytes()
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS, "tokenizer.json": tokenizer, **files})
    resolve(tmp_path)
    assert asked_for(hugging_face) == {"model.safetensors", *beside.NAMES}


def test_config_that_is_missing_is_no_fault(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    file = open_path(resolve(tmp_path).path)
    assert (file.stated, file.label_names, file.preprocess) == ({}, None, None)


def test_config_that_the_hub_fails_to_give_is_one(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    hugging_face.answers[f"{RESOLVE}/{COMMIT}/config.json"] = {"status": 403}
    assert "asks for a login for config.json" in refusal(tmp_path)


def test_named_file_and_revision_are_the_specs(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"sub/weights.bin": CONTENT, "config.json": b"{}"}, "v1")
    found = resolve(tmp_path, "hf://org/name/sub/weights.bin@v1")
    assert (found.path.name, found.sha256) == ("weights.bin", SHA256)
    assert fetched(hugging_face) == [f"{RESOLVE}/v1/sub/weights.bin"]


def test_pytorch_weights_are_taken_where_there_are_no_safer_ones(
    hugging_face: Server, tmp_path: Path
) -> None:
    content = (Path(__file__).parents[1] / "goldens" / "weights" / "tensors_zip.pt").read_bytes()
    serving.publish(hugging_face, {"pytorch_model.bin": content})
    assert open_path(resolve(tmp_path).path).format.startswith("PyTorch zip")
    hugging_face.answers.clear()
    serving.publish(hugging_face, {"pytorch_model.bin": content, "model.safetensors": WEIGHTS})
    assert open_path(resolve(tmp_path / "other").path).format == "safetensors"


@pytest.mark.parametrize("host", ["", "http://127.0.0.1", "http://localhost"])
def test_large_file_is_fetched_from_where_the_hub_sends(
    hugging_face: Server, tmp_path: Path, host: str
) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    port = hugging_face.base.rpartition(":")[2]
    serving.move(hugging_face, "model.safetensors", f"{host}:{port}/stored/at" if host else "/stored/at")
    found = resolve(tmp_path)
    assert found.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (found.path / "model.safetensors").resolve().name == found.sha256
    assert fetched(hugging_face)[-1] == "/stored/at"


def test_cut_download_is_resumed(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    # The client writes, and goes on from, whole chunks of ten megabytes.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", serving.CUT_AT)
    serving.publish(hugging_face, {"weights.bin": CONTENT})
    hugging_face.answers[f"{RESOLVE}/main/weights.bin"]["cuts"] = 1
    assert resolve(tmp_path, "hf://org/name/weights.bin").sha256 == SHA256
    ranges = [request[2] for request in hugging_face.requests if request[0] == "GET" and request[2]]
    assert ranges == [f"bytes={serving.CUT_AT}-"]


def test_wrong_checksum_is_refused(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert f"have sha256 {digest}; weights.sha256 expects {'0' * 64}" in refusal(tmp_path, sha256="0" * 64)


def test_file_that_is_not_what_the_hub_says_is_refused(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    serving.move(hugging_face, "model.safetensors", "/stored/at", etag="f" * 64)
    assert f"the hub says {'f' * 64}); it is the copy of a download: `rm -r " in refusal(tmp_path)


def test_cache_that_was_damaged_is_refused(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    serving.move(hugging_face, "model.safetensors", "/stored/at")
    stored = (resolve(tmp_path).path / "model.safetensors").resolve()
    stored.write_bytes(WEIGHTS[:-1] + b"x")
    assert "is damaged (sha256 " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "EntryNotFound", "has no model.safetensors and no .*; name its file: hf://org/name/FILE"),
        (
            404,
            "RepoNotFound",
            "has no repository org/name, or none that is public; check its name, or log in",
        ),
        (404, "RevisionNotFound", "has no revision 'main'; give a branch, tag or commit"),
        (401, "RepoNotFound", "has no repository org/name, or none that is public"),
        (401, "", "asks for a login for model.safetensors, or gives it to nobody; log in"),
        (401, "GatedRepo", "is gated; accept its terms and log in"),
        (403, "GatedRepo", "is gated; accept its terms and log in"),
        (403, "", "asks for a login for model.safetensors"),
        (404, "", "has no model.safetensors and no"),
        (500, "", "answers HTTP 500 for model.safetensors; .*repeat the command later"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(
    hugging_face: Server, tmp_path: Path, status: int, code: str, message: str
) -> None:
    hugging_face.answers["*"] = {"status": status, "headers": {"X-Error-Code": code}, "body": b""}
    assert re.search(message, refusal(tmp_path))


def test_offline_with_an_empty_cache_says_which_file_to_fetch(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    found = refusal(tmp_path)
    assert "are not in the hub's cache" in found
    assert f"{hugging_face.base}{RESOLVE}/main/model.safetensors" in found
    assert hugging_face.requests == []


@pytest.mark.parametrize("kind", ["whole", "sharded", "pytorch"])
def test_offline_with_a_filled_cache_asks_nobody(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    files = {
        "whole": {"model.safetensors": WEIGHTS, "config.json": b"{}"},
        "sharded": shard_files(),
        "pytorch": {"pytorch_model.bin": CONTENT},
    }
    serving.publish(hugging_face, files[kind])
    found = resolve(tmp_path)
    hugging_face.requests.clear()
    offline(monkeypatch)
    assert resolve(tmp_path) == found
    assert hugging_face.requests == []


def test_home_folder_that_nothing_names_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(
        UserError, match=r"begins with the home folder, which nothing names; set HOME .*HF_HOME"
    ):
        hub.resolve("hf://org/name", Config())


def test_hub_that_is_away_leaves_the_cache_of_use(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    found = resolve(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert resolve(tmp_path) == found


def test_hub_that_is_away_leaves_a_cache_that_others_filled_of_use(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.publish(hugging_face, {"pytorch_model.bin": CONTENT})
    path = resolve(tmp_path, "hf://org/name/pytorch_model.bin").path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    asked = counted_asks(monkeypatch)
    assert resolve(tmp_path)[:2] == (path.parent, SHA256)
    # Each of these would wait for the hub.
    assert asked == ["model.safetensors"]


def counted_asks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that grows by the name of each file the client is asked for."""
    asked, download = [], huggingface_hub.hf_hub_download

    def counting(repo: str, name: str, **settings: Any) -> str:
        asked.append(name)
        return download(repo, name, **settings)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", counting)
    return asked


def test_what_the_hub_said_a_commit_lacks_is_not_asked_for_again(
    hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    found = resolve(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    asked = counted_asks(monkeypatch)
    assert resolve(tmp_path) == found
    assert asked == ["model.safetensors"]


def test_hub_is_asked_once_while_its_files_are_there(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    found = resolve(tmp_path)
    hugging_face.requests.clear()
    assert resolve(tmp_path) == found
    assert hugging_face.requests == []
    shutil.rmtree(tmp_path)
    assert resolve(tmp_path) == found
    assert fetched(hugging_face) == [f"{RESOLVE}/main/model.safetensors"]


def test_refusal_is_not_remembered(hugging_face: Server, tmp_path: Path) -> None:
    hugging_face.answers["*"] = {"status": 500, "body": b""}
    refusal(tmp_path)
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS})
    assert resolve(tmp_path).sha256 == hashlib.sha256(WEIGHTS).hexdigest()


def test_shards_are_fetched_beside_their_index(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, shard_files())
    found = resolve(tmp_path)
    file = open_path(found.path)
    assert file.format == "safetensors in 2 shards"
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {"a": (2,), "b": (3,)}
    digests = [hashlib.sha256(body).hexdigest() for name, body in shard_files().items() if "of" in name]
    assert found.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert hub.resolve(str(found.path), Config()).sha256 == found.sha256


def test_shard_that_the_repository_lacks_is_named(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, shard_files("model-00003-of-00002.safetensors"))
    assert "names 'model-00003-of-00002.safetensors', which is not in it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "a/b", "c:\\x", "x.index.json"])
def test_index_that_leads_elsewhere_fetches_nothing(hugging_face: Server, tmp_path: Path, name: str) -> None:
    serving.publish(hugging_face, shard_files(name))
    assert "expected names of files beside it: nothing was opened" in refusal(tmp_path)
    assert fetched(hugging_face) == [f"{RESOLVE}/main/model.safetensors.index.json"]


def test_tokenizer_of_a_repository_is_fetched_alone(hugging_face: Server, tmp_path: Path) -> None:
    content = (TOKENIZERS / "words" / "tokenizer.json").read_bytes()
    serving.publish(hugging_face, {"tokenizer.json": content, "model.safetensors": WEIGHTS})
    for spec in ("hf://org/name", "hf://org/name/tokenizer.json", "hf://org/name@main"):
        path = hub.tokenizer(spec, Config(cache_dir=str(tmp_path), sha256="f" * 64))
        assert path.read_bytes() == content
    assert {path.rpartition("/")[2] for path in fetched(hugging_face)} == {"tokenizer.json"}


def test_tokenizer_of_the_settings_may_be_of_a_hub(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"tokenizer.json": (TOKENIZERS / "words" / "tokenizer.json").read_bytes()})
    values = {"model": {"name": "bert"}, "weights": {"cache_dir": str(tmp_path)}}
    settings = config.from_dict({**values, "preprocess": {"tokenizer": "hf://org/name", "max_tokens": 9}})
    found = seen.fetched_changes(settings)
    assert Path(found.tokenizer).is_file()
    assert found.max_tokens == 9
    local = config.from_dict({**values, "preprocess": {"tokenizer": "here/tokenizer.json"}})
    assert seen.fetched_changes(local) == local.preprocess


def test_unreadable_file_of_a_repository_says_what_to_delete(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": b"none of it"})
    with pytest.raises(UserError, match=r"`rm -r .*models--org--name` clears it, to get it again"):
        recognise("hf://org/name", Config(cache_dir=str(tmp_path)))
    with pytest.raises(UserError, match=r"`rm -r .*models--org--name/blobs/.*` clears it, to get it again"):
        recognise("hf://org/name/model.safetensors", Config(cache_dir=str(tmp_path)))


def test_what_lies_damaged_beside_weights_says_how_to_clear_it(hugging_face: Server, tmp_path: Path) -> None:
    serving.publish(hugging_face, {"model.safetensors": WEIGHTS, "config.json": b"{cut"})
    assert re.search(r"`rm -r .*models--org--name` clears it, to get it again$", refusal(tmp_path))
    serving.publish(hugging_face, {"tokenizer.json": b"{cut"})
    values = {"model": {"name": "bert"}, "weights": {"cache_dir": str(tmp_path / "other")}}
    settings = config.from_dict({**values, "preprocess": {"tokenizer": "hf://org/name"}})
    with pytest.raises(UserError, match=r"tokenizer .* `rm -r .*/blobs/.*` clears it, to get it again$"):
        seen.settled(INPUTS["tokens"], tokens.Preprocess(), None, settings)


def test_busy_hub_is_called_so(hugging_face: Server, tmp_path: Path) -> None:
    hugging_face.answers["*"] = {"status": 429, "headers": {"Retry-After": "60"}, "body": b""}
    message = refusal(tmp_path)
    assert "is busy (HTTP 429 for model.safetensors" in message
    assert "repeat the command later" in message
