"""Measuring another domain: the criteria without labels, what they choose, and runs that have a target."""

import json
import shutil
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.data import pipeline
from jtl.errors import UserError
from jtl.inputs import image
from jtl.report import curves
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.signals import StopRequest
from jtl.tasks import TASKS
from jtl.training import adaptation, config, dispatch, loop, preparation
from jtl.training import run as train

pytestmark = pytest.mark.usefixtures("module_without_pictures")

NUM_IMAGES, NUM_CLASSES = 24, 3


def _probabilities(size: int, num_classes: int = 4, sharpness: float = 2.0) -> np.ndarray:
    logits = sharpness * np.random.default_rng(0).normal(size=(size, num_classes))
    wide = np.exp(logits)
    return wide / wide.sum(1, keepdims=True)


def _entropy(row: np.ndarray) -> float:
    return float(-sum(value * np.log(value) for value in row if value > 0))


def test_criteria_are_the_papers_formulas() -> None:
    p = _probabilities(9)
    found = adaptation.criteria(p)
    mean = np.mean([_entropy(row) for row in p])
    assert found["target_entropy"] == pytest.approx(mean)
    assert found["target_im"] == pytest.approx(_entropy(p.mean(0)) - mean)
    entropies = []
    for i, row in enumerate(p):
        cosines = [row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in np.delete(p, i, 0)]
        shares = np.exp(np.array(cosines) / 0.05)
        entropies.append(_entropy(shares / shares.sum()))
    assert found["target_snd"] == pytest.approx(np.mean(entropies))


def test_criteria_at_their_ends() -> None:
    even = np.full((12, 4), 0.25)
    assert adaptation.criteria(even)["target_im"] == pytest.approx(0.0, abs=1e-12)
    assert adaptation.criteria(even)["target_snd"] == pytest.approx(np.log(11))
    sure = np.eye(4)[np.arange(12) % 4]
    found = adaptation.criteria(sure)
    assert found["target_entropy"] == 0.0
    assert found["target_im"] == pytest.approx(np.log(4))
    assert found["target_snd"] == pytest.approx(np.log(2), abs=1e-6)


def test_density_of_many_examples_is_that_of_an_even_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    p = _probabilities(10)
    monkeypatch.setattr(adaptation, "MAX_NEIGHBOURS", 4)
    expected = adaptation.neighbourhood_density(p[::3])
    assert adaptation.neighbourhood_density(p) == expected
    assert np.isnan(adaptation.neighbourhood_density(p[:1]))


HISTORY = [
    {
        "step": 4,
        "accuracy": 0.9,
        "loss": 0.3,
        "target_im": 0.1,
        "target_entropy": 0.9,
        "target_accuracy": 0.2,
    },
    {
        "step": 8,
        "accuracy": 0.7,
        "loss": 0.4,
        "target_im": 0.5,
        "target_entropy": 0.5,
        "target_accuracy": 0.4,
    },
    {
        "step": 12,
        "accuracy": 0.8,
        "loss": 0.4,
        "target_im": 0.3,
        "target_entropy": 0.1,
        "target_accuracy": 0.6,
    },
]


def test_outcome_tells_last_selected_and_oracle_apart() -> None:
    found = adaptation.outcome(HISTORY, "target_im", TASKS["multiclass"])
    assert found["last"] == {"by": "step", "step": 12, "im": 0.3, "entropy": 0.1, "accuracy": 0.6}
    assert found["selected"] == {"by": "target_im", "step": 8, "im": 0.5, "entropy": 0.5, "accuracy": 0.4}
    assert found["oracle"]["by"] == "target_accuracy"
    steps = {name: each["step"] for name, each in found["criteria"].items()}
    assert steps == {"target_im": 8, "target_entropy": 12, "accuracy": 4}
    assert adaptation.outcome(HISTORY, "accuracy", TASKS["multiclass"])["selected"]["step"] == 4


def test_outcome_of_a_target_without_labels_has_no_oracle() -> None:
    history = [{name: value for name, value in each.items() if name != "target_accuracy"} for each in HISTORY]
    found = adaptation.outcome(history, "target_im", TASKS["multiclass"])
    assert found.keys() == {"last", "selected", "criteria"}
    assert "oracle" not in adaptation.table(found)
    assert adaptation.outcome([], "target_im", TASKS["multiclass"]) == {}


def _write_images(
    folder: Path, *, seed: int, classes: tuple[str, ...] = ("a", "b", "c"), count: int = NUM_IMAGES
) -> Path:
    """Small pictures whose colour is their class."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for index in range(count):
        name = classes[index % len(classes)] if classes else ""
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (8, 8, 3)).astype(np.uint8)
        pixels[..., index % NUM_CLASSES] += np.uint8(150 - 40 * seed)
        Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of images: two domains, two without a folder a class, and one with a class of its own."""
    folder = tmp_path_factory.mktemp("domains")
    return {
        "source": _write_images(folder / "source", seed=0),
        "target": _write_images(folder / "target", seed=1),
        "plain": _write_images(folder / "plain", seed=2, classes=()),
        "foreign": _write_images(folder / "foreign", seed=3, classes=("a", "b", "dog")),
        "single": _write_images(folder / "single", seed=3, classes=(), count=1),
    }


def _settings(domains: dict[str, Path], target: str, **changes: Any) -> config.Config:
    values = {
        "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
        "data": {"path": str(domains["source"]), "target": str(domains[target]) if target else ""},
        "strategy": {"name": "dann", "hidden_widths": (8,)},
        "optim": {"learning_rate": 1e-2},
        "train": {"steps": 8, "batch_size": 8, "eval_every": 2, "eval_batch_size": 32, "log_every": 1},
        "sharding": {"devices": 1},
    }
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(values), overrides)


@pytest.fixture(scope="module")
def finished(
    domains: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the summary of a run that adapts to a labelled target."""
    folder = tmp_path_factory.mktemp("runs") / "dann"
    return folder, train.run(_settings(domains, "target"), folder)


def test_run_with_a_target_reports_it_apart(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    target = result["target"]
    assert target["selected"]["by"] == "target_im"
    assert target["oracle"]["by"] == "target_accuracy"
    assert target["criteria"].keys() == {"target_im", "target_snd", "target_entropy", "accuracy"}
    assert target["oracle"]["accuracy"] >= target["selected"]["accuracy"]
    assert result["best"]["step"] == target["selected"]["step"]
    assert result["final"]["target/im"] == target["last"]["im"]
    series = curves.read(folder / "metrics.jsonl")
    assert [step for step, _ in series["target/im"]] == [2, 4, 6, 8]
    best = max(series["target/im"], key=lambda point: point[1])
    assert best == (target["selected"]["step"], target["selected"]["im"])
    assert max(value for _, value in series["target/accuracy"]) == target["oracle"]["accuracy"]
    assert series["train/lambda"][0] == (1, 0.0)
    described = json.loads((folder / "meta.json").read_text())["target"]
    assert (described["num_examples"], described["num_evaluated"]) == (NUM_IMAGES, NUM_IMAGES)


@pytest.mark.slow
def test_run_that_is_stopped_between_evaluations_and_resumed_ends_in_the_same_bits(
    finished: tuple[Path, dict[str, Any]],
    domains: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, folder = _settings(domains, "target"), tmp_path / "run"
    stop, push = StopRequest(), loop._Reader.push

    def stopping(reader: Any, number: int, num_steps: int, values: Any) -> None:
        push(reader, number, num_steps, values)
        if number == 5:
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(loop._Reader, "push", stopping)
        stopped = train.run(settings, folder, stop)
    assert (stopped["status"], stopped["steps"]) == ("preempted", 5)
    assert stopped["target"]["last"]["step"] == 4
    found = train.run(settings, folder)
    for name in ("digest", "final", "best", "target"):
        assert found[name] == finished[1][name], name


def test_target_whose_images_changed_is_refused(
    finished: tuple[Path, dict[str, Any]], domains: dict[str, Path], tmp_path: Path
) -> None:
    folder, settings = tmp_path / "run", _settings(domains, "target")
    folder.mkdir()
    for name in ("config.json", "meta.json"):
        (folder / name).write_text(
            (finished[0] / name).read_text().replace('"num_evaluated": 24', '"num_evaluated": 9')
        )
    (folder / "checkpoints").mkdir()
    with pytest.raises(
        UserError,
        match=r"target's examples changed since run .*'num_evaluated': 9,.* now .*'num_evaluated': 24",
    ):
        train.run(settings, folder)


def test_target_of_as_many_other_images_is_refused(
    domains: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, folder = tmp_path / "target", tmp_path / "run"
    shutil.copytree(domains["target"], target)
    settings = _settings({**domains, "target": target}, "target")
    monkeypatch.setattr(loop, "run", _never)
    with pytest.raises(AssertionError, match="it came to the loop"):
        train.run(settings, folder)
    with pytest.raises(AssertionError, match="it came to the loop"):
        train.run(settings, folder)
    about = json.loads((folder / "meta.json").read_text())
    about["target"]["num_images"] = about["target"].pop("num_examples")
    (folder / "meta.json").write_text(json.dumps(about))
    with pytest.raises(AssertionError, match="it came to the loop"):
        train.run(settings, folder)
    first, second = target / "a" / "0.png", target / "b" / "1.png"
    swapped = second.read_bytes(), first.read_bytes()
    first.write_bytes(swapped[0])
    second.write_bytes(swapped[1])
    with pytest.raises(
        UserError, match=r"target's examples changed since run .*sha256.* give another --workd"
    ):
        train.run(settings, folder)


def _never(*parts: Any) -> Any:
    raise AssertionError("it came to the loop")


@pytest.mark.parametrize(
    ("target", "changes"), [("plain", {}), ("target", {"data__has_target_labels": False})]
)
def test_target_without_labels_is_adapted_to_and_told_what_can_be_told(
    domains: dict[str, Path], tmp_path: Path, target: str, changes: dict[str, Any]
) -> None:
    result = train.run(_settings(domains, target, data__val_fraction=0.0, **changes), tmp_path / "run")
    assert result["target"].keys() == {"last", "selected", "criteria"}
    assert result["target"]["last"].keys() == {"by", "step", "entropy", "im", "snd"}
    assert result["best"] == {"step": result["target"]["selected"]["step"]}
    assert "accuracy" not in (tmp_path / "run" / "summary.json").read_text()


def test_loop_reads_the_target_without_labels_in_an_order_of_its_own(
    domains: dict[str, Path], tmp_path: Path
) -> None:
    """Both streams are the same images here, as they are, so that what differs is their order."""
    whole = {"data__val_fraction": 0.0, "augment__crop_scale": (1.0, 1.0), "augment__crop_ratio": (1.0, 1.0)}
    settings = _settings(domains, "source", **whole, augment__flip=0.0, train__seed=3)
    ready, _, checkpoints = preparation.prepare(settings, tmp_path / "run", Live(), Phases())
    transform = image.transform(ready.plan.built.parts.preprocess, settings.augment)
    of_seed = pipeline.train_batches(
        ready.feed.splits["train"], transform, image.INPUT, batch_size=8, seed=3, config=settings.inputs
    )
    with closing(checkpoints), closing(dispatch.device_batches(ready, 0)) as batches, closing(of_seed):
        epoch = [jax.device_get(batch) for batch in islice(batches, NUM_IMAGES // 8)]
        expected = [each.tobytes() for batch in islice(of_seed, NUM_IMAGES // 8) for each in batch["inputs"]]
    for batch in epoch:
        assert batch["target"].keys() == {"inputs", "mask", "id"}
        assert batch["train"].keys() == {"inputs", "label", "mask", "id"}
    training, target = (
        [each.tobytes() for batch in epoch for each in batch[name]["inputs"]] for name in ("train", "target")
    )
    assert training == expected
    assert sorted(target) == sorted(training)
    assert target != training


def test_plain_strategy_measures_a_target_and_chooses_by_its_own_validation(
    domains: dict[str, Path], tmp_path: Path
) -> None:
    settings = _settings(domains, "target", strategy__name="full", train__steps=2)
    result = train.run(settings, tmp_path / "run")
    assert result["target"]["selected"]["by"] == "accuracy"
    assert result["target"]["last"].keys() >= {"im", "snd", "entropy", "accuracy"}
    assert "val/accuracy" in result["best"]


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("", {}, "strategy 'dann' adapts to unlabelled images and config.data.target is empty"),
        ("foreign", {}, "config.data.target: .* has 'dog'; nearest known .* data.has_target_labels=false"),
        (
            "target",
            {"train__monitor": "target_accuracy"},
            "train.monitor is 'target_accuracy'; expected .*_im",
        ),
        ("", {"strategy__name": "full", "train__monitor": "target_im"}, "train.monitor is 'target_im'"),
        ("target", {"train__monitor": "targt_im"}, "train.monitor 'targt_im' is no metric"),
        (
            "single",
            {"train__monitor": "target_snd"},
            "train.monitor is 'target_snd' and config.data.target has 1 example .* expected 2 or more",
        ),
        (
            "target",
            {"augment__cutmix_alpha": 0.5},
            "augment.cutmix_alpha is 0.5, .* expected 0 with strategy 'dann', .* set it to 0",
        ),
        ("target", {"augment__mixup_alpha": 0.2}, "mixup_alpha is 0.2, .* expected 0 with strategy 'dann'"),
    ],
)
def test_run_that_cannot_be_is_refused(
    domains: dict[str, Path], tmp_path: Path, target: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.run(_settings(domains, target, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
