"""Training from what the frozen layers give: the run without, to the rounding of float32, and its cost."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open

from jtl import tree
from jtl.models import MODELS, cut
from jtl.signals import StopRequest
from jtl.strategies.contract import TRAIN
from jtl.training import config, features, optim, step
from jtl.training import run as train
from jtl.training.frozen import Frozen
from jtl.training.loop import _Reader
from tests import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("without_pictures"),
]
TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits", "train_fraction": 0.2},
    "strategy": {"name": "probe"},
    "optim": {"learning_rate": 1e-1},
    "train": {"steps": 12, "batch_size": 64, "eval_every": 4, "eval_batch_size": 200, "views": 2},
    "sharding": {"devices": 1},
}


def _behind(
    parts: step.Parts, params: Any, model_state: Any, batches: Sequence[Any], layer: int = -1
) -> tuple[step.Parts, list[Any]]:
    """Return the parts behind a cut, and the batches with what is kept in place of inputs."""
    found = cut.before(parts.model, parts.model.layers[layer], params, model_state)
    assert found is not None
    below = jax.jit(
        lambda inputs: found.below(params, model_state, parts.input.normalise(inputs, parts.preprocess))
    )
    kept = [
        {TRAIN: {**batch[TRAIN], "inputs": jax.device_get(below(batch[TRAIN]["inputs"]))}}
        for batch in batches
    ]
    return features.behind(parts, Frozen(found)), kept


MIDDLE = {"rules": (("^block2/|^head/", 1.0),)}
CASES = {
    "vit": ("vit", "probe", -1, {}),
    "vit, dropout of the head": ("vit", "probe", -1, {"head_dropout": 0.5, "head_widths": (8,)}),
    "bert": ("bert", "probe", -1, {}),
    "resnet, half of it": ("resnet", "partial", -2, {}),
}


@pytest.mark.parametrize(
    "case", [pytest.param(each, marks=[] if each == "vit" else [pytest.mark.slow]) for each in CASES]
)
def test_steps_from_what_is_kept_are_those_of_the_whole_model(case: str) -> None:
    family, strategy, layer, fields = CASES[case]
    model = MODELS[family].Config(**{**vars(MODELS[family].tiny()), **fields})
    optimizer = optim.Config(name="sgd", learning_rate=0.1, ema=0.5)
    options = MIDDLE if strategy == "partial" else {}
    parts, params, model_state = tiny.make_parts(
        family, strategy, model_config=model, optimizer=optimizer, **options
    )
    parts = parts._replace(augment=None)
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(3)]
    start = tiny.make_state(parts, params, model_state)
    behind, kept = _behind(parts, params, model_state, batches, layer)
    whole, expected = tiny.Trainer(parts).train(start, batches)
    state, reported = tiny.Trainer(behind).train(start, kept)
    for one, other in zip(reported, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for name, leaf in tree.flatten(whole.trainable).items():
        np.testing.assert_allclose(tree.flatten(state.trainable)[name], leaf, rtol=1e-4, atol=1e-6)
    for one, other in zip(
        *(jax.tree.leaves((each.frozen, each.model_state)) for each in (whole, state)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_of_the_head_costs_the_head_whatever_stands_below() -> None:
    flops = []
    for depth in (1, 3):
        model = MODELS["vit"].Config(**{**vars(MODELS["vit"].tiny()), "depth": depth})
        parts, params, model_state = tiny.make_parts("vit", "probe", model_config=model)
        parts = parts._replace(augment=None)
        batch = tiny.make_batch(parts)
        behind, (kept,) = _behind(parts, params, model_state, [batch])
        flops.append(tiny.compiled(behind, kept, params, model_state).cost_analysis()["flops"])
    assert flops[0] == flops[1]
    # Logits and the kernel's gradient, of 8 examples of 16 features and 3 classes; the rest is the optimizer.
    products = 2 * (2 * 8 * 16 * 3)
    assert products < flops[0] < 3 * products


def _settings(**changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(TINY), overrides)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the summary of a run from kept features."""
    folder = tmp_path_factory.mktemp("runs") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JTL_CACHE", str(folder.parent / "cache"))
        return folder, train.run(_settings(), folder)


@pytest.mark.slow
def test_a_run_from_kept_features_is_the_run_without(
    kept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = kept
    other = train.run(_settings(train__cache_features="off"), tmp_path / "off")
    assert result["final"] == pytest.approx(other["final"], rel=1e-4)
    assert result["best"] == pytest.approx(other["best"], rel=1e-4)
    for parent in (folder, tmp_path / "off"):
        with safe_open(parent / "model.safetensors", "numpy") as file:
            assert "params/Transformer/encoderblock_0/LayerNorm_0/scale" in file.keys()  # noqa: SIM118


@pytest.mark.slow
def test_the_line_and_where_features_lie_are_told_and_the_line_is_kept(
    kept: tuple[Path, dict[str, Any]],
) -> None:
    notes = json.loads((kept[0] / "meta.json").read_text())["notes"]
    assert any("the frozen layers run once (images 2 fixed views)" in note for note in notes)
    assert kept[1]["seconds"]["features"] > 0


@pytest.mark.slow
def test_the_next_run_computes_none_and_one_that_is_stopped_ends_in_the_same_bits(
    kept: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JTL_CACHE", str(kept[0].parent / "cache"))
    stop, push = StopRequest(), _Reader.push

    def stopping(reader: Any, number: int, num_steps: int, values: Any) -> None:
        push(reader, number, num_steps, values)
        if number == 8:
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(_Reader, "push", stopping)
        assert train.run(_settings(), tmp_path / "run", stop)["status"] == "preempted"
    result = train.run(_settings(), tmp_path / "run")
    assert result["digest"] == kept[1]["digest"]
    assert result["best"] == kept[1]["best"]
    shown = capsys.readouterr().err
    assert shown.count("read from") == 4
    assert "computed and kept" not in shown
    shutil.rmtree(tmp_path / "run")
