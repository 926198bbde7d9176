"""Heads side by side: each as in a run of its own, and the one that validation chooses becomes the run's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.strategies import probe
from jtl.strategies.contract import Cell
from jtl.training import config, grid, optim
from jtl.training import run as train
from jtl.training.build import Built
from jtl.verbs import evaluate
from tests import tiny
from tests.training.test_features import TINY, _behind

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("without_pictures"),
]
RATES, DECAYS = (0.1, 0.01), (0.0, 0.5)
OPTIMIZER = optim.Config(learning_rate=0.1, ema=0.5, clip_norm=0.1)


def test_every_head_of_a_grid_moves_as_in_a_run_of_its_own() -> None:
    cells = probe._cells(probe.Config(grid_learning_rates=RATES, grid_weight_decays=DECAYS))
    parts, params, model_state = tiny.make_parts("vit", "probe", optimizer=OPTIMIZER)
    parts = parts._replace(augment=None, strategy=parts.strategy._replace(heads=cells))
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(3)]
    behind, kept = _behind(parts, params, model_state, batches)
    built = Built(parts, params, model_state, None)
    settings = config.from_dict({**TINY, "optim": vars(OPTIMIZER)})
    several = grid.parts_of(behind, built, settings, "accuracy", is_maximized=True)
    wide = grid.widened(built, settings)
    state, _ = tiny.Trainer(several).train(tiny.make_state(wide.parts, wide.params, model_state), kept)
    for place in (0, 3):
        cell = cells[place]
        own = replace(OPTIMIZER, learning_rate=cell.learning_rate, weight_decay=cell.weight_decay)
        alone = behind._replace(optim=own, optimizer=optim.make(own, parts.groups, parts.num_steps))
        expected, _ = tiny.Trainer(alone).train(tiny.make_state(alone, params, model_state), kept)
        found = grid.chosen(state, place, None)
        for name in ("trainable", "ema"):
            for leaf, other in zip(
                *(jax.tree.leaves(getattr(each, name)) for each in (found, expected)), strict=True
            ):
                np.testing.assert_allclose(leaf, other, rtol=2e-5, atol=1e-6)


def test_what_a_head_reads_is_cut_out_of_the_features_by_layer_and_pool() -> None:
    model = {"features": ("block0", "block1"), "feature_pool": "cls_mean"}
    settings = config.from_dict({**TINY, "model": {**TINY["model"], **model}})
    parts, params, model_state = tiny.make_parts("vit", "probe", model_config=settings.model)
    cells = (Cell(), Cell(layers=("block1",)), Cell(pool="cls"), Cell(layers=("block0",), pool="mean"))
    found = grid.masks(settings, Built(parts, params, model_state, None), cells)
    # Class token and mean of the first layer, then of the second, 16 wide each.
    expected = [[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(found, np.repeat(expected, 16, axis=1))


def _settings(**changes: Any) -> config.Config:
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.with_overrides(config.from_dict(TINY), overrides)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy__grid_layers": "(('block0',),)"}, "has not; set model.features=('block0',)"),
        ({"strategy__grid_pools": "('cls',)"}, "model.feature_pool='cls_mean'"),
        ({"strategy__grid_learning_rates": "(0.1,)", "data__val_fraction": 0.0}, "needs a validation split"),
        (
            {"strategy__grid_learning_rates": "(0.1,)", "train__views": 0},
            "grid_learning_rates is set, and",
        ),
        ({"strategy__solver": "lbfgs", "model__head_widths": "(8,)"}, "solves for a linear head"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train.run(_settings(**changes), tmp_path / "run")
    assert words in str(caught.value)


def test_values_given_twice_and_two_ways_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"strategy.grid_learning_rates has a value twice"):
        probe.Config(grid_learning_rates=(0.1, 0.1))
    with pytest.raises(UserError, match=r"strategy.solver and strategy.grid_… are both set"):
        probe.Config(grid_learning_rates=(0.1, 0.2), solver="lbfgs")


@pytest.mark.slow
def test_the_head_that_validation_chooses_is_written_and_all_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    model = {"model__features": "('block0','block1')", "model__feature_pool": "cls_mean"}
    axes = {"grid_learning_rates": "(1e-6,0.1)", "grid_layers": "(('block0',),('block0','block1'))"}
    changes = {f"strategy__{name}": value for name, value in axes.items()}
    result = train.run(_settings(**model, **changes), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "grid.json").read_text())
    assert [row["head"]["learning_rate"] for row in found["heads"]] == [1e-6, 0.1, 1e-6, 0.1]
    assert found["chosen"] in (1, 3)
    assert found["heads"][found["chosen"]]["kept"] == result["best"]["val/accuracy"]
    assert any(f"of 4 heads number {found['chosen']} is kept" in note for note in _notes(tmp_path / "run"))
    # The run of that head alone.
    layers = found["heads"][found["chosen"]]["head"]["layers"]
    alone = {"model__features": str(tuple(layers)), "optim__learning_rate": 0.1}
    other = train.run(_settings(**{**model, **alone}), tmp_path / "alone")
    assert other["best"] == pytest.approx(result["best"], rel=1e-4)
    measured = evaluate.run(run_folder=str(tmp_path / "run"))
    assert measured["metrics"]["accuracy"] == pytest.approx(result["best"]["val/accuracy"])


@pytest.mark.slow
def test_a_run_whose_head_is_solved_for_has_one_step_that_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    settings = _settings(strategy__solver="lbfgs", strategy__strengths="(0.1,1.0)", strategy__folds=2)
    results = [train.run(settings, tmp_path / name) for name in ("one", "other")]
    assert results[0]["digest"] == results[1]["digest"]
    assert results[0]["steps"] == 1
    assert any("the head is solved for with strength" in note for note in _notes(tmp_path / "one"))
    assert results[0]["best"]["val/accuracy"] > 0.15


def _notes(folder: Path) -> list[str]:
    return json.loads((folder / "meta.json").read_text())["notes"]
