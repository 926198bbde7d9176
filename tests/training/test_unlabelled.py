"""Runs with examples without labels: what is read, in which views, what is refused, and that they go on."""

import csv
import json
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.report import curves
from jtl.report.console import Live, Progress, parts
from jtl.report.summary import Phases
from jtl.signals import StopRequest
from jtl.training import config, dispatch, loop, preparation, remarks, streams
from jtl.training import run as train
from jtl.training.build import Built
from tests import tiny

pytestmark = pytest.mark.usefixtures("module_without_pictures")

NUM_LABELLED, NUM_OTHERS = 12, 20
PLAIN = {"augment__crop_scale": (1.0, 1.0), "augment__crop_ratio": (1.0, 1.0), "augment__flip": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled images, others without labels, and places that hold none or something else."""
    root = tmp_path_factory.mktemp("unlabelled")
    random = np.random.default_rng(0)
    places = [root / "labelled" / "abc"[index % 3] / f"{index}.png" for index in range(NUM_LABELLED)]
    places += [root / "others" / "deep" / f"{index}.png" for index in range(NUM_OTHERS)]
    for index, path in enumerate(places):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (8, 8, 3)).astype(np.uint8)
        pixels[..., index % 3] += np.uint8(150)
        Image.fromarray(pixels).save(path)
    (root / "none").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "one.txt").write_text("a text")
    return {each.name: each for each in root.iterdir()}


def _settings(folders: dict[str, Path], others: str = "others", **changes: Any) -> config.Config:
    values = {
        "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
        "data": {
            "path": str(folders["labelled"]),
            "val_fraction": 0.25,
            "unlabelled": str(folders[others]) if others else "",
        },
        "strategy": {"name": "flex_match", "times": 2, "threshold": 0.34},
        "optim": {"learning_rate": 1e-2},
        "train": {"steps": 8, "batch_size": 4, "eval_every": 4, "eval_batch_size": 8, "log_every": 1},
        "sharding": {"devices": 1},
    }
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(values), overrides)


@pytest.fixture(scope="module")
def finished(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "flex"
    return folder, train.run(_settings(folders), folder)


def test_run_tells_what_share_it_learned_from_and_which_examples_it_had(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = finished
    assert result["status"] == "finished"
    series = curves.read(folder / "metrics.jsonl")
    used = [value for _, value in series["train/unlabelled_used"]]
    assert len(used) == 8
    assert all(0 <= value <= 1 for value in used)
    assert max(used) > 0
    assert {"train/unlabelled_loss", "train/threshold_mean", "train/threshold_least"} <= series.keys()
    about = json.loads((folder / "meta.json").read_text())
    assert about["data"]["unlabelled"]["num_examples"] == NUM_OTHERS


def test_live_line_has_the_share() -> None:
    progress = Progress(3, 9, 0.5, 1.0, 4, "images", 0.0, "accuracy", None, None, {"unlabelled_used": 0.256})
    assert parts(progress, None, None, "")["shares"] == "unlabelled_used 26%"


@pytest.mark.slow
def test_run_that_is_stopped_and_goes_on_ends_in_the_same_bits(
    finished: tuple[Path, dict[str, Any]],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, folder = _settings(folders), tmp_path / "run"
    stop, push = StopRequest(), loop._Reader.push

    def stopping(reader: Any, number: int, num_steps: int, values: Any) -> None:
        push(reader, number, num_steps, values)
        if number == 5:
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(loop._Reader, "push", stopping)
        stopped = train.run(settings, folder, stop)
    assert (stopped["status"], stopped["steps"]) == ("preempted", 5)
    found = train.run(settings, folder)
    for name in ("digest", "final", "best"):
        assert found[name] == finished[1][name], name


def test_batches_have_two_views_of_the_same_examples_and_are_a_function_of_seed_and_step(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = _settings(folders, **PLAIN)
    ready, _, checkpoints = preparation.prepare(settings, tmp_path / "run", Live(), Phases())
    with closing(checkpoints), closing(dispatch.host_batches(ready, 0)) as batches:
        first = list(islice(batches, 4))
        with closing(dispatch.host_batches(ready, 2)) as later:
            again = list(islice(later, 2))
    for batch in first:
        assert batch["weak"].keys() == batch["strong"].keys() == {"inputs", "mask", "id"}
        assert len(batch["weak"]["id"]) == 2 * len(batch["train"]["id"])
        np.testing.assert_array_equal(batch["weak"]["id"], batch["strong"]["id"])
    assert any((batch["weak"]["inputs"] != batch["strong"]["inputs"]).any() for batch in first)
    for one, other in zip(jax.tree.leaves(first[2:]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    shown = [index for batch in first for index in batch["weak"]["id"].tolist()]
    assert sorted(set(shown)) == list(range(NUM_OTHERS))


def test_weak_views_of_two_streams_are_drawn_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    changes = {"strategy__name": "mean_teacher", "optim__ema": 0.9}
    settings = _settings(folders, augment__flip=0.5, augment__crop_scale=(0.3, 1.0), **changes)
    ready, _, checkpoints = preparation.prepare(settings, tmp_path / "run", Live(), Phases())
    with closing(checkpoints), closing(dispatch.host_batches(ready, 0)) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(batch["student"]["id"], batch["teacher"]["id"])
    assert (batch["student"]["inputs"] != batch["teacher"]["inputs"]).any()


def test_the_datas_own_path_is_all_of_its_training_examples_and_none_of_validation(
    folders: dict[str, Path],
) -> None:
    spelt = f"{folders['labelled']}/../labelled/"
    settings = _settings(folders, data__train_per_class=1, data__unlabelled=spelt)
    found = streams.open_unlabelled(settings)
    assert found is not None
    splits = streams.build.open_splits(settings)
    keys = {name: {source.fingerprint(row) for row in range(len(source))} for name, source in splits.items()}
    own = {found.fingerprint(row) for row in range(len(found))}
    assert keys["train"] < own
    assert not keys["val"] & own
    assert len(own) + len(keys["val"]) == NUM_LABELLED


def test_array_of_images_without_labels_is_taken_and_one_alone_needs_no_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
    labels = np.arange(6) % 3
    np.savez(tmp_path / "both.npz", x_train=images[:6], y_train=labels, x_unlabelled=images[6:])
    np.savez(tmp_path / "alone.npz", images=images)
    base = {"model": {"size": "mini"}, "data": {"name": "arrays", "path": str(tmp_path / "both.npz")}}
    for name, expected in (("both", images[6:]), ("alone", images)):
        given = {**base["data"], "unlabelled": str(tmp_path / f"{name}.npz")}
        found = streams.open_unlabelled(config.from_dict({**base, "data": given}))
        assert found is not None
        assert found.labels() is None
        read = np.stack([found[row]["raw"][..., 0] for row in range(len(found))])
        np.testing.assert_array_equal(read, expected)


def test_table_of_texts_needs_no_column_of_labels(tmp_path: Path) -> None:
    for name, header, rows in (
        ("few", ["text", "label"], [["good", "a"], ["bad", "b"]]),
        ("all", ["text"], [["one"], ["two"], ["three"]]),
    ):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    settings = config.from_dict(
        {
            "model": {"name": "bert"},
            "data": {
                "name": "table",
                "path": str(tmp_path / "few.csv"),
                "unlabelled": str(tmp_path / "all.csv"),
            },
        }
    )
    found = streams.open_unlabelled(settings)
    assert found is not None
    assert [found[row]["raw"] for row in range(len(found))] == ["one", "two", "three"]


def test_settings_of_a_strong_view_that_nothing_learns_from_are_told(folders: dict[str, Path]) -> None:
    settings = _settings(folders, augment__strong_magnitude=7)
    found = {}
    for name in ("full", "flex_match"):
        parts, params, model_state = tiny.make_parts("vit", name)
        found[name] = remarks._views(settings, Built(parts, params, model_state, None))
    assert found["flex_match"] == []
    assert [line.partition(":")[0] for line in found["full"]] == [
        "augment.strong_magnitude is 7.0, which has no effect"
    ]


@pytest.mark.parametrize(
    ("others", "changes", "message"),
    [
        ("", {}, "strategy 'flex_match' learns from unlabelled images and config.data.unlabelled is empty"),
        ("none", {}, "config.data.unlabelled: folder .*none' holds no examples"),
        ("texts", {}, "config.data.unlabelled: folder .*texts' holds no images; expected files ending"),
        (
            "others",
            {"strategy__name": "full"},
            "config.data.unlabelled is .* and strategy 'full' takes no unlabelled images; leave it empty",
        ),
        (
            "others",
            {"train__is_augmented": False},
            "train.is_augmented is false and strategy 'flex_match' learns from two views",
        ),
        (
            "others",
            {"strategy__name": "mean_teacher"},
            "average of the parameters and optim.ema is 0; set opt",
        ),
        ("others", {"augment__mixup_alpha": 0.2}, "mixup_alpha is 0.2, .* expected 0 with strategy 'flex_m"),
        ("others", {"train__batch_size": 0}, "train.batch_size is 0; expected 1 or more"),
        ("others", {"data__unlabelled": "gone/"}, "config.data.unlabelled: .*'gone/' is not there"),
        (
            "others",
            {"augment__strong_policy": "rand"},
            "augment.strong_policy 'rand' is unknown; nearest: 'ran",
        ),
        ("others", {"augment__strong_mask_tokens": 0.1}, "unknown config key augment.strong_mask_tokens"),
    ],
)
def test_run_that_cannot_be_is_refused(
    folders: dict[str, Path], tmp_path: Path, others: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.run(_settings(folders, others, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
