"""`jtl evaluate`: which head, and which data."""

from pathlib import Path
from typing import Any

import jax
import pytest

from jtl import predictor
from jtl.errors import UserError
from jtl.training import build, config
from jtl.training import run as train
from jtl.verbs import evaluate

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
