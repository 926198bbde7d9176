"""What a run folder keeps of its settings and its data, and what a run that goes on compares."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jtl import files, owner
from jtl.data import preflight
from jtl.errors import UserError
from jtl.report import summary
from jtl.report.console import Live
from jtl.tasks import LabelStats
from jtl.training import build, config, config_file, meta, preparation, rehearsal
from jtl.training import run as train


def _settings(**changes: str) -> config.Config:
    return config.read(
        "configs/smoke.py", [(name.replace("__", "."), text) for name, text in changes.items()]
    )


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Function that makes a folder of that name the working directory."""

    def go(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return go


def test_paths_are_kept_such_that_they_hold_elsewhere(elsewhere: Callable[[str], Path]) -> None:
    base = _settings()
    here = elsewhere("here")
    (here / "photos").mkdir()
    settings = config.with_overrides(base, [("data.target", "photos"), ("model.weights", "none")])
    kept = config.kept(settings)
    assert kept["data"]["target"] == str(here / "photos")
    assert kept["model"]["weights"] == "none"
    assert config.conflicts(settings, kept) == []
    assert config.conflicts(settings, config.to_dict(settings)) == []
    elsewhere("there")
    assert config.conflicts(settings, kept)[0].startswith("data.target: ")


def test_home_folder_is_meant_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert _settings(data__target="~/photos").data.target == "/somewhere/photos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    raise KeyError('x')\n", r"get_config of .* failed: KeyError in line 2: 'x'"),
        ("def get_config():\n    raise SystemExit(3)\n", r"get_config of .* failed: SystemExit in line 2: 3"),
        ("x = 1\ndef get_config(:\n", r"cannot be read: SyntaxError in line 2: invalid syntax"),
        ("def get_config():\n    return 5\n", r"gives 5; expected an ml_collections ConfigDict"),
        ("import sys\nsys.exit()\n", r"cannot be read: SystemExit in line 2"),
    ],
)
def test_config_file_that_fails_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        config_file.read(str(tmp_path / "mine.py"))


def _finished_folder(folder: Path, settings: config.Config, model_sha256: str = "") -> None:
    folder.mkdir()
    summary.write_json(folder / "config.json", config.kept(settings))
    result = summary.build(
        status="finished",
        steps=2,
        final={},
        best={},
        phases=summary.Phases(),
        num_examples=0,
        unit="images",
        parameters={"total": 1, "trainable": 1},
        weights={"source": "none", "sha256": ""},
        digest="",
        peak_memory_bytes=0,
        model_sha256=model_sha256,
    )
    summary.write_json(folder / "summary.json", result)


def test_finished_run_that_is_asked_for_more_says_how(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _finished_folder(folder, _settings(train__steps="2"))
    message = r"train.steps: 2 -> 9.*; to train its weights further: another --workdir and --config.model"
    with pytest.raises(UserError, match=message):
        train.run(_settings(train__steps="9"), folder)
    with pytest.raises(UserError, match=r"or repeat the command it was made with$"):
        train.run(_settings(train__steps="9", train__seed="3"), folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "summary.json"}


def test_finished_run_whose_weights_are_gone_or_others_says_so(tmp_path: Path) -> None:
    folder, settings = tmp_path / "run", _settings()
    _finished_folder(folder, settings, hashlib.sha256(b"as written").hexdigest())
    (folder / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"safetensors' is not there; .* command that made it with another"):
        train.run(settings, folder)
    (folder / "checkpoints/9").mkdir()
    with pytest.raises(UserError, match=r"safetensors' is not there; .* remove summary.json and repeat the"):
        train.run(settings, folder)
    (folder / "checkpoints/9").rmdir()
    (folder / "model.safetensors").write_bytes(b"as written")
    assert train.run(settings, folder)["status"] == "finished"
    (folder / "model.safetensors").write_bytes(b"as changed")
    with pytest.raises(UserError, match=r"safetensors' has changed since it was written"):
        train.run(settings, folder)


def test_examples_that_are_others_are_refused_by_split(tmp_path: Path) -> None:
    splits = build.open_splits(_settings())
    stats = build.label_stats(_settings(), splits["train"])
    data = {name: meta._fingerprinted(source) for name, source in splits.items()}
    described = {"labels": stats._asdict(), "data": data}
    summary.write_json(tmp_path / "meta.json", described)
    meta.check_same(tmp_path, described)
    other = {**data, "val": {**data["val"], "sha256": "0" * 64}}
    with pytest.raises(UserError, match=r"the examples of split 'val' changed since run .* began"):
        meta.check_same(tmp_path, {**described, "data": other})
    with pytest.raises(UserError, match="the training data changed since run"):
        meta.check_same(tmp_path, {**described, "labels": {**stats._asdict(), "num_examples": 3}})


def test_that_a_part_tells_for_a_large_split_is_kept_in_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MAX_CHECKED", 1000)
    ready, *_ = preparation.prepare(_settings(), tmp_path / "run", Live(), summary.Phases())
    ready.feed.close()
    line = "train: 1,000 of 1,438 images, evenly spaced, tell a run that goes on whether they are still the"
    notes = files.read_record(tmp_path / "run/meta.json").get("notes", files.TEXTS)
    assert [note for note in notes if note.startswith(line)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy__name": "bss", "strategy__num_singular": "9", "train__batch_size": "8"},
            r"'bss' compares 9 or more images with each other, and a slice has 8 \(train.batch_size 8 / "
            r"optim.accumulate 1\): raise train.batch_size, or lower strategy.num_singular$",
        ),
        (
            {"strategy__name": "bi_tuning", "train__batch_size": "4", "optim__accumulate": "4"},
            r"'bi_tuning' compares 2 or more images .* a slice has 1 .*, or lower optim.accumulate$",
        ),
        (
            {"strategy__name": "dan", "train__batch_size": "1", "data__target": "digits"},
            r"'dan' compares 2 or more images .*, or set strategy.is_unbiased=false$",
        ),
        ({"strategy__name": "bss", "strategy__num_singular": "33"}, "the model has 32 features, and as many"),
    ],
)
def test_a_slice_with_too_few_to_compare_is_refused_before_anything_is_traced(
    changes: dict[str, str], message: str
) -> None:
    target = changes.pop("data__target", "")
    settings = _settings(sharding__devices="1", **changes)
    splits = build.open_splits(settings)
    beside = build.Target(splits["val"], splits["val"], is_labelled=True) if target else None
    with pytest.raises(UserError, match=message):
        rehearsal.check(settings, splits, beside)


def test_folder_that_says_nothing_of_its_data_is_not_asked(tmp_path: Path) -> None:
    stats = LabelStats(("a", "b"), 2)
    summary.write_json(tmp_path / "meta.json", {"labels": stats._asdict()})
    meta.check_same(tmp_path, {"labels": stats._asdict(), "data": {"train": {"num_examples": 2}}})


def test_owner_is_one_a_folder_whatever_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner.owned(tmp_path / "run", print):
        monkeypatch.setattr(owner, "_ourselves", lambda: {"host": "far", "pid": 1, "since": ""})
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()}"):
            train.run(_settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
