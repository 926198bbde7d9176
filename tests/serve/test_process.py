"""A server in a process of its own: what it says of real pictures, and how it ends."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from benchmarks import serve
from jtl.export import parity

pytestmark = pytest.mark.slow
ONE = "--config.sharding.devices=1"
VIT = "weights/vit_tiny_patch16_224_augreg/vit_tiny_patch16_224.safetensors"
DIGITS = ("--config", "configs/smoke.py", ONE)
NUM_IMAGES = 153
A_REQUEST = 51


def trained(folder: Path, *words: str) -> str:
    """A run of `jtl train` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "jtl", "train", *words, "--workdir", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(folder)


def form(paths: list[Path]) -> tuple[bytes, str]:
    """The body and the type of a form of files."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n'
    parts = [head % index + path.read_bytes() + b"\r\n" for index, path in enumerate(paths)]
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def test_served_answers_are_the_trainers_validation_logits(real_path: Any, tmp_path: Path) -> None:
    """From the bytes of each file, over the wire; up to what probabilities do not tell, a constant."""
    words = (str(real_path("images/hymenoptera")), "--weights", str(real_path(VIT)), "--strategy", "probe")
    run = trained(tmp_path / "run", *words, "--epochs", "2", ONE)
    table = pyarrow.parquet.read_table(f"{run}/val/predictions.parquet").to_pydict()
    names = [name for name in table if name.startswith("probability of ")]
    expected = np.log(np.array([table[name] for name in names]).T)
    paths = [Path(each) for each in table["example"]]
    assert len(paths) == NUM_IMAGES
    found = np.zeros_like(expected)
    with serve.started(run) as server:
        for first in range(0, NUM_IMAGES, A_REQUEST):
            body, kind = form(paths[first : first + A_REQUEST])
            url = f"http://{server.host}:{server.port}/v1/predict"
            request = urllib.request.Request(url, body, {"Content-Type": kind})
            with urllib.request.urlopen(request) as answer:
                results = json.load(answer)["results"]
            for row, result in enumerate(results, start=first):
                for each in result["predictions"]:
                    assert f"probability of {each['label']}" == names[each["index"]]
                    found[row, each["index"]] = np.log(each["value"])
    measured = parity.compared(found, expected)
    assert measured.largest <= parity.TOLERANCE, measured.described()
    assert measured.num_same == NUM_IMAGES


def test_signal_under_load_loses_no_request_and_ends_with_0(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", *DIGITS)
    with serve.started(run) as server:
        outcomes = asyncio.run(serve.until_stopped(server, [serve.malformed.png(16, 16)], seconds=1.0))
        assert server.process.wait(60) == 0
        told = server.text()
    assert set(outcomes) == {"answered", "not connected"}
    assert "stopped by SIGTERM: " in told
    assert "requests answered, none lost" in told
    assert "Traceback" not in told


def test_signal_before_it_is_ready_has_the_code_of_a_signal(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", *DIGITS)
    words = [sys.executable, "-m", "jtl", "serve", "--run", run, "--port", "0", "--max-batch", "4096"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("compiling"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert told.splitlines()[-1] == "jtl: stopped by SIGTERM"
    assert time.monotonic() - began < 30
