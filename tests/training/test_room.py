"""A state of training that cannot fit is refused with the bytes it wants, before anything is allocated."""

from typing import Any

import jax
import numpy as np
import pytest

from jtl import memory, tree
from jtl.errors import UserError
from jtl.tasks import TASKS
from jtl.training import build, config, sharding


def test_bytes_are_counted_beyond_64_bits() -> None:
    shapes: dict[str, Any] = {"a": jax.ShapeDtypeStruct((1 << 40, 1 << 40), np.float32)}
    assert tree.num_bytes(shapes) == 1 << 82
    assert tree.num_bytes({"a": jax.ShapeDtypeStruct((5,), jax.numpy.bfloat16)}) == 10


def test_state_of_training_is_counted_with_optimizer_and_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "vit", "size": "mini", "image_px": 8, "dim": 16, "heads": 2, "mlp_dim": 32, "depth": 1}
    values = {"model": {**model, "weights": "none"}, "optim": {"name": "adam", "ema": 0.9}}
    settings = config.from_dict(values)
    stats = TASKS["multiclass"].stats(np.arange(3), tuple("abc"))
    built = build.build(settings, stats, steps=2)
    mesh = sharding.mesh(sharding.Config(devices=1))
    # Parameters, two moments and an average fit four times; a little less does not.
    num_bytes = 4 * tree.num_bytes(built.params)
    monkeypatch.setattr(memory, "device_bytes", lambda: num_bytes)
    with pytest.raises(UserError, match=r"\(parameters, adam, average\) on 1 device wants .* of memory"):
        build.initial_state(built, settings, mesh)
    monkeypatch.setattr(memory, "device_bytes", lambda: num_bytes + 1000)
    build.initial_state(built, settings, mesh)
