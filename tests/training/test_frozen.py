"""When what the frozen layers give is computed once, and the line that says why not."""

from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.training import build, config, frozen
from jtl.training.frozen import Frozen

VIT = {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16}
RESNET = {"name": "resnet", "size": "18", "image_px": 8, "units": (1, 1), "width": 4}


def _decided(model: dict[str, Any] = VIT, **changes: Any) -> Frozen:
    """Return what is decided for a probe of a model, with settings by their names."""
    settings = config.from_dict(
        {
            "model": {**model, "weights": "none"},
            "data": {"name": "digits"},
            "strategy": {"name": "probe"},
            "train": {"batch_size": 20, "epochs": 3.0},
        }
    )
    overrides = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    settings = config.with_overrides(settings, overrides)
    stats = build.TASKS["multiclass"].stats(np.arange(9) % 3, tuple("abc"))
    built = build.build(settings, stats, build.num_steps(settings, 100))
    return frozen.decided(settings, built, 100)


def test_the_default_augmentation_is_fresh_in_every_epoch_and_the_line_says_what_to_set() -> None:
    found = _decided()
    assert found.cut is None
    (line,) = found.lines
    assert "run at every step: augmentation is fresh in every epoch (augment.crop_scale (0.35, 1.0)" in line
    assert "augment.flip 0.5); set train.views=1 (or more)" in line


@pytest.mark.parametrize(
    ("changes", "num_views"),
    [
        ({"train__is_augmented": False}, 1),
        ({"train__views": 1}, 1),
        ({"train__views": 2}, 2),
        ({"augment__crop_scale": "(1.0,1.0)", "augment__crop_ratio": "(1.0,1.0)", "augment__flip": 0.0}, 1),
    ],
)
def test_without_fresh_augmentation_the_model_is_cut_before_its_head(
    changes: dict[str, Any], num_views: int
) -> None:
    found = _decided(**changes)
    assert found.cut is not None
    assert (found.cut.name, found.num_views) == ("head", num_views)
    assert "the frozen layers run once" in found.lines[0]
    assert f"{num_views * 100} rows before 'head', " in found.lines[0]


REASONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "off": (VIT, {"train__cache_features": "off"}, "train.cache_features is 'off'"),
    "mixup": (
        VIT,
        {"augment__mixup_alpha": 0.2},
        "at every step (augment.mixup_alpha 0.2); set it to 0",
    ),
    "erasing": (VIT, {"augment__erase_probability": 0.5}, "(augment.erase_probability 0.5)"),
    "dropout": (
        VIT,
        {"model__dropout": 0.1},
        "at random at every step (model.dropout 0.1); set it to 0",
    ),
    "depth": (VIT, {"model__drop_path": 0.2}, "drop at random at every step (model.drop_path 0.2)"),
    "statistics": (RESNET, {"train__batch_stats": "adapt"}, "train.batch_stats is 'adapt'"),
    "once": (VIT, {"train__views": 3}, "no view of the images is read twice in this run (train.views 3)"),
    "large": (
        VIT,
        {"inputs__features_bytes": 100},
        "6.2 KiB, over inputs.features_bytes (100 bytes)",
    ),
    "penalty": (
        VIT,
        {"strategy__name": "bss", "optim__freeze": "('^embedding','^cls','^Transformer/')"},
        "strategy 'bss' adds to the loss",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_stands_against_it_is_said(case: str) -> None:
    model, changes, words = REASONS[case]
    found = _decided(model, **{"train__views": 1, **changes})
    assert found.cut is None
    assert words in " ".join(found.lines)


def test_a_run_that_asks_for_it_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"train.cache_features is 'on', and .* kept: augmentation is fresh"):
        _decided(train__cache_features="on")
    with pytest.raises(UserError, match="the lowest layer trains"):
        _decided(train__cache_features="on", strategy__name="full")
    with pytest.raises(UserError, match=r"strategy.solver is set, and .* kept: augmentation is fresh"):
        _decided(strategy__solver="lbfgs")


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_where_the_frozen_layers_must_run_anyway_nothing_is_said(strategy: str) -> None:
    assert _decided(strategy__name=strategy) == Frozen()


@pytest.mark.parametrize(
    ("model", "freeze", "name"),
    [
        (VIT, "('^embedding','^cls','posembed','encoderblock_0/')", "Transformer/encoderblock_1"),
        (RESNET, "('_root','^block1/')", "block2/unit1"),
    ],
)
def test_a_model_that_is_frozen_in_part_is_cut_before_the_first_block_that_trains(
    model: dict[str, Any], freeze: str, name: str
) -> None:
    found = _decided(model, strategy__name="full", optim__freeze=freeze, train__is_augmented=False)
    assert found.cut is not None
    assert found.cut.name == name


def test_statistics_of_a_frozen_part_are_frozen_and_stand_in_no_way() -> None:
    found = _decided(RESNET, train__is_augmented=False)
    assert found.cut is not None
    assert found.cut.name == "head"


def test_several_processes_run_them_at_every_step_and_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen.jax, "process_count", lambda: 2)
    found = _decided(train__is_augmented=False)
    assert found.cut is None
    assert found.lines[0].endswith("run at every step: the run has several processes")
    with pytest.raises(
        UserError, match=r"train.cache_features is 'on', and .* the run has several processes"
    ):
        _decided(train__is_augmented=False, train__cache_features="on")
