"""First contact: one command is known, and every other is one that a command before it printed."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl import cli

FIRST = "jtl train photos/ --weights embedded://vit_mini --epochs 3 --workdir runs/photos"
# What a reader has in place of the words in capitals.
OWN = {"FILES": "photos/bees/1.png", "DATA": "photos", "LABELLED_DATA": "photos"}
NUM_IMAGES = 24


def run(command: str, folder: Path) -> list[str]:
    """Run a command as it is printed, and return those that it prints."""
    words = [OWN.get(word, word) for word in shlex.split(command)[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "jtl", *words], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-800:]}"
    return [line.removeprefix("next: ") for line in done.stderr.splitlines() if line.startswith("next: ")]


@pytest.mark.slow
def test_every_command_that_is_printed_runs_as_it_is_printed(tmp_path: Path) -> None:
    for index in range(NUM_IMAGES):
        path = tmp_path / "photos" / ("ants" if index % 2 else "bees") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 128, (16, 16), np.uint8) + 127 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    waiting, seen = [FIRST], set[str]()
    (tmp_path / "photos" / "bees" / "1.png").write_bytes((tmp_path / "photos/bees/0.png").read_bytes())
    while waiting:
        command = waiting.pop(0)
        # What serves does not end by itself; it has tests of its own.
        if command in seen or command.startswith("jtl serve"):
            continue
        seen.add(command)
        waiting += run(command, tmp_path)
    verbs = {command.split()[1] for command in seen}
    assert verbs >= {"train", "predict", "evaluate", "explain", "report"}
    assert (tmp_path / "predictions.csv").is_file()
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()


def test_program_alone_shows_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert "fine-tune on your data" in shown.err
