"""Exported programs: any batch, any length, int8, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.export import Job, graph, int8, stablehlo
from tests import tiny

# Compiles for long.
pytestmark = pytest.mark.slow

pytest.importorskip("flatbuffers", reason="programs are written with the package flatbuffers")


def exported(family: str, **options: Any) -> tuple[Job, Any, dict[str, np.ndarray]]:
    job = Job(tiny.make_predictor(family), "runs/tiny", **options)
    arrays = graph.arrays_of(job)
    return job, jax.export.deserialize(stablehlo.traced(job, arrays).serialize()), arrays


def test_program_takes_any_batch_and_gives_the_models_logits() -> None:
    job, program, arrays = exported("vit")
    assert program.platforms == stablehlo.PLATFORMS
    parts = job.predictor
    for size in (1, 5):
        images = tiny.DRAWN["image"](np.random.default_rng(size), size, parts.preprocess)
        given = parts.input.normalise(jnp.asarray(images), parts.preprocess)
        expected = parts.model.apply(parts.values["params"], parts.values["model_state"], given).logits
        np.testing.assert_allclose(program.call(arrays, images), expected, atol=1e-5)


def test_program_of_normalised_inputs_takes_floats() -> None:
    job, program, arrays = exported("vit", is_normalised=True)
    assert graph.shown(job) == {"": "float32 [batch, 8, 8, 3]"}
    images = tiny.inputs_of(job.predictor.model, 2)
    values = job.predictor.values
    expected = job.predictor.model.apply(values["params"], values["model_state"], images).logits
    np.testing.assert_allclose(program.call(arrays, images), expected, atol=1e-5)


def test_program_of_texts_takes_any_length_up_to_the_models() -> None:
    job, program, arrays = exported("bert")
    values = job.predictor.values
    inputs = tiny.inputs_of(job.predictor.model, 3)
    for length in (4, 8):
        given = jax.tree.map(lambda leaf, length=length: leaf[:, :length], inputs)
        expected = job.predictor.model.apply(values["params"], values["model_state"], given).logits
        np.testing.assert_allclose(program.call(arrays, given), expected, atol=1e-5)
    too_long = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 3, axis=1), inputs)
    with pytest.raises(ValueError, match="refining shapes"):
        program.call(arrays, too_long)


def test_int8_weights_are_a_quarter_and_near() -> None:
    kernel = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    kept = int8.quantised({"params/a/kernel": kernel, "params/a/bias": kernel[0]})
    assert kept["params/a/kernel"].dtype == np.int8
    assert sum(each.nbytes for each in kept.values()) < 0.3 * (kernel.nbytes + kernel[0].nbytes)
    back = int8.restored(kept)
    half_a_level = np.abs(kernel).max(axis=0) / int8.LEVELS / 2
    assert np.all(np.abs(np.asarray(back["params/a/kernel"]) - kernel) <= half_a_level * 1.001)
    assert back["params/a/bias"] is kept["params/a/bias"]


def test_int8_program_holds_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MIN_VALUES", 64)
    job, program, arrays = exported("vit", is_int8=True)
    assert {each.dtype for name, each in arrays.items() if name + int8.SCALE in arrays} == {np.dtype(np.int8)}
    images = tiny.DRAWN["image"](np.random.default_rng(0), 4, job.predictor.preprocess)
    plain = Job(job.predictor, "runs/tiny")
    expected = graph.call_of(plain)(graph.arrays_of(plain), jnp.asarray(images))
    found = program.call(arrays, images)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"with the package flatbuffers, which is missing; expected"):
        stablehlo.write(Job(tiny.make_predictor("vit"), "runs/tiny"), tmp_path)
