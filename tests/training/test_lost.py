"""A run folder that has lost its checkpoints is not begun anew in silence; one that never had any is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jtl.errors import UserError
from jtl.report import summary
from jtl.report.summary import Phases
from jtl.training import lost
from jtl.training.settings import Train

EVERY = Train(steps=12, checkpoint_every=4)
EVAL_EVERY = 6


def _check(folder: Path) -> None:
    lost.check(folder, EVERY, EVAL_EVERY)


def _metrics(folder: Path, last_step: int) -> None:
    lines = [json.dumps({"step": step, "time": 1.0, "train/loss": 1.0}) for step in range(1, last_step + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _summary(folder: Path, status: str, steps: int) -> None:
    given: dict[str, Any] = {"final": {}, "best": {}, "phases": Phases(), "num_examples": 0, "unit": "images"}
    given |= {"parameters": {"total": 1, "trainable": 1}, "weights": {"source": "none", "sha256": ""}}
    found = summary.build(status=status, steps=steps, digest="", peak_memory_bytes=0, **given)
    summary.write_json(folder / "summary.json", found)


@pytest.mark.parametrize("kept", [None, "", "checkpoints"])
def test_folder_in_which_nothing_was_saved_is_begun(tmp_path: Path, kept: str | None) -> None:
    folder = tmp_path / "run"
    if kept is not None:
        (folder / kept).mkdir(parents=True)
    _check(folder)


@pytest.mark.parametrize(
    ("last_step", "is_told"), [(3, False), (4, False), (6, False), (7, True), (12, True)]
)
def test_steps_behind_the_second_save_tell_of_the_first(
    tmp_path: Path, last_step: int, is_told: bool
) -> None:
    """Saves are due at steps 4 and 6; a process that was killed in the first one has saved nothing."""
    _metrics(tmp_path, last_step)
    if not is_told:
        _check(tmp_path)
        return
    with pytest.raises(
        UserError, match=rf"metrics.jsonl' tells of {last_step} steps, but .*checkpoints' has no"
    ):
        _check(tmp_path)


@pytest.mark.parametrize(("status", "steps"), [("preempted", 1), ("preempted", 10), ("finished", 12)])
@pytest.mark.parametrize("is_empty", [True, False])
def test_summary_tells_of_steps(tmp_path: Path, status: str, steps: int, is_empty: bool) -> None:
    _summary(tmp_path, status, steps)
    if is_empty:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=rf"summary.json' tells of {steps} steps, but .* has no checkpoint"):
        _check(tmp_path)
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    _check(tmp_path)


def test_run_stopped_before_its_first_step_is_begun(tmp_path: Path) -> None:
    _summary(tmp_path, "preempted", 0)
    _check(tmp_path)


def test_weights_tell_of_a_run_that_was_killed_in_its_final_report(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model.safetensors' is of a run that had done all its steps, but"):
        _check(tmp_path)


def test_damaged_checkpoints_alone_are_named(tmp_path: Path) -> None:
    (tmp_path / "damaged" / "10.0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no checkpoint left but damaged ones in .*damaged'; put a"):
        _check(tmp_path)
    shutil.move(tmp_path / "damaged" / "10.0", tmp_path / "checkpoints" / "10")
    _check(tmp_path)
