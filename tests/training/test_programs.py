"""What a run has compiled, what crosses between host and devices, and what it keeps its values in."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from safetensors.numpy import load_file

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.training import config, loop, precision, progress
from jtl.training import run as train
from tests import tiny

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    "optim": {"learning_rate": 1e-2},
    "train": {"steps": 12, "batch_size": 64, "eval_every": 4, "eval_batch_size": 200, "log_every": 5},
    "sharding": {"devices": 1},
}
COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[Counter[str]]:
    """Count inside the `with` block how often a program of each name is compiled (or loaded)."""
    found: Counter[str] = Counter()

    def note(event: str, duration_secs: float, **about: str | int) -> None:
        del duration_secs
        if event == COMPILED:
            found[str(about["fun_name"])] += 1

    monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(note)


def test_no_program_is_compiled_twice_and_the_loop_moves_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training, three evaluations, the best step loaded again, the final report."""
    really = loop.run

    def guarded(*given: Any) -> Any:
        with jax.transfer_guard_host_to_device("disallow"):
            return really(*given)

    monkeypatch.setattr(loop, "run", guarded)
    monkeypatch.setattr(progress, "best", lambda history, *_, **__: history[0] if history else None)
    with compilations() as found:
        result = train.run(config.from_dict(TINY), tmp_path / "run")
    assert result["best"]["step"] == 4
    ours = {f"jit({name})" for name in ("_train_step", "eval_step", "_examined", "create")}
    assert {"jit(_train_step)", "jit(eval_step)"} <= found.keys()
    # Of the others the process may have some already, from another test's run of the same shapes.
    assert max(found[name] for name in ours) == 1, found
    # The others draw the first values: their number does not grow with steps, evaluations or leaves.
    assert found.total() <= len(ours) + 8, found
    about = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert about["compute"] == {
        "dtype": "float32",
        "frozen_dtype": "float32",
        "matmul_precision": "default",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    line = "computes in float32 (model.dtype=auto: a CPU multiplies it fastest), matrix products at precision"
    assert f"{line} default" in about["notes"]
    assert line in capsys.readouterr().err


def test_frozen_values_are_halved_on_the_devices_and_whole_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.from_dict(
        {**TINY, "model": {**TINY["model"], "dtype": "bfloat16"}, "strategy": {"name": "probe"}}
    )
    seen: list[Any] = []
    really = loop.run

    def noted(ready: Any, state: Any, *others: Any) -> Any:
        seen.append((ready.plan.built.params, jax.tree.map(lambda leaf: leaf.dtype, state.frozen)))
        return really(ready, state, *others)

    monkeypatch.setattr(loop, "run", noted)
    train.run(settings, tmp_path / "run")
    [(drawn, kinds)] = seen
    for name, dtype in tree.flatten(kinds).items():
        if name.endswith("/kernel"):
            assert dtype == jnp.bfloat16, name
        if "norm" in name.lower():
            assert dtype == jnp.float32, name
    written = load_file(tmp_path / "run" / "model.safetensors")
    for name, leaf in tree.flatten(drawn).items():
        if name.startswith("head/"):
            continue
        [found] = [value for key, value in written.items() if key.removeprefix("params/") == name]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, leaf, err_msg=name)
    notes = json.loads((tmp_path / "run" / "meta.json").read_text())["notes"]
    assert any(
        line.startswith("frozen values that a layer casts to bfloat16 are kept so on the devices")
        for line in notes
    )


@pytest.mark.parametrize("family", MODELS)
def test_a_narrowed_frozen_value_changes_no_bit_of_a_bfloat16_model(family: str) -> None:
    """Narrowed is what the model casts anyway: kernels of most layers, none that BiT standardises first."""
    settings = replace(MODELS[family].tiny(), dtype="bfloat16")
    parts, params, model_state = tiny.make_parts(family, "probe", model_config=settings)
    run = replace(config.from_dict(TINY), model=settings)
    params = jax.tree.map(jnp.asarray, params)
    narrow: Any = precision.narrowing(run, parts.model, params, model_state)(params)
    names = {name for name, leaf in tree.flatten(narrow).items() if leaf.dtype == jnp.bfloat16}
    assert all(name.endswith(("kernel", "pos_embedding", "cls", "bias", "gamma")) for name in names)
    assert not any(name.startswith("head/") for name in names)
    assert names or family == "bit"
    inputs = tiny.inputs_of(parts.model, 4)
    apply = jax.jit(parts.model.apply)
    whole, narrowed = (apply(each, model_state, inputs).logits for each in (params, narrow))
    np.testing.assert_array_equal(narrowed, whole)


def test_frozen_value_that_is_not_the_loaded_one_is_written_as_it_is() -> None:
    loaded = {"a": np.float32([[1.001, 2.0]]), "b": np.float32([[3.0]])}
    kept = {"a": jnp.asarray(loaded["a"], jnp.bfloat16), "b": jnp.asarray([[4.0]], jnp.bfloat16)}
    found = precision.widened(jax.device_get(kept), loaded)
    np.testing.assert_array_equal(found["a"], loaded["a"])
    np.testing.assert_array_equal(found["b"], np.float32([[4.0]]))
    assert {leaf.dtype for leaf in found.values()} == {np.dtype("float32")}


def test_frozen_dtype_can_be_set_and_is_checked() -> None:
    model = {**TINY["model"], "dtype": "bfloat16"}
    settings = config.from_dict(
        {**TINY, "model": model, "train": {**TINY["train"], "frozen_dtype": "float32"}}
    )
    assert precision.frozen_dtype(settings) == jnp.float32
    with pytest.raises(UserError, match=r"train.frozen_dtype is 'bfloat16'; expected one of"):
        config.from_dict({**TINY, "train": {**TINY["train"], "frozen_dtype": "bfloat16"}})


def test_a_run_that_said_float32_goes_on_where_auto_means_it() -> None:
    """Runs before model.dtype=auto and truth values of model.remat are the same runs."""
    now = config.from_dict(TINY)
    before = config.to_dict(now)
    before["model"] |= {"dtype": "float32", "remat": False}
    assert config.conflicts(now, before) == []
    before["model"]["dtype"] = "bfloat16"
    assert config.conflicts(now, before) == ["model.dtype: 'bfloat16' -> 'auto'"]
    before["model"] |= {"dtype": "auto", "remat": True}
    assert config.conflicts(now, before) == ["model.remat: 'full' -> 'none'"]
