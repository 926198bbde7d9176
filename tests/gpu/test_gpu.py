"""What holds on an accelerator: numbers near those of float32 on the CPU, resume, no copies, bfloat16.

    JAX_PLATFORMS=cuda,cpu JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_gpu_deterministic_ops=true \
        pytest -m gpu tests/gpu

JTL_GPU_TESTS_ON_CPU=1 lets their bodies run where there is none.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.report.console import Live, Progress
from jtl.report.writer import Writer
from jtl.signals import StopRequest
from jtl.training import config, preparation, step
from jtl.training import run as train
from jtl.verbs.bench import measure, stand_in
from tests import tiny

ON_CPU = "JTL_GPU_TESTS_ON_CPU"
FAMILIES = ("vit", "resnet", "bit", "convnext", "bert")
# Relative to the largest logit: float32 products in full precision in another order; bfloat16 has 8 bits, and
# errors of some ten layers add up.
FLOAT32_ERROR, BFLOAT16_ERROR = 1e-4, 0.08
RUN = {
    "model": {"name": "vit", "size": "mini", "image_px": 16, "dim": 48, "depth": 2, "mlp_dim": 64},
    "data": {"name": "digits", "val_fraction": 0.2},
    "optim": {"learning_rate": 3e-3},
    "train": {"steps": 8, "batch_size": 16, "eval_every": 4, "eval_batch_size": 64, "log_every": 1},
    "sharding": {"devices": 1},
}
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _accelerator() -> None:
    """Skip, with the reason, where there is no accelerator and nobody asks for the CPU in its place."""
    if jax.default_backend() == "cpu" and not os.environ.get(ON_CPU):
        pytest.skip(
            f"jax sees no accelerator (JAX_PLATFORMS=cuda,cpu; or {ON_CPU}=1 to run these on the CPU)"
        )


def _logits(parts: step.Parts, params: Any, model_state: Any, inputs: Any) -> np.ndarray:
    forward = jax.jit(lambda *values: step.forward(parts, *values).logits)
    return np.asarray(forward(params, model_state, inputs), np.float32)


def _with_dtype(family: str, dtype: str) -> step.Parts:
    from dataclasses import replace

    from jtl.models import MODELS

    return tiny.make_parts(family, model_config=replace(MODELS[family].tiny(), dtype=dtype))[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "error"), [("float32", FLOAT32_ERROR), ("bfloat16", BFLOAT16_ERROR)])
def test_logits_are_those_of_float32_on_the_cpu(family: str, dtype: str, error: float) -> None:
    parts, params, model_state = tiny.make_parts(family)
    inputs = tiny.make_batch(parts)["train"]["inputs"]
    with jax.default_matmul_precision("highest"):
        with jax.default_device(jax.devices("cpu")[0]):
            expected = _logits(parts, params, model_state, inputs)
        found = _logits(_with_dtype(family, dtype), params, model_state, inputs)
    assert np.abs(found - expected).max() <= error * np.abs(expected).max()


def test_run_stopped_and_resumed_ends_in_the_bits_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.from_dict(RUN)
    whole = train.run(settings, tmp_path / "whole")
    stop, report = StopRequest(), Writer.scalars

    def report_and_ask(self: Writer, number: int, values: Mapping[str, float]) -> None:
        report(self, number, values)
        if number == 3:
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "scalars", report_and_ask)
        assert train.run(settings, tmp_path / "parts", stop)["status"] == "preempted"
    resumed = train.run(settings, tmp_path / "parts")
    assert (resumed["status"], resumed["digest"]) == ("finished", whole["digest"])


def test_loop_copies_nothing_that_it_does_not_say(tmp_path: Path) -> None:
    """From its third step on, device_put of batches and device_get of numbers are all there is."""
    settings, _ = stand_in.with_data(config.from_dict(RUN), tmp_path)
    length = measure.Length(2, 4, 1)
    seen = []

    def guard(self: Live, **values: Any) -> None:
        seen.append(Progress(**values).step)
        assert self._watch is not None
        self._watch(Progress(**values))
        is_steady = 3 <= seen[-1] < length.total
        jax.config.update("jax_transfer_guard", "disallow" if is_steady else "allow")

    from jtl.report.summary import Phases

    ready, state, checkpoints = preparation.prepare(settings, tmp_path / "run", Live(), Phases())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Live, "update", guard)
        try:
            measure.loop(ready, state, length, tmp_path / "loop")
        finally:
            jax.config.update("jax_transfer_guard", "allow")
            checkpoints.close()
            ready.feed.close()
    assert seen[-1] > length.total - 1
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        jax.jit(jnp.sum)(np.ones(3))


def test_training_in_bfloat16_converges_as_in_float32() -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        parts, params, model_state = tiny.make_parts("vit", num_steps=60)
        parts = parts._replace(model=_with_dtype("vit", dtype).model)
        batch = tiny.make_batch(parts)
        _, reported = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), [batch] * 60)
        losses[dtype] = [values["loss"] for values in reported]
    assert losses["bfloat16"][-1] < 0.5 * losses["bfloat16"][0]
    assert abs(losses["bfloat16"][-1] - losses["float32"][-1]) < 0.1 * losses["float32"][0]
