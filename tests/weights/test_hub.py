"""Specs become files: downloads are whole, verified and resumed, and every refusal says what to do."""

import hashlib
import itertools
import os
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.weights import Config
from jtl.weights.hub import download as download_module
from jtl.weights.hub import resolve as hub
from jtl.weights.hub.download import cache_path, download
from jtl.weights.recognise import recognise
from tests.weights import writing
from tests.weights.serving import CONTENT, CUT_AT, SHA256, Server


def assert_nothing_kept(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_download_is_whole_recorded_and_used_again(server: Server, tmp_path: Path) -> None:
    found = hub.resolve(f"{server.base}/ok.bin", Config(cache_dir=str(tmp_path)))
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == SHA256
    assert found.path.with_name(f"{found.path.name}.sha256").read_text().strip() == SHA256
    assert hub.resolve(f"{server.base}/ok.bin", Config(cache_dir=str(tmp_path))) == found
    assert len(server.requests) == 1


def test_cache_is_where_the_environment_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    assert hub.resolve(f"{server.base}/ok.bin", Config()).path.parent == tmp_path / "cache"


def test_google_storage_is_read_by_its_public_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.base)
    server.answers["/vit_models/a%20b.npz"] = {}
    hub.resolve("gs://vit_models/a b.npz", Config(cache_dir=str(tmp_path)))
    assert [path for _, path, _ in server.requests] == ["/vit_models/a%20b.npz"]


def test_cut_download_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.answers["/cut.bin"] = {"cuts": 2}
    found = download(f"{server.base}/cut.bin", tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert [each[2] for each in server.requests] == ["", f"bytes={CUT_AT}-", f"bytes={2 * CUT_AT}-"]


def test_download_cut_too_often_is_refused_and_resumed_by_the_next_call(
    server: Server, tmp_path: Path
) -> None:
    server.answers["/cut.bin"] = {"cuts": 3}
    with pytest.raises(
        UserError, match=r"failed 3 times .*cut at 300000 of 512000 bytes.*repeat the command"
    ):
        download(f"{server.base}/cut.bin", tmp_path)
    assert not cache_path(f"{server.base}/cut.bin", tmp_path).exists()
    assert download(f"{server.base}/cut.bin", tmp_path).sha256 == SHA256
    assert server.requests[-1][2] == f"bytes={3 * CUT_AT}-"


def test_file_that_changed_while_cut_starts_again(server: Server, tmp_path: Path) -> None:
    server.answers["/cut.bin"] = {"cuts": 3}
    with pytest.raises(UserError):
        download(f"{server.base}/cut.bin", tmp_path)
    server.answers["/cut.bin"] = {"etag": '"two"', "body": CONTENT[::-1]}
    assert download(f"{server.base}/cut.bin", tmp_path).path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_mark_of_its_version_a_cut_file_starts_again(
    server: Server, tmp_path: Path, etag: str
) -> None:
    server.answers["/cut.bin"] = {"cuts": 1, "etag": etag}
    assert download(f"{server.base}/cut.bin", tmp_path).sha256 == SHA256
    assert [each[2] for each in server.requests] == ["", ""]


def test_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.answers["/moved.bin"] = {"status": 302, "headers": {"Location": "/ok.bin"}, "body": b""}
    assert download(f"{server.base}/moved.bin", tmp_path).sha256 == SHA256


def test_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    settings = Config(cache_dir=str(tmp_path), sha256="0" * 64)
    with pytest.raises(
        UserError, match=f"has sha256 {SHA256}; weights.sha256 expects 0000.*nothing was kept"
    ):
        hub.resolve(f"{server.base}/ok.bin", settings)
    assert_nothing_kept(tmp_path)
    assert hub.resolve(f"{server.base}/ok.bin", Config(cache_dir=str(tmp_path), sha256=SHA256.upper()))


def test_damaged_cache_is_named_and_not_used(server: Server, tmp_path: Path) -> None:
    found = download(f"{server.base}/ok.bin", tmp_path)
    found.path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"is damaged \(sha256 .*\); it is the copy of a download: `rm -r "):
        download(f"{server.base}/ok.bin", tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 404}, "is not there .HTTP 404"),
        ({"status": 410}, "is not there .HTTP 410"),
        ({"status": 401}, "asks for a login .HTTP 401.; download it yourself and give its path"),
        ({"status": 403}, "asks for a login .HTTP 403"),
        ({"status": 500}, "failed 3 times .*500"),
        ({"status": 503}, r"is busy \(HTTP 503 Service Unavailable\); repeat the command later"),
        (
            {"status": 429, "headers": {"Retry-After": "120"}},
            r"is busy \(HTTP 429 Too Many Requests, try again after 120 s\)",
        ),
        ({"type": "text/html", "body": b"<html>log in</html>"}, "is a web page, not a file of weights"),
        ({"body": b"\n <!DOCTYPE html><p>log in"}, "is a web page, not a file of weights"),
        ({"body": b"<?xml version='1.0'?><Error/>"}, "is a web page, not a file of weights"),
        ({"body": b""}, "is empty; check the address"),
        ({"body": b"", "length": ""}, "is empty; check the address"),
        ({"status": 204, "body": b""}, "answers HTTP 204 No Content, which is no file"),
        ({"status": 203}, "answers HTTP 203 .*, which is no file"),
        ({"length": "many"}, "has Content-Length 'many', which is no number of bytes"),
        ({"length": "-1"}, "has Content-Length '-1', which is no number of bytes"),
        ({"headers": {"Content-Encoding": "gzip"}}, "comes compressed .Content-Encoding 'gzip'."),
        ({"length": ""}, "came without a length, and is cut or no file of weights .*nothing was kept"),
        ({"status": 206, "range": "bytes 5-9/10"}, "failed 3 times .*'bytes 5-9/10' came; asked for"),
        (
            {"status": 302, "headers": {"Location": "ftp://host/x"}, "body": b""},
            "leads to ftp://, which is not followed",
        ),
        (
            {"status": 302, "headers": {"Location": "file://localhost/etc/hosts"}, "body": b""},
            "leads to no file .*not allowed",
        ),
        ({"status": 302, "headers": {"Location": "/x.bin"}, "body": b""}, "leads to no file .*infinite loop"),
    ],
)
def test_refusals_are_one_line_and_keep_nothing(
    server: Server, tmp_path: Path, answer: dict[str, Any], message: str
) -> None:
    server.answers["/x.bin"] = answer
    with pytest.raises(UserError, match=message) as caught:
        download(f"{server.base}/x.bin", tmp_path)
    assert "\n" not in str(caught.value)
    assert_nothing_kept(tmp_path)


def test_whole_file_of_weights_without_a_length_is_kept(server: Server, tmp_path: Path) -> None:
    content = Path(writing.save_safetensors(tmp_path / "x", {"a": np.ones(3, np.float32)})).read_bytes()
    (tmp_path / "cache").mkdir()
    server.answers["/x.safetensors"] = {"body": content, "length": ""}
    assert download(f"{server.base}/x.safetensors", tmp_path / "cache").path.read_bytes() == content
    server.answers["/cut.safetensors"] = {"body": content[:-1], "length": ""}
    with pytest.raises(UserError, match="came without a length, and is cut"):
        download(f"{server.base}/cut.safetensors", tmp_path / "cache")
    assert not cache_path(f"{server.base}/cut.safetensors", tmp_path / "cache").exists()


def test_another_range_than_asked_for_starts_again(server: Server, tmp_path: Path) -> None:
    server.answers["/cut.bin"] = {"cuts": 3}
    with pytest.raises(UserError):
        download(f"{server.base}/cut.bin", tmp_path)
    server.answers["/cut.bin"] = {"range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"}
    assert download(f"{server.base}/cut.bin", tmp_path).sha256 == SHA256
    assert [each[2] for each in server.requests][-2:] == [f"bytes={3 * CUT_AT}-", ""]


def test_drop_by_drop_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes fast stands for a server that is slow."""
    seconds = itertools.count(step=1000)
    monkeypatch.setattr(download_module, "CLOCK", lambda: float(next(seconds)))
    server.answers["/slow.bin"] = {"body": CONTENT[:1000]}
    with pytest.raises(UserError, match=r"comes too slowly \(1000 bytes in 1000 s\); repeat the command"):
        download(f"{server.base}/slow.bin", tmp_path)


@pytest.mark.parametrize("path", ["/a b.bin", "/ü.bin"])
def test_addresses_are_quoted(server: Server, tmp_path: Path, path: str) -> None:
    server.answers[urllib.parse.quote(path)] = {}
    assert download(server.base + path, tmp_path).sha256 == SHA256


@pytest.mark.parametrize("url", ["http://host:port/x", "http://a..b/x", "http:///x"])
def test_what_is_no_address_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"is no address|cannot be reached"):
        download(url, tmp_path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.npz"])
def test_unreadable_download_says_what_to_delete(server: Server, tmp_path: Path, name: str) -> None:
    server.answers[f"/{name}"] = {"body": b"this is none of it"}
    with pytest.raises(
        UserError, match=r"it is the copy of a download: `rm -r .*` clears it, to get it again"
    ) as caught:
        recognise(f"{server.base}/{name}", Config(cache_dir=str(tmp_path)))
    kept = cache_path(f"{server.base}/{name}", tmp_path)
    assert f"`rm -r {kept}`" in str(caught.value)
    kept.unlink()
    content = Path(writing.save_npz(tmp_path / "y.npz", {"a": np.ones(1)})).read_bytes()
    server.answers[f"/{name}"] = {"body": content}
    with pytest.raises(UserError, match="looks like no model jtl knows"):
        recognise(f"{server.base}/{name}", Config(cache_dir=str(tmp_path)))


def test_without_network_the_error_says_which_file_to_put_where(server: Server, tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/weights.npz"
    path = cache_path(url, tmp_path)
    with pytest.raises(UserError, match=r"cannot be reached .*without network put the file at") as caught:
        download(url, tmp_path)
    assert str(path) in str(caught.value)
    path.write_bytes(CONTENT)
    assert download(url, tmp_path).sha256 == SHA256


def test_local_file_has_its_checksum_verified(tmp_path: Path) -> None:
    spec = writing.save_npz(tmp_path / "x.npz", {"a": np.ones(1)})
    digest = hashlib.sha256(Path(spec).read_bytes()).hexdigest()
    assert hub.resolve(spec, Config(sha256=digest)).sha256 == digest
    with pytest.raises(UserError, match=f"have sha256 {digest}; weights.sha256 expects ffff"):
        hub.resolve(spec, Config(sha256="f" * 64))


def test_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = writing.save_npz(tmp_path / "x.npz", {"a": np.ones(1)})
    hashed, hash_file = [], hashlib.file_digest

    def counting(stream: Any, name: str) -> Any:
        hashed.append(stream.name)
        return hash_file(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    first = hub.resolve(spec, Config())
    assert hub.resolve(spec, Config()) == first
    assert len(hashed) == 1
    changed = Path(spec).read_bytes()[::-1]
    Path(spec).write_bytes(changed)
    # As long as it was, and of another time.
    os.utime(spec, ns=(1, 1))
    assert hub.resolve(spec, Config()).sha256 == hashlib.sha256(changed).hexdigest()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none", "'none' are random values: there is nothing to read or to look at; expected a file"),
        ("", "are the empty text ''; expected a file, a run folder"),
        (" ", "are the empty text ' '"),
        ("ftp://host/x", "unknown ftp://; expected a path or one of .*hf://, https://"),
        ("hf://name", "expected hf://org/name, hf://org/name/file or"),
        ("missing.npz", "are not there; nearest there.*: 'misting.npz'; expected a file, a run folder"),
        (".", "has no model.safetensors: it is no run folder"),
    ],
)
def test_specs_that_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    (tmp_path / "misting.npz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        hub.resolve(spec, Config())
