"""Who may write into a run folder: one process, until it ends."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jtl import owner
from jtl.errors import UserError

OTHER = {"host": "far", "pid": 7, "since": "2026-01-01 00:00:00"}


def _say(line: str) -> None:
    raise AssertionError(line)


def _as_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_ourselves", lambda: OTHER)


def test_folder_is_made_and_owned_and_gone_again_if_nothing_was_put_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with owner.owned(folder, _say):
        assert json.loads((folder / owner.NAME).read_text())["pid"] == os.getpid()
        assert owner.is_free(folder)
    assert not folder.exists()


def test_folder_whose_path_is_no_text_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """TensorStore takes names that are UTF-8 alone."""
    message = r"run folder '.*ru\\\\xe9n/a' has bytes in its path that are no UTF-8.*; give another --workdir"
    with pytest.raises(UserError, match=message), owner.owned(tmp_path / "ru\udce9n" / "a", _say):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with owner.owned(tmp_path, _say):
        assert not owner.is_free(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_process_is_refused_with_the_owners_name_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner.owned(tmp_path / "run", _say):
        mine = (tmp_path / "run" / owner.NAME).read_text()
        _as_another_process(monkeypatch)
        message = rf"run' is in use by process {os.getpid()} on \S+ since \S+ \S+; expected one process"
        with pytest.raises(UserError, match=message), owner.owned(tmp_path / "run", _say):
            pass
        assert (tmp_path / "run" / owner.NAME).read_text() == mine
    with owner.owned(tmp_path / "run", _say):
        assert json.loads((tmp_path / "run" / owner.NAME).read_text()) == OTHER


def test_the_same_process_goes_on(tmp_path: Path) -> None:
    with owner.owned(tmp_path / "run", _say):
        with owner.owned(tmp_path / "run", _say):
            pass
        assert (tmp_path / "run" / owner.NAME).exists()


def test_owner_that_has_no_name_yet_is_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "NAME_SECONDS", 0.0)
    with (tmp_path / owner.NAME).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by another process"), owner.owned(tmp_path, _say):
            pass


def test_owner_whose_name_is_damaged_is_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "NAME_SECONDS", 0.0)
    (tmp_path / owner.NAME).write_text("[" * 100_000)
    with (tmp_path / owner.NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by another process"), owner.owned(tmp_path, _say):
            pass


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / owner.NAME).write_text(json.dumps(OTHER))
    (tmp_path / ".config.json.7-ab.part").write_text("{")
    with owner.owned(tmp_path, _say):
        assert [path.name for path in tmp_path.iterdir()] == [owner.NAME]
    assert list(tmp_path.iterdir()) == []


def test_what_it_left_in_the_folder_of_a_split_goes_and_what_another_owner_writes_stays(
    tmp_path: Path,
) -> None:
    part = ".predictions.parquet.7-ab.part"
    for name in ("val", "other_run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / part).write_text("half")
    (tmp_path / "other_run" / owner.NAME).write_text("{}")
    (tmp_path / ".model.7-cd.part").mkdir()
    (tmp_path / ".model.7-cd.part" / "half").write_text("half")
    with owner.owned(tmp_path, _say):
        assert not (tmp_path / ".model.7-cd.part").exists()
        assert not (tmp_path / "val" / part).exists()
        assert (tmp_path / "other_run" / part).exists()


def test_file_system_without_locks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[str] = []
    with owner.owned(tmp_path / "run", told.append):
        pass
    assert len(told) == 1
    assert "no file locks here (Operation not supported); start no second run on it" in told[0]


def test_folder_that_is_a_file_is_left_to_who_opens_it(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with owner.owned(tmp_path / "run", _say):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_killed_owner_gives_the_folder_back_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from jtl import owner\n"
        "with owner.owned(Path(sys.argv[1]), print):\n    print('mine', flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"), owner.owned(tmp_path, _say):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with owner.owned(tmp_path, _say):
            pass
