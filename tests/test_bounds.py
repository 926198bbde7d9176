"""What cannot fit in memory, or in a counter, is refused before it is taken, with what it wants."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jtl import memory
from jtl.data import batch_size
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.models import MODELS, initial
from jtl.models.contract import build as build_model
from jtl.training import build, config, evaluate, sharding
from jtl.training import run as train

GIB = 2**30


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is, it has two GiB."""
    monkeypatch.setattr(memory, "host_bytes", lambda: 2 * GIB)


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    machine = memory.host_bytes()
    assert machine > 2**27
    (tmp_path / "memory.max").write_text("1234567\n")
    (tmp_path / "unlimited").write_text("max\n")
    paths = (str(tmp_path / "memory.max"), str(tmp_path / "unlimited"), str(tmp_path / "none"))
    monkeypatch.setattr(memory, "CGROUP_LIMITS", paths)
    assert memory.host_bytes() == 1234567
    monkeypatch.setattr(memory, "CGROUP_LIMITS", paths[1:])
    assert memory.host_bytes() >= machine


def test_devices_that_say_their_memory_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [SimpleNamespace(memory_stats=lambda: {"bytes_limit": 3 * GIB}) for _ in range(2)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.device_bytes() == 6 * GIB
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: None)])
    assert memory.device_bytes() == 2 * GIB


def test_parameters_that_cannot_fit_are_refused_with_the_largest() -> None:
    settings = replace(MODELS["vit"].tiny(), dim=2**20, mlp_dim=2**20)
    model = build_model(MODELS["vit"], settings, 3)
    with pytest.raises(UserError, match=r"the model's parameters, .* wants \d.* TiB .* 2.0 GiB; make"):
        model.init(jax.random.key(0))


def test_a_network_of_a_strategy_that_cannot_fit_is_refused() -> None:
    shapes = {"hidden0": {"kernel": jax.ShapeDtypeStruct((2**20, 2**20), np.float32)}}
    with pytest.raises(UserError, match=r"'hidden0/kernel' is the largest \(1048576, 1048576\)"):
        initial.draw(jax.random.key(0), shapes, ((".", initial.zeros),))


@pytest.mark.parametrize("kind", INPUTS)
def test_a_batch_that_cannot_fit_is_refused_by_its_setting(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = next(family for family in MODELS.values() if family.input == kind)
    preprocess = build_model(family, family.tiny(), 3).preprocess
    batch_size.check(INPUTS[kind], preprocess, 32, "train.batch_size")
    unit = INPUTS[kind].unit
    with pytest.raises(
        UserError,
        match=rf"^train.batch_size 100,000,000: a batch of {unit} of at least .* lower",
    ):
        batch_size.check(INPUTS[kind], preprocess, 10**8, "train.batch_size")
    # Each of so many processes has its part of it.
    monkeypatch.setattr("jtl.distributed.num_processes", lambda: 10**7)
    batch_size.check(INPUTS[kind], preprocess, 10**8, "train.batch_size")
    with pytest.raises(UserError, match=r"^--batch-size is 0; expected 1 or more"):
        batch_size.check(INPUTS[kind], preprocess, 0, "--batch-size")


def test_evaluation_refuses_such_a_batch_before_it_reads_an_example() -> None:
    settings = config.read("configs/smoke.py")
    source, model = build.open_splits(settings)["val"], build_model(MODELS["vit"], MODELS["vit"].tiny(), 3)
    batches_of = partial(evaluate.batches_of, source, INPUTS["image"], model.preprocess)
    mesh = sharding.mesh(settings.sharding)
    with pytest.raises(UserError, match=r"^--batch-size 100,000,000: a batch of images"):
        batches_of(batch_size=10**8, mesh=mesh, settings=settings.inputs)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.batch_size", "100000000", "train.batch_size 100,000,000: a batch of images"),
        # Its inputs alone would fit; what the layers make of them does not.
        ("train.batch_size", "1000000", "train.batch_size 1,000,000: a batch of images of at least"),
        (
            "train.epochs",
            "1e30",
            r"train.epochs is 1e\+30, .* expected at most 2,147,483,647 steps",
        ),
        ("model.dim", "1000000", "the model's parameters, of which"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_its_folder_is_made(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    settings = config.read(
        "configs/smoke.py", [("train.steps", "0"), ("sharding.devices", "1"), (name, text)]
    )
    with pytest.raises(UserError, match=message):
        train.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_steps_of_a_run_are_counted_once_more_where_they_fit() -> None:
    settings = config.read("configs/smoke.py", [("train.steps", "0"), ("train.epochs", "1.5")])
    assert build.num_steps(settings, 1438) == 34
