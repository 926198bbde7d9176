"""`jtl evaluate`: which head, and which data."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest

from jtl import predictor
from jtl.errors import UserError
from jtl.training import build, config
from jtl.training import run as train
from jtl.verbs import evaluate, scoring

SMALL = {
    "model.image_px": "8",
    "model.dim": "16",
    "model.depth": "1",
    "model.mlp_dim": "16",
    "train.steps": "2",
    "train.eval_every": "2",
    "train.eval_batch_size": "200",
    "sharding.devices": "1",
}


def _trained(folder: Path, **changes: str) -> dict[str, Any]:
    settings = {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}
    return train.run(config.read("configs/smoke.py", list(settings.items())), folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "source"
    _trained(folder)
    return folder


def test_run_that_mapped_its_labels_is_measured_by_the_head_it_has(source: Path, tmp_path: Path) -> None:
    labels = "{'0': '1', '1': '0'}"
    result = _trained(
        tmp_path / "run",
        model__weights=str(source),
        weights__head="map",
        weights__label_map=labels,
    )
    found = evaluate.run(run_folder=str(tmp_path / "run"), split="val", batch_size=200)
    assert found["metrics"]["accuracy"] == result["best"]["val/accuracy"]
    assert found["metrics"]["loss"] == pytest.approx(result["best"]["val/loss"], rel=1e-5)


def test_values_are_put_on_the_devices_once(source: Path) -> None:
    opened = predictor.open(predictor.of_run(str(source)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(opened.values))
    # What every test of verbs is watched by (conftest) does see values that are not.
    images = build.open_splits(opened.settings)["val"]
    on_host = opened._replace(values=jax.device_get(opened.values))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        predictor.measure(on_host, images, 200)


def test_unknown_split_is_named(source: Path) -> None:
    with pytest.raises(UserError, match="--split 'vla' is not in the data; nearest: 'val'"):
        evaluate.run(run_folder=str(source), split="vla")


def test_every_number_has_an_interval_beside_the_tasks_own(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    asked = scoring.Extras(resamples=50, at_recall=0.5)
    found = evaluate.run(run_folder=str(source), split="val", batch_size=200, asked=asked, out=str(out))
    for name in ("accuracy", "macro_f1", "balanced_accuracy"):
        row = found["scores"][name]
        assert row["value"] == pytest.approx(found["metrics"][name], abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]
    assert found["intervals"]["resamples"] == 50
    assert "thresholds were chosen on val" in found["remarks"]
    assert all(row["recall"] >= 0.5 for row in found["operating_points"])
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == found["num_examples"]
    assert sum(row["is_right"] == "True" for row in rows) / len(rows) == found["metrics"]["accuracy"]
    again = evaluate.run(run_folder=str(source), split="val", batch_size=64, asked=asked)
    assert again["scores"]["accuracy"] == found["scores"]["accuracy"]


def test_every_number_has_its_interval_and_every_example_its_prediction(
    source: Path,
) -> None:
    folder, result = source, json.loads((source / "summary.json").read_text())
    for name in ("val/accuracy", "val/macro_f1", "val/balanced_accuracy"):
        row = result["scores"][name]
        assert row["value"] == pytest.approx(result["best"][name], abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]
    assert {"val/auroc", "val/average_precision", "val/expected_calibration_error"} <= result["scores"].keys()
    found = pyarrow.parquet.read_table(folder / "val" / "predictions.parquet").to_pydict()
    measured = json.loads((folder / "val" / "metrics.json").read_text())
    assert len(found["example"]) == measured["num_examples"]
    assert np.mean(found["is_right"]) == pytest.approx(result["best"]["val/accuracy"], abs=1e-12)
    shown = json.loads((folder / "val" / "gallery.json").read_text())
    for item in shown:
        index = item["index"]
        assert (found["label"][index], found["predicted"][index]) == (item["label"], item["predicted"])


def test_predictions_are_averaged_over_the_views_of_an_image(source: Path) -> None:
    opened = predictor.open(predictor.of_run(str(source)))
    images = build.open_splits(opened.settings)["val"]
    plain, both = (predictor.measure(opened, images, 200, views) for views in ((), ("flip",)))
    assert plain.logits is not None
    assert both.logits is not None
    batch = next(iter(predictor.batches(opened, images, 200)))
    seen = opened.input.normalise(jnp.asarray(batch["inputs"]), opened.preprocess)
    mirrored = predictor.step.forward_normalised(
        opened, opened.values["params"], opened.values["model_state"], seen[:, :, ::-1]
    ).logits
    assert opened.task is not None
    one, other = (
        np.asarray(opened.task.predictions(each)) for each in (jnp.asarray(plain.logits[:200]), mirrored)
    )
    expected = (one + other) / 2
    averaged = np.asarray(opened.task.predictions(jnp.asarray(both.logits[:200])))
    np.testing.assert_allclose(averaged, expected, atol=1e-5)
    assert np.abs(averaged - one).max() > 1e-3


@pytest.mark.parametrize(
    ("asked", "out", "message"),
    [
        ({"at_recall": 1.5}, "", "--at-recall is 1.5; expected a share"),
        ({"at_recall": 0.9, "at_precision": 0.9}, "", "are both given; expected one"),
        ({"resamples": -1}, "", "--resamples is -1; expected 0 or more"),
        ({"views": ("turn",)}, "", "'turn' is no view of images; expected one of: flip"),
        ({}, "nowhere/out.csv", "folder 'nowhere' is not there"),
    ],
)
def test_what_cannot_be_asked_is_one_line(source: Path, asked: Any, out: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate.run(run_folder=str(source), split="val", asked=scoring.Extras(**asked), out=out)


def test_classes_are_for_weights(source: Path) -> None:
    with pytest.raises(UserError, match="--classes names the outputs of --weights"):
        evaluate.run(run_folder=str(source), classes="a,b")
