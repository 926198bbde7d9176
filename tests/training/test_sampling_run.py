"""Sampling by class in a run: what the step sees, what the loss is told, resuming, and what is refused."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import pipeline
from jtl.errors import UserError
from jtl.signals import StopRequest
from jtl.training import build, config
from jtl.training import run as train

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "arrays"},
    "train": {"steps": 4, "batch_size": 8, "eval_every": 4, "eval_batch_size": 40, "log_every": 1},
    "sharding": {"devices": 1},
}
COUNTS = (40, 20, 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 64 images of three classes, few of the last."""
    path = tmp_path_factory.mktemp("data") / "rare.npz"
    random = np.random.default_rng(0)
    np.savez(
        path,
        x_train=random.integers(0, 256, (64, 8, 8, 3), np.uint8),
        y_train=np.repeat(np.arange(3), COUNTS),
        x_val=random.integers(0, 256, (9, 8, 8, 3), np.uint8),
        y_val=np.arange(9) % 3,
    )
    return path


def _settings(data: Path, **changes: Any) -> config.Config:
    overrides = [
        ("data.path", str(data)),
        *((name.replace("__", "."), str(value)) for name, value in changes.items()),
    ]
    return config.with_overrides(config.from_dict(TINY), overrides)


@pytest.mark.slow
def test_run_draws_by_class_and_resumes_in_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    read = pipeline.train_batches

    def watched(*args: Any, **settings: Any) -> Generator[pipeline.Batch, None, None]:
        with closing(read(*args, **settings)) as batches:
            for batch in batches:
                seen.append(batch["label"])
                yield batch

    monkeypatch.setattr(pipeline, "train_batches", watched)
    settings = _settings(data, train__sampling="class_balanced", task__focal_gamma=2, strategy__name="probe")
    whole = train.run(settings, tmp_path / "whole")
    assert np.bincount(np.concatenate(seen[:3])).tolist() == [8, 8, 8]
    asked = StopRequest()
    asked.ask()
    assert train.run(settings, tmp_path / "cut", asked)["status"] == "preempted"
    again = train.run(settings, tmp_path / "cut")
    assert again["digest"] == whole["digest"]


def test_loss_is_told_the_classes_as_they_are_drawn(data: Path) -> None:
    logits = jnp.zeros((3, 3))
    found = {}
    for sampling in ("uniform", "square_root", "class_balanced"):
        settings = _settings(data, train__sampling=sampling, task__logit_adjustment=1)
        stats = build.label_stats(settings, build.open_splits(settings)["train"])
        task = build.build(settings, stats, 4).parts.task
        found[sampling] = np.exp(
            -np.asarray(task.loss(logits, task.targets({"label": jnp.arange(3)}, jax.random.key(0))))
        )
    np.testing.assert_allclose(found["uniform"], np.array(COUNTS) / 64, rtol=1e-5)
    np.testing.assert_allclose(found["square_root"], np.sqrt(COUNTS) / np.sqrt(COUNTS).sum(), atol=1 / 64)
    np.testing.assert_allclose(found["class_balanced"], np.full(3, 1 / 3), rtol=1e-5)


def test_several_labels_an_image_or_numbers_are_refused_before_the_run_claims_its_folder(
    data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "numbers.npz"
    arrays = dict(np.load(data))
    np.savez(path, **{**arrays, "y_train": np.linspace(0, 1, 64), "y_val": np.linspace(0, 1, 9)})
    settings = _settings(path, task__name="regression", train__sampling="square_root")
    with pytest.raises(
        UserError, match=r"train.sampling is 'square_root', but the examples of .* have not one"
    ):
        train.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_sampling_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"train.sampling is 'balance'; nearest: 'class_balanced'"):
        _settings(data, train__sampling="balance")
