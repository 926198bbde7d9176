"""Examples on the devices: the same batches for any number of them, and runs that end in the same bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.data import SOURCES, Labels, Source, pipeline
from jtl.data.planned import planned_batches
from jtl.inputs import INPUTS
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess
from jtl.training import config, sharding
from jtl.training import run as train
from jtl.training.dispatch import Dispatches
from jtl.training.resident import resident

TINY: dict[str, Any] = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits", "train_per_class": 5},
    "inputs": {"route": "device"},
    "train": {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "eval_every": 6, "log_every": 1},
}


@pytest.fixture(scope="module")
def digits() -> Source:
    kind = SOURCES["digits"]
    return kind.open(kind.Config(name="digits"), Labels())["train"]


def test_batches_are_the_same_on_any_number_of_devices(digits: Source) -> None:
    preprocess = Preprocess((8, 8), 8, mean=(0.5,), std=(0.5,))
    storage = INPUTS["image"].storage(preprocess, Augment(color_jitter=0.2))
    assert storage is not None
    plan = planned_batches(digits, batch_size=8, seed=0, config=pipeline.Config())
    batch = next(plan)
    plan.close()
    found = []
    for count in (1, 4):
        mesh = sharding.mesh(sharding.Config(devices=count))
        there = resident(digits, storage, batch_size=8, seed=0, mesh=mesh)
        made = there.batch_of(sharding.put_batch(batch, mesh))
        assert made["inputs"].sharding.is_equivalent_to(sharding.of_batch(mesh), 4)
        assert made.keys() == batch.keys()
        found.append(jax.device_get(made["inputs"]))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (8, 8, 8, 1)
    assert found[0].dtype == np.uint8


def _settings(**changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(each)) for name, each in changes.items()]
    return config.with_overrides(config.from_dict(TINY), overrides)


def _cut(read: Callable[..., Any], at: int) -> Callable[..., Any]:
    def cut(*args: Any) -> Any:
        for number, batch in enumerate(read(*args)):
            if number == at:
                raise RuntimeError("cut")
            yield batch

    return cut


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_on_the_device_resumes_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.run(_settings(sharding__devices=1), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Dispatches, "spans", _cut(Dispatches.spans, 3))
        with pytest.raises(RuntimeError, match="cut"):
            train.run(_settings(sharding__devices=1, train__steps_per_dispatch=1), tmp_path / "cut")
    found = train.run(_settings(sharding__devices=1, inputs__threads=3), tmp_path / "cut")
    assert found["digest"] == whole["digest"]
    about = json.loads((tmp_path / "cut" / "meta.json").read_text())
    assert (about["route"], about["notes"][-1]) == ("device", "inputs.route: device (as the run began)")
    losses = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in losses if "train/loss" in each] == [1, 2, 3, 4, 5, 6]


def test_what_does_not_fit_on_the_device_is_told_and_read_otherwise(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from jtl.strategies.contract import TRAIN
    from jtl.training import routes

    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    monkeypatch.setattr(routes, "room_bytes", lambda share: 1000)
    parts: Any = SimpleNamespace(
        input=INPUTS["image"],
        preprocess=Preprocess((8, 8), 9),
        augment=Augment(),
        num_steps=6,
        strategy=SimpleNamespace(streams={}),
    )
    said: list[str] = []
    settings = _settings()
    mesh = sharding.mesh(sharding.Config(devices=1))
    routed = routes.opened(settings, parts, {TRAIN: digits}, mesh, begun="", say=said.append)
    assert said[0].endswith("of images do not fit in 1000 bytes, inputs.device_share of a device's memory")
    assert (routed.name, routed.reason, routed.residents) == (
        "stream",
        "the images do not fit on the device",
        {},
    )
