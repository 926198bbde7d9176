"""The folder of compiled programs: private, for one kind of processor, and without effect on any number."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jtl import runtime

ROOT = Path(__file__).parents[1]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str | None]:
    """Function that prepares a process whose caches are below `tmp_path`; gives the folder it chose."""
    for name in os.environ:
        if name.startswith("JAX_COMPILATION_CACHE") or name.startswith("JAX_PERSISTENT_CACHE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", "")

    def prepare() -> str | None:
        for name in ("JAX_COMPILATION_CACHE_MAX_SIZE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            # Set, so that what `prepare` sets is undone.
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv(runtime.COMPILED_VARIABLE, "x")
        monkeypatch.delenv(runtime.COMPILED_VARIABLE)
        runtime.prepare()
        return os.environ.get(runtime.COMPILED_VARIABLE)

    return prepare


def test_compiled_programs_are_kept_where_no_other_user_can_write(
    tmp_path: Path, prepared: Callable[[], str | None]
) -> None:
    found = prepared()
    assert found is not None
    assert Path(found).is_relative_to(tmp_path / "cache")
    for folder in (Path(found), Path(found).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert runtime.remarks() == [f"compiled programs are kept in {found}"]
    assert prepared() == found


def _opened(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o770)


def _linked(root: Path) -> None:
    root.parent.mkdir()
    (root.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(root.parent / "elsewhere")


def _exposed(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True)
    root.parent.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_opened, "can be written by others: chmod 700 it"),
        (_linked, "is no folder"),
        (_exposed, "where others can put another in its place"),
        (lambda root: root.parent.write_text(""), "Not a directory"),
    ],
)
def test_folder_that_others_could_fill_is_not_used(
    tmp_path: Path, prepared: Callable[[], str | None], spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(tmp_path / "cache" / "compiled")
    assert prepared() is None
    [line] = runtime.remarks()
    assert reason in line
    assert "each start compiles anew" in line


def test_folder_of_another_user_is_not_used(
    prepared: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: ours + 1)
    assert prepared() is None
    assert "belongs to another user" in runtime.remarks()[0]


def test_folder_that_the_user_names_stays(
    tmp_path: Path, prepared: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared()
    monkeypatch.setenv(runtime.COMPILED_VARIABLE, str(tmp_path))
    tmp_path.chmod(0o777)
    runtime.prepare()
    assert os.environ[runtime.COMPILED_VARIABLE] == str(tmp_path)
    assert "whoever can write there can run programs as you" in runtime.remarks()[0]
    monkeypatch.setenv(runtime.ENABLED_VARIABLE, "false")
    assert "not kept, as the environment says" in runtime.remarks()[0]


def test_each_kind_of_processor_has_a_folder_of_its_own(
    prepared: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are cut by the number of cores, and code is for one set of instructions."""
    found = {prepared()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(99)), raising=False)
    found.add(prepared())
    monkeypatch.setattr(runtime, "_processor", lambda: "flags: another")
    found.add(prepared())
    monkeypatch.setenv("NPROC", "7")
    found.add(prepared())
    assert len(found) == 4


def test_folders_that_nothing_used_for_long_go(tmp_path: Path, prepared: Callable[[], str | None]) -> None:
    found = prepared()
    root = tmp_path / "cache" / "compiled"
    ages = {"old": runtime.UNUSED_SECONDS + 60, "young": runtime.UNUSED_SECONDS - 60}
    for name, age in ages.items():
        (root / name).mkdir()
        os.utime(root / name, (time.time() - age,) * 2)
    assert prepared() == found
    assert {each.name for each in root.iterdir()} == {"young", Path(str(found)).name}


def test_what_runs_share_is_gone_after_them(
    prepared: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared()
    monkeypatch.delenv(runtime.COMPILED_VARIABLE)
    with runtime.shared_compiled():
        folder = Path(os.environ[runtime.COMPILED_VARIABLE])
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.slow
def test_second_start_compiles_nothing_and_trains_the_same(tmp_path: Path) -> None:
    """The programs of the first run are all that the second needs, and its digest is the same."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    variables |= {"JTL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    digests, kept = [], []
    for name in ("cold", "warm"):
        command = ["-m", "jtl.main", "--config", "configs/smoke.py", "--workdir", str(tmp_path / name)]
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=variables, check=True, capture_output=True, timeout=300
        )
        digests.append(json.loads((tmp_path / name / "summary.json").read_text())["digest"])
        kept.append({each.name for each in (tmp_path / "cache" / "compiled").glob("*/*-cache")})
    assert digests[0] == digests[1]
    assert kept[0] == kept[1]
    assert any("train_step" in name for name in kept[0])
