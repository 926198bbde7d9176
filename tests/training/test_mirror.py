"""The copy of a run folder in an object store: exact, gone on from, and never the end of a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jtl import object_store
from jtl.errors import UserError
from jtl.training import checkpoint_files, config, mirror, preparation
from jtl.training import run as train
from jtl.verbs import checkpoint

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    # Compiles soonest: its frozen layers run once.
    "strategy": {"name": "probe"},
    "train": {"steps": 6, "batch_size": 64, "eval_every": 2, "eval_batch_size": 200, "is_augmented": False},
    "sharding": {"devices": 1},
}


def _settings(url: Any, **changes: Any) -> config.Config:
    return config.with_overrides(config.from_dict(TINY), [("train.mirror", str(url)), *changes.items()])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A finished run, its mirror, and its summary."""
    folder = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jtl.training.account.write", lambda *_: None)
        patch.setattr("jtl.report.curves.plot", lambda *_: None)
        result = train.run(_settings(folder / "mirror"), folder / "run")
    return folder / "run", folder / "mirror", result


@pytest.fixture
def copied(sample: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, Path]:
    """A finished run and its mirror, to change."""
    run, kept, _ = sample
    return Path(shutil.copytree(run, tmp_path / "run")), Path(shutil.copytree(kept, tmp_path / "mirror"))


def _contents(run: Path) -> dict[str, bytes]:
    """Return the files of a run folder that a copy has."""
    found = list(mirror.run_files(run))
    found += [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def _without(kept: Path, keep: Callable[[str], bool]) -> None:
    """Take files and checkpoints out of a manifest, as they were before these were written."""
    path = kept / mirror.MANIFEST
    about = json.loads(path.read_text())
    about["files"] = {name: entry for name, entry in about["files"].items() if keep(name)}
    about["checkpoints"] = {
        step: entries for step, entries in about["checkpoints"].items() if keep(f"checkpoints/{step}")
    }
    path.write_text(json.dumps(checkpoint_files.sealed(about)))


def test_copy_has_every_file_and_no_other_object(sample: tuple[Path, Path, dict[str, Any]]) -> None:
    run, kept, _ = sample
    store = object_store.opened(str(kept))
    about = mirror.read(store)
    assert about is not None
    assert sorted(about["checkpoints"]) == sorted(path.name for path in (run / "checkpoints").iterdir())
    named = {
        entry["sha256"]
        for each in (about["files"], *about["checkpoints"].values())
        for entry in each.values()
    }
    assert named == {path.name for path in (kept / "objects").iterdir()}
    assert "summary.json" in about["files"]
    assert ".owner" not in about["files"]


def test_empty_folder_gets_the_whole_run_back(
    sample: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, kept, result = sample
    assert train.run(_settings(kept), tmp_path / "run") == result
    assert _contents(tmp_path / "run") == _contents(run)
    assert set(checkpoint.verify(str(tmp_path / "run")).values()) == {""}


def test_run_that_was_lost_with_its_machine_goes_on_elsewhere_and_ends_in_the_same_bits(
    copied: tuple[Path, Path], sample: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, kept = copied
    ended = ("summary.json", "model.safetensors", "checkpoints/6", "report.html", "val/metrics.json")
    _without(kept, lambda name: name not in ended)
    result = train.run(_settings(kept), tmp_path / "elsewhere")
    assert result["digest"] == sample[2]["digest"]
    assert result["goodput"]["attempts"] == 2
    about = mirror.read(object_store.opened(str(kept)))
    assert about is not None
    assert "6" in about["checkpoints"]
    assert "model.safetensors" in about["files"]


def test_folder_that_is_behind_is_brought_up_to_its_mirror_and_one_that_is_ahead_is_not(
    copied: tuple[Path, Path],
) -> None:
    run, kept = copied
    store, settings, said = object_store.opened(str(kept)), _settings(kept), []
    assert not mirror.fetch(store, run, settings, said.append)
    shutil.rmtree(run / "checkpoints/6")
    assert mirror.fetch(store, run, settings, said.append)
    assert checkpoint_files.steps(run / "checkpoints")[-1] == 6
    _without(kept, lambda name: name != "checkpoints/6")
    assert not mirror.fetch(store, run, settings, said.append)
    assert len(said) == 1
    assert "up to step 6" in said[0]


def test_mirror_of_another_configuration_is_refused_and_neither_is_changed(
    copied: tuple[Path, Path], tmp_path: Path
) -> None:
    _, kept = copied
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    other = _settings(kept, **{"optim.learning_rate": "0.5"})
    with pytest.raises(UserError, match=r"belongs to another configuration \(optim.learning_rate: "):
        train.run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_folder_of_another_configuration_is_refused_and_its_files_stay(copied: tuple[Path, Path]) -> None:
    run, kept = copied
    saved = json.loads((run / "config.json").read_text())
    saved["train"]["steps"] = 99
    (run / "config.json").write_text(json.dumps(saved))
    shutil.rmtree(run / "checkpoints/6")
    before = _contents(run)
    with pytest.raises(UserError, match="belongs to another configuration"):
        train.run(_settings(kept), run)
    assert _contents(run) == before


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_checkpoint_is_left_out_with_a_line_and_the_one_before_is_fetched(
    copied: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    _, kept = copied
    about = json.loads((kept / mirror.MANIFEST).read_text())
    others = {entry["sha256"] for step in ("2", "4") for entry in about["checkpoints"].get(step, {}).values()}
    largest = max(
        about["checkpoints"]["6"].values(), key=lambda entry: (entry["sha256"] not in others, entry["bytes"])
    )
    path = kept / "objects" / largest["sha256"]
    path.unlink()
    if damage == "changed":
        path.write_bytes(b"something else")
    said: list[str] = []
    store = object_store.opened(str(kept), sleep=lambda seconds: None)
    assert mirror.fetch(store, tmp_path / "elsewhere", _settings(kept), said.append)
    assert checkpoint_files.steps(tmp_path / "elsewhere/checkpoints")[-1] == 4
    assert any(line.startswith("train.mirror: checkpoint 6 is left out: ") for line in said)


def test_mirror_without_a_sound_checkpoint_begins_nothing_anew(
    copied: tuple[Path, Path], tmp_path: Path
) -> None:
    _, kept = copied
    about = json.loads((kept / mirror.MANIFEST).read_text())
    for entries in about["checkpoints"].values():
        for entry in entries.values():
            (kept / "objects" / entry["sha256"]).unlink(missing_ok=True)
    with pytest.raises(UserError, match="nothing is begun anew unasked"):
        train.run(_settings(kept), tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"files": {}}', b"\xff"])
def test_manifest_that_is_damaged_is_one_line(
    copied: tuple[Path, Path], tmp_path: Path, content: bytes
) -> None:
    _, kept = copied
    (kept / mirror.MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read \(its mirror.json .*unasked"):
        train.run(_settings(kept), tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_manifest_that_leads_elsewhere_is_refused(
    copied: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    _, kept = copied
    about = json.loads((kept / mirror.MANIFEST).read_text())
    about["checkpoints"] = {"6": {name: next(iter(about["files"].values()))}}
    (kept / mirror.MANIFEST).write_text(json.dumps(checkpoint_files.sealed(about)))
    with pytest.raises(UserError, match="names '"):
        mirror.fetch(object_store.opened(str(kept)), tmp_path / "elsewhere", None, print)
    assert not (tmp_path / "outside").exists()


class _Failing:
    """A file system that fails from the moment it is told to, and what was asked of it then."""

    def __init__(self, system: Any, error: Exception) -> None:
        self._system, self._error = system, error
        self.is_failing, self.num_asked = False, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._system, name)
        if not callable(found):
            return found

        def asked(*given: Any, **options: Any) -> Any:
            if self.is_failing:
                self.num_asked += 1
                raise self._error
            return found(*given, **options)

        return asked


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Failing:
    """The file system of all mirrors, which can be made to fail; nothing waits."""
    really = object_store.opened
    system = _Failing(really(str(tmp_path)).system, ConnectionError("no route to the host"))
    monkeypatch.setattr(
        mirror, "opened", lambda url: really(url)._replace(system=system, sleep=lambda seconds: None)
    )
    return system


def test_store_that_fails_ends_no_run_and_what_is_missing_is_said_and_brought_by_the_repeat(
    failing: _Failing,
    tmp_path: Path,
    sample: tuple[Path, Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    really = mirror.Mirror.saved

    def saved(self: mirror.Mirror, step: int) -> None:
        failing.is_failing = step > 2
        really(self, step)

    monkeypatch.setattr(mirror.Mirror, "saved", saved)
    result = train.run(_settings(tmp_path / "mirror"), tmp_path / "run")
    assert (result["status"], result["digest"]) == ("finished", sample[2]["digest"])
    shown = capsys.readouterr().err
    assert shown.count("cannot be written (ConnectionError: no route to the host); the run goes on") == 1
    assert "lacks what was written since (ConnectionError: no route to the host)" in shown
    assert failing.num_asked > len(object_store.WAITS)
    failing.is_failing = False
    train.run(_settings(tmp_path / "mirror"), tmp_path / "run")
    assert mirror.fetch(object_store.opened(str(tmp_path / "mirror")), tmp_path / "other", None, print)
    assert _contents(tmp_path / "other") == _contents(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "num_asked"),
    [
        (PermissionError("Access Denied"), 1),
        (FileNotFoundError("The specified bucket does not exist"), 1),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), 1),
        (ConnectionError("reset"), 1 + len(object_store.WAITS)),
    ],
)
def test_mirror_that_cannot_be_written_is_one_line_before_anything_is_trained(
    failing: _Failing, tmp_path: Path, error: Exception, num_asked: int
) -> None:
    failing._error = error
    mirror_of = mirror.Mirror(mirror.opened(str(tmp_path / "mirror")), tmp_path / "run", print)
    failing.is_failing = True
    with pytest.raises(
        UserError, match=rf"cannot be written \({type(error).__name__}: .*or train without it"
    ):
        mirror_of.claim()
    # Reading tells as little as writing does.
    assert failing.num_asked == (num_asked if not isinstance(error, FileNotFoundError) else 2)


def test_process_that_comes_later_takes_the_mirror_and_the_first_goes_on_without(
    copied: tuple[Path, Path], tmp_path: Path
) -> None:
    run, kept = copied
    said: list[str] = []
    first, second = (mirror.Mirror(object_store.opened(str(kept)), run, said.append) for _ in range(2))
    first.claim()
    second.claim()
    before = (kept / mirror.MANIFEST).read_bytes()
    first.close(is_done=True)
    assert said == [f"train.mirror: another process writes to {str(kept)!r} now; this one goes on without"]
    assert (kept / mirror.MANIFEST).read_bytes() == before
    (run / "later.txt").write_text("written by the second")
    second.close(is_done=True)
    assert b"later.txt" in (kept / mirror.MANIFEST).read_bytes()


def test_object_that_a_process_put_before_it_died_goes_with_the_next_copy(copied: tuple[Path, Path]) -> None:
    run, kept = copied
    orphan = kept / "objects" / "0123"
    orphan.write_bytes(b"a part")
    taken = mirror.Mirror(object_store.opened(str(kept)), run, pytest.fail)
    taken.claim()
    assert orphan.exists()
    taken.close(is_done=True)
    assert not orphan.exists()


def test_object_that_reads_back_otherwise_is_put_again(tmp_path: Path) -> None:
    store = object_store.opened(str(tmp_path), sleep=lambda seconds: None)
    really, spoiled = store.system.pipe_file, []

    def spoil(path: str, content: bytes) -> None:
        really(path, content if spoiled else b"x" + content[1:])
        spoiled.append(path)

    system = _Failing(store.system, ConnectionError())
    system.pipe_file = spoil  # type: ignore[attr-defined]
    content = b"a checkpoint"
    sha256 = object_store.hashlib.sha256(content).hexdigest()
    store._replace(system=system).put("a", content, sha256)
    assert len(spoiled) == 2
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "nowhere://bucket/run",
            r"'nowhere://bucket/run' is no place for a mirror .*expected a URL such as s3://",
        ),
        ("s3://bucket/run", r"needs a package that is missing .*pip install 'jtl\[cloud\]'"),
    ],
)
def test_store_that_is_none_or_lacks_its_package_is_one_line(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=message):
        object_store.opened(url)


def test_run_beside_others_has_a_mirror_of_its_own() -> None:
    assert mirror.below(_settings("s3://b/run/"), "scratch").train.mirror == "s3://b/run/scratch"
    assert mirror.below(_settings(""), "scratch").train.mirror == ""
    assert preparation.scratch(_settings("s3://b/run")).train.mirror == "s3://b/run/scratch"


def test_run_folder_is_fetched_from_its_mirror_into_an_empty_folder_alone(
    sample: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, kept, _ = sample
    assert checkpoint.fetch(str(tmp_path / "run"), str(kept))[-1] == 6
    assert _contents(tmp_path / "run") == _contents(run)
    with pytest.raises(UserError, match="run' is not empty; give another folder"):
        checkpoint.fetch(str(tmp_path / "run"), str(kept))
    with pytest.raises(UserError, match=r"nothing' has no run; expected what train.mirror named"):
        checkpoint.fetch(str(tmp_path / "other"), str(tmp_path / "nothing"))
    assert not (tmp_path / "other").exists()
