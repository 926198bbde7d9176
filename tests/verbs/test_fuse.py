"""`jtl fuse` from folder to folder: the ends' bits, members and scores, statistics, ensembles, refusals."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jtl import cli, predictor, tree
from jtl.errors import UserError
from jtl.report import summary
from jtl.training import build, config, meta, step
from jtl.training import evaluate as measuring
from jtl.verbs import evaluate
from jtl.verbs.fuse import fuse
from jtl.weights.recognise import recognise
from jtl.weights.run_folder import write_run_weights
from tests import tiny

VIT = {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
RESNET = {"name": "cifar_resnet", "image_px": 8, "units": (1, 1), "width": 4}
NUM_VALIDATION = 359


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders as training leaves them, of random values: it is not asked how good they are.

    `a`, `b`, `c` started from `start`, `b` by LoRA; `copy` is `a`; `random` started from nothing; `r` and `s`
    are ResNets; `other` has other class names, `wide` another width, `whole` no validation images.
    """
    folder = tmp_path_factory.mktemp("runs")
    _make(folder / "start", VIT, 9)
    for seed, name in enumerate("abc"):
        strategy = {"name": "lora" if name == "b" else "full"}
        _make(folder / name, {**VIT, "weights": str(folder / "start")}, seed, strategy=strategy)
    shutil.copytree(folder / "a", folder / "copy")
    _make(folder / "random", VIT, 5)
    _make(folder / "r", RESNET, 6)
    _make(folder / "s", RESNET, 7)
    _make(folder / "other", VIT, 8, names=tuple("abcdefghij"))
    _make(folder / "wide", {**VIT, "mlp_dim": 32}, 8)
    _make(folder / "whole", VIT, 8, data={"name": "digits", "val_fraction": 0.0})
    return folder


def _make(folder: Path, model: dict[str, Any], seed: int, names: Any = None, **sections: Any) -> None:
    values = {
        "model": model,
        "data": {"name": "digits"},
        "train": {"seed": seed},
        "sharding": {"devices": 1},
        **sections,
    }
    settings = config.from_dict(values)
    splits = build.open_splits(settings)
    stats = build.label_stats(settings, splits["train"])
    stats = stats._replace(label_names=names or stats.label_names)
    # What a run writes has the additions of its strategy folded in.
    plain = config.from_dict({}).strategy
    drawn = replace(settings, model=replace(settings.model, weights="none"), strategy=plain)
    built = build.build(drawn, stats, steps=1)
    head = built.params["head"]
    random = np.random.default_rng(seed)
    built.params["head"] = {
        name: random.normal(size=leaf.shape).astype(np.float32) for name, leaf in head.items()
    }
    folder.mkdir()
    write_run_weights(folder, built.params, built.model_state)
    summary.write_json(folder / "config.json", config.to_dict(settings))
    summary.write_json(folder / "meta.json", meta.describe(settings, built, stats, splits))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of examples of each pass over a split that measures something."""
    found, measure = [], measuring.measure

    def counted(*args: Any, **options: Any) -> Any:
        found.append(options["num_examples"])
        return measure(*args, **options)

    monkeypatch.setattr(measuring, "measure", counted)
    return found


def _fuse(runs: Path, names: str, method: str, out: Path, **options: Any) -> dict[str, Any]:
    options = {"batch_size": 200} | options
    return fuse.run(runs=[str(runs / each) for each in names.split()], method=method, out=str(out), **options)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def _bits(folder: Path) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in _weights(folder).items()}


def _measured(folder: Path) -> dict[str, float]:
    return evaluate.run(run_folder=str(folder), split="val", batch_size=200)["metrics"]


def _probabilities(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A run's softmax of every validation image, in numpy's float64, and the labels."""
    opened = predictor.open(predictor.of_run(str(folder)))
    source = build.open_splits(opened.settings, opened.stats)["val"]
    (batch,) = predictor.batches(opened, source, NUM_VALIDATION)
    logits = np.float64(predictor.forward(opened, opened.values, jax.numpy.asarray(batch["inputs"])).logits)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True), batch["label"]


def test_soup_is_the_mean_whatever_the_order_and_serves_as_a_run(runs: Path, tmp_path: Path) -> None:
    found = _fuse(runs, "a b c", "uniform", tmp_path / "soup")
    _fuse(runs, "c a b", "uniform", tmp_path / "again")
    members = [_weights(runs / name) for name in "abc"]
    again = _weights(tmp_path / "again")
    for name, leaf in _weights(tmp_path / "soup").items():
        expected = np.mean([each[name].astype(np.longdouble) for each in members], axis=0)
        np.testing.assert_allclose(leaf, expected, rtol=6e-8)
        np.testing.assert_allclose(leaf, again[name], rtol=1.2e-7)
    measured = _measured(tmp_path / "soup")
    assert {f"val/{name}": value for name, value in measured.items()} == pytest.approx(found["metrics"])
    assert [each["accuracy"] for each in found["scores"]] == [
        _measured(runs / name)["accuracy"] for name in "abc"
    ]
    assert json.loads((tmp_path / "soup" / "fuse.json").read_text()) == found
    about = json.loads((tmp_path / "soup" / "meta.json").read_text())
    assert about["fused"] == found
    assert about["parameters"]["trainable"] == 0
    assert json.loads((tmp_path / "soup" / "summary.json").read_text())["status"] == "finished"
    assert recognise(str(tmp_path / "soup")).family == "vit"


@pytest.mark.parametrize("name", ["a", "r"])
def test_soup_of_copies_is_the_copy_running_statistics_too(runs: Path, tmp_path: Path, name: str) -> None:
    _fuse(runs, f"{name} {name} {name}", "uniform", tmp_path / "soup")
    assert _bits(tmp_path / "soup") == _bits(runs / name)


def test_greedy_soup_is_not_worse_than_its_best_member(runs: Path, tmp_path: Path, passes: list[int]) -> None:
    found = _fuse(runs, "a copy b c", "greedy", tmp_path / "soup")
    assert len(passes) == 4 + 3, "one for each member, the best of which is the first soup, and others"
    scores = {each["run"]: each["accuracy"] for each in found["scores"]}
    assert found["metrics"]["val/accuracy"] >= max(scores.values())
    order = [each["run"] for each in found["decisions"]]
    assert [scores[run] for run in order] == sorted(scores.values(), reverse=True)
    best = found["decisions"][0]["val/accuracy"]
    for each in found["decisions"]:
        assert each["is_added"] == (each["val/accuracy"] >= best)
        best = max(best, each["val/accuracy"])
    assert found["members"] == [each["run"] for each in found["decisions"] if each["is_added"]]


@pytest.mark.slow
def test_interpolation_ends_in_the_start_with_the_runs_head_and_in_the_run(
    runs: Path, tmp_path: Path
) -> None:
    _fuse(runs, "a", "wise", tmp_path / "zero", alphas="0")
    _fuse(runs, "a", "wise", tmp_path / "one", alphas="1")
    run, start, zero = _bits(runs / "a"), _bits(runs / "start"), _bits(tmp_path / "zero")
    assert _bits(tmp_path / "one") == run
    assert zero.keys() == run.keys()
    for name, leaf in zero.items():
        assert leaf == (run if name.startswith("params/head/") else start)[name], name


@pytest.mark.slow
def test_interpolation_takes_the_head_of_a_start_with_the_same_classes(runs: Path, tmp_path: Path) -> None:
    start = str(runs / "b")
    _fuse(runs, "a", "wise", tmp_path / "zero", alphas="0", start=start)
    assert _bits(tmp_path / "zero") == _bits(runs / "b")
    other = str(runs / "other")
    _fuse(runs, "a", "wise", tmp_path / "other", alphas="0", start=other)
    found, run, start_bits = _bits(tmp_path / "other"), _bits(runs / "a"), _bits(runs / "other")
    assert {name for name in found if found[name] != start_bits[name]} == {
        "params/head/kernel",
        "params/head/bias",
    }
    assert found["params/head/kernel"] == run["params/head/kernel"]


def test_best_of_the_sweep_is_kept_and_all_of_it_is_written(
    runs: Path, tmp_path: Path, passes: list[int]
) -> None:
    found = _fuse(runs, "a", "wise", tmp_path / "wise", alphas="0,0.25,1", start=str(runs / "b"))
    assert len(passes) == 3, "one over validation for each"
    assert [each["alpha"] for each in found["sweep"]] == [0, 0.25, 1]
    ends = [_measured(runs / name)["accuracy"] for name in "ba"]
    assert [found["sweep"][place]["accuracy"] for place in (0, 2)] == ends
    best = max(found["sweep"], key=lambda each: (each["accuracy"], -each["loss"]))
    assert (found["alpha"], found["metrics"]["val/accuracy"]) == (best["alpha"], best["accuracy"])
    weights = [_weights(runs / name) for name in "ba"]
    for name, leaf in _weights(tmp_path / "wise").items():
        ends_of = [each[name].astype(np.longdouble) for each in weights]
        expected = (1 - np.longdouble(best["alpha"])) * ends_of[0] + best["alpha"] * ends_of[1]
        np.testing.assert_allclose(leaf, expected, rtol=6e-8)
    with Image.open(tmp_path / "wise" / "sweep.png") as picture:
        assert min(picture.size) > 100


def _first_moments(weights: dict[str, np.ndarray], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the first convolution's outputs over all images, in float64."""
    maps = tiny.convolved(images, weights["params/conv_root/kernel"])
    return maps.mean((0, 1, 2)), maps.var((0, 1, 2))


def _inputs(folder: Path, images: Any) -> np.ndarray:
    """Images [n, 8, 8, 3] as the model gets them, in numpy's float64."""
    preprocess = json.loads((folder / "meta.json").read_text())["preprocess"]
    return (np.float64(images) / 255 - preprocess["mean"]) / preprocess["std"]


def test_soup_has_the_statistics_of_its_own_training_images(runs: Path, tmp_path: Path) -> None:
    _fuse(runs, "r s", "uniform", tmp_path / "soup")
    weights = _weights(tmp_path / "soup")
    found = predictor.of_run(str(runs / "r"))
    source = build.open_splits(found.settings, found.stats)["train"]
    assert len(source) % 200, "the last batch is padded"
    images = [source[index]["raw"] for index in range(len(source))]
    mean, var = _first_moments(weights, _inputs(runs / "r", np.broadcast_to(images, (len(images), 8, 8, 3))))
    prefix = "model_state/batch_stats/bn_root"
    np.testing.assert_allclose(weights[f"{prefix}/mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights[f"{prefix}/var"], var, rtol=1e-5)


def test_adapted_statistics_are_those_of_other_images(runs: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    (tmp_path / "target").mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "target" / f"{index}.png")
    target = str(tmp_path / "target")
    found = _fuse(runs, "r", "uniform", tmp_path / "adabn", statistics_of=target, batch_size=4)
    weights, before = _weights(tmp_path / "adabn"), _weights(runs / "r")
    assert all(np.array_equal(weights[name], before[name]) for name in before if name.startswith("params/"))
    mean, var = _first_moments(weights, _inputs(runs / "r", images))
    prefix = "model_state/batch_stats/bn_root"
    np.testing.assert_allclose(weights[f"{prefix}/mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights[f"{prefix}/var"], var, rtol=1e-5)
    assert found["statistics_of"] == target
    assert found["scores"][0]["accuracy"] == _measured(runs / "r")["accuracy"]


@pytest.mark.slow
def test_ensemble_of_families_predicts_the_mean_of_the_members(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, with_targets, open_splits = [], step.with_targets, build.open_splits

    def with_test(*args: Any) -> Any:
        splits = open_splits(*args)
        return {**splits, "test": splits["val"]}

    monkeypatch.setattr(build, "open_splits", with_test)
    monkeypatch.setattr(step, "with_targets", lambda *args: traced.append(args[0]) or with_targets(*args))
    found = _fuse(runs, "a r", "ensemble", tmp_path / "both")
    averaged = [each for each in traced if traced.count(each) > 1]
    assert averaged == [], "a member is traced once for all splits"
    members = [_probabilities(runs / name) for name in ("a", "r")]
    expected, labels = np.mean([shares for shares, _ in members], axis=0), members[0][1]
    with (tmp_path / "both" / "val" / "predictions.csv").open() as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "label", *(str(digit) for digit in range(10))]
    assert [row[1] for row in rows] == [str(label) for label in labels]
    np.testing.assert_allclose(np.float64([row[2:] for row in rows]), expected, rtol=2e-5, atol=1e-7)
    assert found["metrics"]["val/accuracy"] == pytest.approx(np.mean(expected.argmax(1) == labels))
    own = expected[np.arange(len(labels)), labels]
    assert found["metrics"]["val/loss"] == pytest.approx(-np.mean(np.log(own)), rel=1e-5)
    with pytest.raises(UserError, match="holds the predictions of an ensemble, which is no one model"):
        predictor.of_run(str(tmp_path / "both"))


@pytest.mark.parametrize(
    ("names", "method", "options", "message"),
    [
        ("a b", "mean", {}, "--method 'mean' is unknown; nearest:"),
        ("a", "greedy", {}, "--method greedy is given 1 runs; expected 2 or more"),
        ("a b", "wise", {}, "--method wise is given 2 runs; expected one"),
        ("a", "uniform", {}, "is given one run, of which it would make a copy"),
        ("a b", "uniform", {"start": "x"}, "--start is given, and --method uniform has no use for it; it is"),
        ("a", "wise", {"alphas": "0,2"}, "--alphas is '0,2'; expected different numbers from 0"),
        ("a", "wise", {"alphas": "0;1"}, "--alphas is '0;1'; expected numbers separated by commas"),
        ("random", "wise", {}, "started from random weights"),
        ("whole", "wise", {}, "chooses on validation images, and the data of run .* has none"),
        ("a r", "uniform", {}, "has model.name 'cifar_resnet', run .*a' 'vit'; .*ensemble takes different"),
        ("a wide", "greedy", {}, "has model.mlp_dim 32, run .*a' 16"),
        ("a other", "ensemble", {}, "has class 0 'a', run .*a' '0'; expected runs of the same input"),
        ("a", "uniform", {"statistics_of": "."}, r"needs BatchNorm: .*a' is of family 'vit', which keeps no"),
        ("a b", "uniform", {"overrides": [("model.depth", "2")]}, "--config.model.depth is given, but what"),
        (
            "a",
            "wise",
            {"alphas": "1", "overrides": [("train.monitor", "target_im")]},
            "by train.monitor 'target",
        ),
        ("a nowhere", "uniform", {}, "nowhere' is no run folder"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    runs: Path, tmp_path: Path, names: str, method: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _fuse(runs, names, method, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folder_with_something_in_it_is_kept(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is there already and not empty"):
        _fuse(runs, "a b", "uniform", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_member_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    weights = {name: np.array(leaf) for name, leaf in _weights(runs / "b").items()}
    weights["params/head/bias"][0] = np.nan
    write_run_weights(tmp_path / "b", tree.unflatten(weights)["params"], {})
    with pytest.raises(UserError, match=r"'params/head/bias' of run .*b' is not finite"):
        _fuse(runs, f"a {tmp_path / 'b'}", "uniform", tmp_path / "out")


def test_runs_of_other_starts_and_data_are_fused_with_a_word(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fuse(runs, "a random", "uniform", tmp_path / "soup")
    assert "started from none" in capsys.readouterr().err


def test_command_prints_one_json_object(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runs", str(runs / "a"), str(runs / "b"), "--method", "uniform", "--json"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", *words, "--out", str(tmp_path / "soup"), "--config.inputs.threads=1"])
    assert stop.value.code == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["members"] == [str(runs / "a"), str(runs / "b")]
    assert "uniform" in shown.err
