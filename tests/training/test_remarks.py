"""What a run decides, and which settings have no effect in it, is said in a line each."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import ranges
from jtl.errors import UserError
from jtl.strategies import STRATEGIES
from jtl.tasks import TASKS
from jtl.training import build, choice, config, optim, remarks
from jtl.training.optim import OPTIMIZERS, SCHEDULES

SMOKE = "configs/smoke.py"
BY_NAME = {"momentum", "beta2", "epsilon"}
BY_SCHEDULE = {"end_factor", "decay_at", "decay_factor", "inverse_scale", "inverse_power"}
OTHERS: dict[str, Any] = {
    **{"beta2": 0.5, "epsilon": 0.5, "end_factor": 0.5, "decay_at": (0.1,), "decay_factor": 0.5},
    **{"inverse_scale": 1.0, "inverse_power": 1.0},
}
RESNET = {"model.name": "cifar_resnet", "model.size": "20", "model.width": "8", "model.units": "(1, 1)"}
CHOICES = ("of the evaluated steps the one of the highest accuracy is kept", "there is no validation split:")


def read_by(function: Any, monkeypatch: pytest.MonkeyPatch, **chosen: Any) -> set[str]:
    """The names of the settings that a function of them reads."""
    settings, names = optim.Config(**chosen), set()
    get = object.__getattribute__

    def spied(self: Any, name: str) -> Any:
        if self is settings:
            names.add(name)
        return get(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(optim.Config, "__getattribute__", spied, raising=False)
        function(settings)
    return names


def declared(names: set[str], **chosen: str) -> set[str]:
    """Those of the settings that are said to have an effect in this choice."""
    lines = ranges.unused(optim.Config(**chosen, **OTHERS), "optim")
    return {name for name in names if not any(line.startswith(f"optim.{name} is") for line in lines)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_reads_is_what_is_declared_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_by(OPTIMIZERS[name].direction, monkeypatch, name=name)
    assert read & BY_NAME == declared(BY_NAME, name=name)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_schedule_reads_is_what_is_declared_of_it(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(settings: optim.Config) -> None:
        SCHEDULES[schedule](settings)(jnp.array(0.5), jnp.array(0.5))

    # An exponential schedule does not reach 0.
    read = read_by(draw, monkeypatch, schedule=schedule, end_factor=0.1)
    assert read & BY_SCHEDULE == declared(BY_SCHEDULE, schedule=schedule)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"optim.schedule": "constant", "optim.end_factor": "0.1"}, "optim.end_factor is 0.1, which has no"),
        ({"optim.name": "sgd", "optim.beta2": "0.9"}, "optim.beta2 is 0.9, .* effect: it is read where"),
        ({"optim.decay_on": "all"}, "optim.decay_on is 'all', .* where optim.weight_decay is set"),
        ({"model.feature_pool": "cls"}, "model.feature_pool is 'cls', .* read where model.features is set"),
        ({"model.adapter_width": "8"}, "model.adapter is 'mlp' or 'conv'"),
        ({"model.head_activation": "relu"}, "where model.head_widths is set, or model.adapter is"),
        ({"model.has_deep_prompts": "false"}, "model.num_prompts is set"),
        ({"train.min_gain": "0.1"}, "train.patience is set"),
        ({"task.effective_beta": "0.9"}, r"where task.class_weights is \('effective',\)"),
        ({"data.has_target_labels": "false"}, "data.target is set"),
        ({"augment.policy": "trivialaugment", "augment.policy_num_ops": "3"}, "policy is 'randaugment'"),
        ({"weights.channels": "strict"}, "weights.channels is 'strict', .*: model.weights is 'none'"),
        ({"inputs.buckets": "(8,)"}, "inputs.buckets has no effect: all images of a run are of one size"),
    ],
)
def test_a_setting_without_effect_is_said(overrides: dict[str, str], line: str) -> None:
    [found] = remarks.of_settings(config.read(SMOKE, list(overrides.items())))
    assert re.search(line, found), found


@pytest.mark.parametrize("spec", [SMOKE, *(f"configs/transfer.py:{name}" for name in STRATEGIES)])
def test_recipes_set_nothing_without_effect(spec: str) -> None:
    assert remarks.of_settings(config.read(spec)) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("strategy.layers", ("features", "features")),
        ("model.features", ("block1", "block1")),
        ("optim.freeze", ("head", "head")),
    ],
)
def test_a_name_given_twice_is_refused(setting: str, value: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"{setting} names '{value[0]}' twice; expected each once"):
        config.read(SMOKE, [("strategy.name", "dan"), (setting, str(value))])


def lines_of(overrides: dict[str, str]) -> list[str]:
    """What is said of a run of a tiny model on digits."""
    settings = config.read(SMOKE, list(overrides.items()))
    splits = build.open_splits(settings)
    stats = build.label_stats(settings, splits["train"])
    built = build.build(settings, stats, build.num_steps(settings, len(splits["train"])))
    return remarks.of_run(settings, built, splits, "accuracy")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, []),
        ({"train.steps": "0", "train.epochs": "2"}, ["train.epochs 2 of 1,438 images are 45 steps of 64"]),
        ({"optim.accumulate": "4"}, []),
        ({"optim.accumulate": "4", "strategy.name": "bss"}, ["4: strategy 'bss' compares .* 16 images"]),
        ({**RESNET, "optim.accumulate": "4"}, ["4: 5 batch normalisations .* a slice, 16 images"]),
        ({**RESNET, "train.batch_stats": "adapt"}, ["batch_stats is 'adapt', which has no effect"]),
        (
            {**RESNET, "strategy.name": "probe", "optim.accumulate": "4", "train.batch_stats": "adapt"},
            ["5 batch normalisations", "values are random and stay so .strategy 'probe'"],
        ),
        ({"strategy.name": "l2_sp"}, ["strategy 'l2_sp' draws the model to .*, which is at random"]),
        ({"strategy.name": "lp_ft", "train.steps": "1"}, ["start training at step 1 and the run has 1"]),
        ({"strategy.name": "gradual", "strategy.num_stages": "9"}, ["is 9 .* 3 layers: 5 stages thaw"]),
        (
            {"strategy.name": "probe", "optim.layer_decay": "0.5"},
            ["are random and stay so", "layer_decay is 0.5, which has no effect: no layer below the head"],
        ),
        (
            {"optim.freeze": "('^head/',)", "optim.head_multiplier": "2"},
            ["stay so", "optim.head_multiplier is 2, which has no effect: the head does not train"],
        ),
        ({"data.val_fraction": "0"}, []),
    ],
)
def test_what_a_run_decides_is_said(overrides: dict[str, str], expected: list[str]) -> None:
    found = lines_of(overrides)
    [choice] = [line for line in found if line.startswith(CHOICES)]
    assert choice.startswith(CHOICES["data.val_fraction" in overrides])
    rest = [line for line in found if line != choice]
    assert len(rest) == len(expected), rest
    for line, pattern in zip(rest, expected, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("kind", "labels", "line"),
    [
        ("multilabel", np.zeros((4, 3)), "no example has any label: average precision and F1 have no value"),
        ("multilabel", np.eye(3), ""),
        ("regression", np.full((4, 1), 2.5), "the target is 2.5 in all 4 examples: R² has no value"),
        ("regression", np.array([[1.0, 7.0], [2.0, 7.0]]), "target 2 of 2 is 7 in all 2 examples"),
        ("regression", np.array([[1.0], [2.0]]), ""),
    ],
)
def test_labels_that_leave_a_metric_without_a_value_are_said(
    kind: str, labels: np.ndarray, line: str
) -> None:
    found = remarks.ABOUT_LABELS[kind](labels)
    assert found.startswith(line)
    assert bool(found) == bool(line)


def test_a_metric_that_is_not_measured_of_so_few_classes_picks_no_step() -> None:
    settings = config.read(SMOKE, [("train.monitor", "top5_accuracy")])
    splits = build.open_splits(settings)
    few = TASKS["multiclass"].stats(np.arange(3), tuple("abc"))
    built = build.build(settings, few, 2)
    with pytest.raises(UserError, match=r"'top5_accuracy' is not measured: there are 3 classes; nearest"):
        choice.monitor(settings, built, splits, None)
    built = build.build(settings, build.label_stats(settings, splits["train"]), 2)
    assert choice.monitor(settings, built, splits, None) == "top5_accuracy"
