"""The words that name what is compared."""

import pytest

from jtl.errors import UserError
from jtl.training import config
from jtl.verbs.compare import variants

BASE = config.from_dict(
    {
        "model": {"name": "vit", "size": "mini", "weights": "embedded://vit_mini"},
        "data": {"name": "digits"},
        "optim": {"learning_rate": 1e-3, "layer_decay": 0.8},
        "baseline": True,
    }
)


def _settings(spec: str, base: config.Config = BASE) -> config.Config:
    return variants.settings(variants.parse(spec, base), base)


def test_scratch_is_the_same_model_from_random_weights_all_of_it_at_the_full_rate() -> None:
    found = _settings("scratch")
    assert (found.model.weights, found.strategy.name, found.optim.layer_decay) == ("none", "full", 1.0)
    assert (found.model.size, found.optim.learning_rate, found.baseline) == ("mini", 1e-3, False)
    assert _settings("scratch:optim.layer_decay=0.5").optim.layer_decay == 0.5


def test_settings_of_a_variant_may_be_tuples_and_several() -> None:
    found = _settings("low=lora:strategy.targets=('query','value');strategy.rank=4;optim.learning_rate=5e-3")
    assert (found.strategy.targets, found.strategy.rank) == (("query", "value"), 4)
    assert found.optim.learning_rate == 5e-3
    assert variants.parse("low=lora:strategy.rank=4", BASE).label == "low"


def test_frozen_variant_has_ten_times_the_rate_of_fine_tuning_and_back() -> None:
    assert _settings("probe").optim.learning_rate == 1e-2
    assert _settings("probe:optim.learning_rate=0.5").optim.learning_rate == 0.5
    probing = config.with_overrides(BASE, [("strategy.name", "probe"), ("optim.learning_rate", "5e-3")])
    assert _settings("probe", probing).optim.learning_rate == 5e-3
    assert _settings("full", probing).optim.learning_rate == 5e-4
    assert _settings("scratch", probing).optim.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("own", "expected"),
    [("full", ("scratch", "probe", "full")), ("probe", ("scratch", "probe", "full")),
     ("l2_sp", ("scratch", "probe", "l2_sp"))],
)  # fmt: skip
def test_usual_variants_end_with_the_configurations_own_strategy(own: str, expected: tuple[str, ...]) -> None:
    base = config.with_overrides(BASE, [("strategy.name", own)])
    assert variants.defaults(base) == expected
    roles = [each.role for each in variants.read(variants.defaults(base), base)]
    assert roles == ["from scratch", "frozen", "fine-tuned"]


def test_own_strategy_keeps_its_settings() -> None:
    base = config.with_overrides(BASE, [("strategy.name", "l2_sp"), ("strategy.alpha", "0.5")])
    assert _settings("l2_sp", base).strategy.alpha == 0.5
    assert _settings("l2_sp:strategy.beta=2", base).strategy.alpha == 0.5
    assert _settings("full", base).strategy.name == "full"


def test_separators_inside_brackets_and_quotes_belong_to_the_value() -> None:
    text = "a=full:x.y=(1,(2,3));x.z='p,q;r', b=probe,c=lora:x.y=[',']"
    assert variants.split(text, ",") == ["a=full:x.y=(1,(2,3));x.z='p,q;r'", "b=probe", "c=lora:x.y=[',']"]
    assert variants.split("x.y=(1;2);x.z=';'", ";") == ["x.y=(1;2)", "x.z=';'"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (("prob", "full"), "unknown strategy 'prob'; nearest: 'probe'"),
        (("full", "full"), "two variants are called 'full'; give them labels, such as a=full and b=full"),
        (("full",), "1 variant is listed; expected two or more"),
        (("a/b=full", "probe"), "has the label 'a/b'; expected letters"),
        (("=full", "probe"), "has the label ''"),
        (("l2_sp:alpha=1", "probe"), "has the setting 'alpha=1'; expected SECTION.NAME=VALUE"),
        (("l2_sp:strategy.alpha", "probe"), "has the setting 'strategy.alpha'"),
        (("full:data.train_fraction=0.1", "probe"), r"--config.data.train_fraction=0.1 is for all"),
        (("full:train.steps=9", "probe"), "sets train.steps; expected a setting that may differ"),
        (("full:strategy.name=lora", "probe"), "the strategy is the variant's name"),
    ],
)  # fmt: skip
def test_fault_of_a_variant_says_what_to_change(specs: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        variants.read(specs, BASE)


def test_unknown_setting_names_the_variant() -> None:
    with pytest.raises(UserError, match=r"variant 'a': unknown config key strategy.alpa; nearest: 'alpha'"):
        _settings("a=l2_sp:strategy.alpa=1")


def test_random_weights_have_nothing_to_transfer() -> None:
    base = config.with_overrides(BASE, [("model.weights", "none")])
    with pytest.raises(UserError, match=r"model.weights is 'none'; expected pretrained weights"):
        variants.read(("scratch", "full"), base)
