"""A run folder's weights are those that were written, and whoever opens it is told where nothing says so."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.weights import load
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from jtl.weights.run_folder import DIGEST_KEY, META_NAME, SUMMARY_NAME, WEIGHTS_NAME, write_run_weights
from tests.weights import writing


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves of its model."""
    digest = write_run_weights(tmp_path, *writing.trees_of(writing.leaves_of("vit")))
    meta = {
        "family": "vit",
        "model": asdict(MODELS["vit"].tiny()),
        "label_names": ["ant", "bee", "cat"],
        "preprocess": asdict(Preprocess(image_px=(8, 8))),
        "labels": {"label_names": ["ant", "bee", "cat"], "num_examples": 9},
    }
    (tmp_path / META_NAME).write_text(json.dumps(meta))
    (tmp_path / SUMMARY_NAME).write_text(json.dumps({DIGEST_KEY: digest}))
    return tmp_path


def test_weights_as_written_are_opened_without_a_word(run: Path) -> None:
    assert open_path(run).notes == ()


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_changed_weights_are_refused_by_all_that_open_a_run(run: Path, place: float) -> None:
    path = run / WEIGHTS_NAME
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    message = (
        r"model\.safetensors' has changed since it was written: its sha256 is .*summary\.json says .*again"
    )
    with pytest.raises(UserError, match=message):
        open_path(run)
    with pytest.raises(UserError, match=message):
        recognise(str(run))


@pytest.mark.parametrize("told", [None, "{}"])
def test_weights_that_nothing_tells_of_are_opened_with_a_remark(run: Path, told: str | None) -> None:
    (run / SUMMARY_NAME).unlink()
    if told is not None:
        (run / SUMMARY_NAME).write_text(told)
    assert "model.safetensors' could not be verified: no summary.json beside it" in open_path(run).notes[0]


@pytest.mark.parametrize("told", ["[]", '{"model_sha256": 5}', "{"])
def test_summary_of_another_shape_is_one_line(run: Path, told: str) -> None:
    (run / SUMMARY_NAME).write_text(told)
    with pytest.raises(UserError, match=r"summary\.json' is damaged"):
        open_path(run)


def test_cure_of_changed_weights_is_the_runs_own_command_where_it_has_checkpoints(run: Path) -> None:
    (run / WEIGHTS_NAME).write_bytes(b"")
    with pytest.raises(UserError, match="repeat the command that made it with another folder"):
        open_path(run)
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match="repeat the command that made it with another folder"):
        open_path(run)
    (run / "checkpoints/12").mkdir()
    with pytest.raises(UserError, match=r"remove summary\.json and repeat the command of the run"):
        open_path(run)


def test_remark_is_in_the_report_of_loading(run: Path) -> None:
    (run / SUMMARY_NAME).unlink()
    leaves = writing.leaves_of("vit")
    params, state = writing.trees_of({name: np.zeros_like(leaf) for name, leaf in leaves.items()})
    settings = load.Config(head="load")
    loaded = load.load(
        str(run),
        family="vit",
        config=MODELS["vit"].tiny(),
        model_params=params,
        model_state=state,
        settings=settings,
    )
    assert "\n  " + open_path(run).notes[0] in loaded.report.text()
