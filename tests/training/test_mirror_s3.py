"""A mirror in a bucket of a server that speaks S3: the same as in a folder, and its faults in one line."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jtl import object_store
from jtl.errors import UserError
from jtl.training import checkpoint_files, config, mirror
from jtl.training import run as train

# A server, and clients with a loop of their own, which are collected when they are.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("without_pictures"),
    pytest.mark.filterwarnings("ignore"),
]

SETTINGS = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    "strategy": {"name": "lora", "rank": 2},
    "train": {"steps": 6, "batch_size": 64, "eval_every": 2, "eval_batch_size": 200},
    "sharding": {"devices": 1},
}
MISSING = "no S3 server here: pip install s3fs 'moto[server]'"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A file system of S3 with the bucket "runs"."""
    s3fs, moto = (pytest.importorskip(name, reason=MISSING) for name in ("s3fs", "moto.server"))
    found = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    _, port = found.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # Nothing of the user's own, and no machine of Amazon is asked for credentials.
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # All servers of a process share what they hold.
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", data=b"").close()
    system = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    system.mkdir("runs")
    yield system
    found.stop()


def _settings(url: str) -> config.Config:
    return config.with_overrides(config.from_dict(SETTINGS), [("train.mirror", url)])


def _contents(run: Path) -> dict[str, bytes]:
    found = [*mirror.run_files(run), *(path for path in (run / "checkpoints").rglob("*") if path.is_file())]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def test_run_is_mirrored_lost_and_gone_on_with_from_a_bucket(server: Any, tmp_path: Path) -> None:
    settings = _settings("s3://runs/digits")
    result = train.run(settings, tmp_path / "run")
    assert train.run(settings, tmp_path / "again") == result
    assert _contents(tmp_path / "again") == _contents(tmp_path / "run")
    # As it was before the last checkpoint, on a machine that is gone.
    store = object_store.opened("s3://runs/digits")
    about = mirror.read(store)
    assert about is not None
    del about["checkpoints"]["6"]
    for name in ("summary.json", "model.safetensors"):
        del about["files"][name]
    store.write(mirror.MANIFEST, json.dumps(checkpoint_files.sealed(about)).encode())
    other = train.run(settings, tmp_path / "other")
    assert other["digest"] == result["digest"]
    named = {entry["sha256"] for each in _parts(mirror.read(store)) for entry in each.values()}
    assert named == {path.rsplit("/", 1)[1] for path in server.ls("runs/digits/objects")}


def _parts(about: Any) -> list[Any]:
    return [about["files"], *about["checkpoints"].values()]


def test_changed_object_of_a_bucket_is_left_out_with_a_line(server: Any, tmp_path: Path) -> None:
    settings = _settings("s3://runs/digits")
    train.run(settings, tmp_path / "run")
    store = object_store.opened("s3://runs/digits", sleep=lambda seconds: None)
    about = mirror.read(store)
    assert about is not None
    entry = max(about["checkpoints"]["6"].values(), key=lambda each: each["bytes"])
    path = f"runs/digits/objects/{entry['sha256']}"
    content = bytearray(server.cat_file(path))
    content[len(content) // 2] ^= 1
    server.pipe_file(path, bytes(content))
    shutil.rmtree(tmp_path / "run")
    said: list[str] = []
    assert mirror.fetch(store, tmp_path / "run", settings, said.append)
    assert checkpoint_files.steps(tmp_path / "run/checkpoints")[-1] == 4
    assert any("checkpoint 6 is left out: OSError: object" in line for line in said)


def test_bucket_that_is_none_and_credentials_that_are_none_are_one_line(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"'s3://nowhere/run' cannot be .*bucket does not exist"):
        train.run(_settings("s3://nowhere/run"), tmp_path / "run")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=r"cannot be read \(NoCredentialsError: Unable to locate credentials"):
        train.run(_settings("s3://runs/digits"), tmp_path / "run")
