"""What a strategy learns of the training examples before the first step: in the state, once, and kept."""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import softmax

from jtl import predictor
from jtl.inputs import image
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.signals import StopRequest
from jtl.training import build, config, evaluate, preparation
from jtl.training import run as train
from jtl.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("module_without_pictures")

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits", "train_per_class": 4},
    "optim": {"learning_rate": 1e-1},
    "train": {"steps": 2, "batch_size": 16, "eval_every": 2, "eval_batch_size": 200},
    "sharding": {"devices": 1},
}


def _settings(**changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(TINY), overrides)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier whose head is no longer zero."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    train.run(_settings(), folder)
    return folder


@pytest.fixture(scope="module")
def settings(source: Path) -> config.Config:
    """A run of Co-Tuning from that classifier."""
    return _settings(model__weights=str(source), strategy__name="co_tuning")


@pytest.fixture(scope="module")
def finished(settings: config.Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder and the summary of that run, from start to end."""
    folder = tmp_path_factory.mktemp("runs") / "co_tuning"
    return folder, train.run(settings, folder)


def _last_relationship(settings: config.Config, folder: Path) -> np.ndarray:
    ready, state, checkpoints = preparation.prepare(settings, folder, Live(), Phases())
    with closing(checkpoints):
        state, _ = train._restored(ready, state, checkpoints)
    assert int(state.step) == 2
    return np.asarray(state.frozen["extra"]["relationship"])


def _expected_relationship(settings: config.Config, source: Path) -> np.ndarray:
    """The mean, image by image, of what the classifier's own head gives the images of a class."""
    opened = predictor.open(predictor.of_run(str(source)))
    preprocess = opened.preprocess
    images, transform = build.open_splits(settings)["train"], image.transform(preprocess, None)
    pixels = np.stack([transform(images[row]["raw"], None) for row in range(len(images))])
    inputs = (pixels / np.float32(255) - np.float32(preprocess.mean)) / np.float32(preprocess.std)
    logits = jax.jit(opened.model.apply)(opened.values["params"], opened.values["model_state"], inputs).logits
    probabilities, labels = softmax(np.asarray(logits, np.float64), axis=1), images.labels()
    return np.stack([probabilities[labels == label].mean(0) for label in range(10)])


@pytest.mark.slow
def test_co_tuning_run_holds_the_mean_probabilities_of_its_own_training_images(
    settings: config.Config, source: Path, finished: tuple[Path, Any]
) -> None:
    found = _last_relationship(settings, finished[0])
    assert np.abs(found - 0.1).max() > 0.01
    np.testing.assert_allclose(found, _expected_relationship(settings, source), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_resumed_run_takes_it_from_the_checkpoint_and_ends_in_the_same_bits(
    settings: config.Config, finished: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = StopRequest()
    asked.ask()
    calls: list[Any] = []
    prepared = evaluate.prepared

    def watched(*parts: Any) -> Any:
        calls.append(parts)
        return prepared(*parts)

    monkeypatch.setattr(evaluate, "prepared", watched)
    assert train.run(settings, tmp_path / "cut", asked)["steps"] == 1
    assert len(calls) == 1
    assert train.run(settings, tmp_path / "cut")["digest"] == finished[1]["digest"]
    assert len(calls) == 1
    with closing(
        Checkpoints(tmp_path / "cut" / "checkpoints", metric="accuracy", is_maximized=True)
    ) as checkpoints:
        assert checkpoints.steps() == [1, 2]
