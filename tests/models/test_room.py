"""What cannot fit is refused with the bytes it wants, before anything is allocated."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import MODELS, room
from jtl.strategies import STRATEGIES, cdan
from jtl.tasks import TASKS
from jtl.training import build, config, sharding
from tests import tiny


def shape(*sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, np.float32)


def stats() -> Any:
    return TASKS["multiclass"].stats(np.arange(3), tuple("abc"))


def test_bytes_are_counted_beyond_64_bits() -> None:
    assert room.num_bytes({"a": shape(1 << 40, 1 << 40), "b": [shape(3)]}) == (1 << 82) + 12
    assert room.num_bytes({"a": jax.ShapeDtypeStruct((5,), jax.numpy.bfloat16)}) == 10


def test_this_machine_has_some_memory() -> None:
    assert 1 << 28 < room.of_host() < 1 << 50


def test_too_much_is_named_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "of_host", lambda: 1000)
    room.check(shape(250), "it", "x=250")
    with pytest.raises(UserError) as caught:
        room.check(shape(251), "it", "x=251")
    assert str(caught.value) == (
        "it wants 1,004 bytes (0.0 GiB) and this machine has 1,000 (0.0 GiB); make it smaller: x=251"
    )


@pytest.mark.parametrize(
    "fields", [{"dim": 2_000_000, "heads": 2, "size": "ti16"}, {"image_px": 160_000, "size": "ti16"}], ids=str
)
def test_model_of_sizes_without_measure_is_refused(fields: dict[str, Any]) -> None:
    settings = config.from_dict({"model": {"name": "vit", "weights": "none", **fields}})
    name = "dim" if "dim" in fields else "image_px"
    with pytest.raises(
        UserError, match=rf"model 'vit' of these settings wants [\d,]+ bytes .*model\.{name}="
    ):
        build.assembled(settings, stats())


@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("lora", {"rank": 10**9}),
        ("dann", {"hidden_widths": (10**9, 8)}),
        ("cdan", {"hidden_widths": (10**9, 8)}),
        ("mdd", {"hidden_widths": (10**9, 8)}),
        ("bi_tuning", {"projection_dim": 10**10}),
    ],
)
def test_additions_without_measure_are_refused(strategy: str, fields: dict[str, Any]) -> None:
    model = MODELS["vit"].build(MODELS["vit"].tiny(), 3)
    params, model_state = model.init(jax.random.key(0))
    context = tiny.make_context(model, params, model_state, 3)
    kind = STRATEGIES[strategy]
    built = kind.build(replace(kind.Config(), **fields), context)
    setting = next(iter(fields))
    with pytest.raises(UserError, match=rf"wants [\d,]+ bytes .*strategy\.{setting}="):
        built.extra(jax.random.key(0), params, model_state)


def test_state_of_training_is_counted_with_optimizer_and_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "vit", "size": "mini", "image_px": 8, "dim": 16, "heads": 2, "mlp_dim": 32, "depth": 1}
    settings = config.from_dict(
        {"model": {**model, "weights": "none"}, "optim": {"name": "adam", "ema": 0.9}}
    )
    built = build.build(settings, stats(), steps=2)
    mesh = sharding.mesh(sharding.Config(devices=1))
    num_parameters = room.num_bytes(built.params)
    # Parameters, two moments and an average fit four times; a little less does not.
    monkeypatch.setattr(room, "of_device", lambda: 4 * num_parameters)
    with pytest.raises(UserError, match=r"parameters, adam, average\) wants [\d,]+ bytes .* a device has"):
        build.initial_state(built, settings, mesh)
    monkeypatch.setattr(room, "of_device", lambda: 4 * num_parameters + 1000)
    build.initial_state(built, settings, mesh)


def test_projections_without_measure_are_refused() -> None:
    with pytest.raises(UserError, match=r"wants [\d,]+ bytes .*strategy\.projected_dim=1000000000000"):
        cdan.draw_projections(jax.random.key(0), (3, 5), 10**12)
