"""End to end on texts: a table becomes tokens in buckets, and everything else is as it is for images."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.signals import StopRequest
from jtl.training import config
from jtl.training import run as train
from jtl.training.dispatch import Dispatches
from jtl.verbs import evaluate, features

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"
MODEL = {
    **{"name": "bert", "size": "bert_tiny", "vocabulary": 158, "dim": 16, "depth": 2, "heads": 2},
    **{"mlp_dim": 32, "num_positions": 48, "pool": "mean"},
}
BUCKETS = (8, 16, 48)
TINY = {
    "model": MODEL,
    "preprocess": {"tokenizer": str(TOKENIZER)},
    "inputs": {"buckets": BUCKETS, "threads": 1},
    "optim": {"learning_rate": 1e-2},
    "train": {"steps": 24, "batch_size": 8, "eval_every": 8, "eval_batch_size": 16, "log_every": 1},
    "sharding": {"devices": 1},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("without_pictures"),
]


def _write_table(path: Path, marks: tuple[str, str] = ("a b", "c d"), count: int = 96) -> None:
    """Write texts of 3 to 40 letters of which the first two tell the class."""
    draw, rows = random.Random(0), ["text,label"]
    for row in range(count):
        rest = " ".join(draw.choices("efghijklmnop", k=draw.choice((1, 2, 8, 12, 30))))
        rows.append(f"{marks[row % 2]} {rest} {row % 10} {row // 10 % 10},{'ab'[row % 2]}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    _write_table(path)
    return path


def _settings(table: Path, **changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(
        config.from_dict({**TINY, "data": {"name": "table", "path": str(table)}}), overrides
    )


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return folder, train.run(_settings(table), folder)


def test_run_learns_what_the_texts_say(finished: tuple[Path, dict[str, Any]]) -> None:
    _, result = finished
    assert result["final"]["val/accuracy"] > 0.8
    assert result["texts_per_second"] == result["examples_per_second"] > 0


@pytest.mark.slow
def test_interrupted_run_is_the_uninterrupted_one_whatever_the_buckets_of_its_batches(
    table: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    asked = StopRequest()
    asked.ask()
    assert train.run(_settings(table), tmp_path / "cut", asked)["status"] == "preempted"
    again = train.run(_settings(table), tmp_path / "cut")
    assert again["digest"] == finished[1]["digest"]
    assert again["final"] == finished[1]["final"]


@pytest.mark.slow
def test_a_step_is_compiled_once_a_bucket_and_phase(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Dispatches] = []
    make = Dispatches.__init__

    def watched(self: Dispatches, *args: Any) -> None:
        make(self, *args)
        compiled.append(self)

    monkeypatch.setattr(Dispatches, "__init__", watched)
    train.run(
        _settings(table, strategy__name="lp_ft", train__batch_size=2, train__steps=20), tmp_path / "run"
    )
    (steps,) = compiled
    keys = list(steps._compiled)
    phases, lengths = {key[0] for key in keys}, {max(max(shape) for shape in key[1:]) for key in keys}
    assert len(phases) == 2
    assert lengths <= set(BUCKETS)
    assert len(lengths) > 1
    assert len(keys) <= len(phases) * len(lengths)


def test_padding_changes_no_metric(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    one = [("sharding.devices", "1")]
    narrow = evaluate.run(run_folder=str(folder), split="val", overrides=one, batch_size=1)["metrics"]
    wide = [*one, ("inputs.buckets", "(48,)")]
    padded = evaluate.run(run_folder=str(folder), split="val", overrides=wide, batch_size=7)["metrics"]
    assert padded["accuracy"] == narrow["accuracy"]
    assert padded["loss"] == pytest.approx(narrow["loss"], rel=1e-6)


def test_the_tokenizers_file_travels_and_another_is_refused(
    table: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    assert (folder / "tokenizer.json").read_bytes() == TOKENIZER.read_bytes()
    one = [("sharding.devices", "1")]
    moved = evaluate.run(run_folder=str(folder), data=str(table), overrides=one)
    assert moved["num_examples"] == 96
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    (other / "tokenizer.json").write_text(TOKENIZER.read_text() + "\n")
    with pytest.raises(UserError, match=r"tokenizer.json' .*sha256"):
        evaluate.run(run_folder=str(other), data=str(table), overrides=one)


def test_what_the_preflight_says_of_texts_is_in_meta(finished: tuple[Path, dict[str, Any]]) -> None:
    notes = json.loads((finished[0] / "meta.json").read_text())["notes"]
    assert any("76 texts, 2 classes" in line or "77 texts, 2 classes" in line for line in notes)
    assert any("tokens a text: p50" in line and "are cut to max_tokens 48" in line for line in notes)


def test_images_for_a_text_model_and_texts_for_an_image_model_are_refused(
    table: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"digits.* holds .*'image'.* the model reads 'text'"):
        train.run(config.from_dict({**TINY, "data": {"name": "digits"}}), tmp_path / "run")
    other = {"model": {"name": "vit", "size": "mini"}, "data": {"name": "table", "path": str(table)}}
    with pytest.raises(UserError, match=r"reviews.csv.* holds .*'text'.* the model reads 'image'"):
        train.run(config.from_dict(other), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocess__tokenizer": ""}, "without a tokenizer.*preprocess.tokenizer=PATH"),
        ({"preprocess__max_tokens": 49}, "max_tokens is 49 and the model has 48 positions"),
        ({"model__vocabulary": 99}, "158 ids and the model 99"),
        ({"data__text_column": "body"}, "text_column .*body.*text"),
    ],
)
def test_texts_that_cannot_be_read_are_one_clear_error(
    table: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.run(_settings(table, **changes), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dann", "dan"])
def test_reviews_of_another_kind_are_adapted_to_whatever_their_lengths(
    table: Path, tmp_path: Path, strategy: str
) -> None:
    target = tmp_path / "other.csv"
    _write_table(target, ("a q", "c r"), 40)
    settings = _settings(
        table, strategy__name=strategy, data__target=target, train__steps=3, train__batch_size=4
    )
    result = train.run(settings, tmp_path / "run")
    assert result["target"]["last"]["accuracy"] >= 0.0
    assert np.isfinite(result["target"]["last"]["im"])


@pytest.fixture(scope="module")
def continued(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "masked"
    settings = _settings(table, task__name="masked_tokens", train__steps=30, train__eval_every=10)
    return folder, train.run(settings, folder)


@pytest.mark.slow
def test_masked_tokens_lower_the_loss_and_resume_bit_for_bit(
    table: Path, continued: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = continued
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    assert losses[-1] < losses[0] < np.log(158) + 0.5
    asked = StopRequest()
    asked.ask()
    settings = _settings(table, task__name="masked_tokens", train__steps=30, train__eval_every=10)
    assert train.run(settings, tmp_path / "cut", asked)["status"] == "preempted"
    again = train.run(settings, tmp_path / "cut")
    assert (again["digest"], again["final"]) == (result["digest"], result["final"])


@pytest.mark.slow
def test_features_of_a_run_without_labels_leave_its_head_out(
    table: Path, continued: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = features.run(run_folder=str(continued[0]), data=str(table), out=str(tmp_path / "out.npz"))
    assert found["features"] == {"pre_head": [96, 16]}


@pytest.mark.slow
def test_what_masked_tokens_taught_is_transferred_by_the_runs_folder(
    table: Path, continued: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    spec = f"configs/ft.py:{continued[0]}"
    chosen = {
        "data.path": str(table),
        "train.steps": "2",
        "model.pool": "mean",
        "sharding.devices": "1",
        "optim.learning_rate": "1e-9",
    }
    settings = config.read(spec, list(chosen.items()))
    result = train.run(settings, tmp_path / "run")
    assert result["weights"]["source"] == str(continued[0])
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == TOKENIZER.read_bytes()
