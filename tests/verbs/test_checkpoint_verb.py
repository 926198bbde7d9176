"""What is listed, verified and pruned of the checkpoints of a run."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import owner
from jtl.errors import UserError
from jtl.training.checkpoint import Checkpoints
from jtl.training.state import State
from jtl.verbs import VERBS, checkpoint

STEPS = {10: 0.5, 20: 0.9, 30: 0.6}
# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
]


def _state(step: int) -> State:
    kernel = jnp.asarray(np.random.default_rng(step).normal(size=(64, 48)), jnp.float32)
    trainable = {"head": {"kernel": kernel}}
    moments = optax.adam(1e-3).init({"head/kernel": kernel})
    return State(
        jnp.array(step, jnp.int32), trainable, {"stem": {"flag": jnp.ones(3, bool)}}, {}, moments, {}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoints of three steps, of which the second is the best."""
    run = tmp_path_factory.mktemp("saved") / "run"
    still = frozenset({"frozen/stem/flag"})
    with closing(
        Checkpoints(run / "checkpoints", metric="accuracy", is_maximized=True, still=still)
    ) as checkpoints:
        history = []
        for step, value in STEPS.items():
            history.append({"step": step, "accuracy": value})
            checkpoints.save(checkpoints.sound(_state(step)), list(history))
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_checkpoints_are_listed_with_their_metric_and_the_best(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *rows, kept = checkpoint.ls(str(saved))
    assert (kept["step"], kept["state"]) == (next(saved.glob("frozen-*")).name, "what never trains")
    assert [(row["step"], row["value"], row["is_best"]) for row in rows] == [
        (10, 0.5, False),
        (20, 0.9, True),
        (30, 0.6, False),
    ][-len(rows) :]
    assert all(row["bytes"] > 64 * 48 * 4 and row["state"] == "whole" for row in rows)
    assert VERBS["checkpoint"].command(_args("ls", saved), []) == 0
    shown = capsys.readouterr()
    assert "accuracy 0.9000  best" in " ".join(shown.err.split(" ")).replace("   ", "  ")
    assert json.loads(shown.out)["checkpoints"] == [*rows, kept]


def test_sound_checkpoints_are_sound(saved: Path) -> None:
    found = checkpoint.verify(str(saved))
    assert set(found.values()) == {""}
    assert set(found) >= {"20", "30", next(saved.glob("frozen-*")).name}


def test_changed_byte_is_found_wherever_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = max(
        (run / "checkpoints/30/state").rglob("*"), key=lambda each: each.is_file() and each.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = checkpoint.verify(str(run))
    assert found["20"] == ""
    assert found["30"] != ""
    with pytest.raises(UserError, match=r"1 checkpoint is damaged \(step 30\); `jtl train` moves them away"):
        VERBS["checkpoint"].command(_args("verify", run), [])
    assert "checkpoint 20: sound" in capsys.readouterr().err


def test_changed_byte_of_what_never_trains_is_found_and_told_with_its_cure(run: Path) -> None:
    (path,) = run.glob("frozen-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = checkpoint.verify(str(run))
    assert found["20"] == found["30"] == ""
    assert found[path.name] == "leaf 'frozen/stem/flag' does not match its digest"
    with pytest.raises(
        UserError, match=r"what never trains of all checkpoints, is damaged .*writes it again"
    ):
        VERBS["checkpoint"].command(_args("verify", run), [])


def test_pruned_run_keeps_the_newest_and_the_best(run: Path) -> None:
    before = {row["step"] for row in checkpoint.ls(str(run)) if row["state"] == "whole"}
    gone = checkpoint.prune(str(run))
    assert set(gone) == before - {20, 30}
    assert len(list(run.glob("frozen-*"))) == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["20", "30"]
    shutil.rmtree(run / "checkpoints/20")
    assert checkpoint.prune(str(run), keep=3) == []


def test_run_that_does_not_say_which_is_the_best_keeps_all(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of earlier versions."""
    meta = {"step": 30, "history": []}
    monkeypatch.setattr("jtl.training.checkpoint_files.sound_meta", lambda path: meta)
    before = sorted((run / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"30 does not say which is the best: .*; nothing was removed"):
        checkpoint.prune(str(run))
    assert sorted((run / "checkpoints").iterdir()) == before


def test_what_cannot_be_pruned_is_refused_and_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--keep is 0; expected 1 or more"):
        checkpoint.prune(str(run), keep=0)
    with pytest.raises(UserError, match=r"has no checkpoint; expected a run folder"):
        checkpoint.prune(str(run / "checkpoints"))
    with owner.owned(run, print):
        monkeypatch.setattr(owner, "_ourselves", lambda: {"host": "far", "pid": 1, "since": ""})
        with pytest.raises(UserError, match="is in use by process"):
            checkpoint.prune(str(run))
    (run / "checkpoints/20/meta/metadata").write_text("{}")
    with pytest.raises(UserError, match=r"checkpoint 20 is damaged .*; nothing was removed"):
        checkpoint.prune(str(run))
    assert (run / "checkpoints/30").is_dir()
    assert checkpoint.ls(str(run))[-3]["state"].startswith("damaged: ")


def _args(action: str, run: Path) -> object:
    import argparse

    return argparse.Namespace(action=action, run=str(run), json=True, keep=1)
