"""SavedModels, which TensorFlow runs: any batch, texts of any length, and what is missing is named."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.export import Job, saved_model
from tests import tiny

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is missing, which runs SavedModels: pip install 'jtl[tf]'",
)
# A process of its own, which finds no jtl: (folder, file of inputs by name, file of logits).
PROGRAM = """
import sys, numpy as np, tensorflow as tf
folder, given, found = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
with np.load(given) as file:
    np.save(found, serve(**{name: tf.constant(file[name]) for name in file.files})["logits"].numpy())
assert "jtl" not in sys.modules
"""


def logits(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return what TensorFlow makes of inputs by name."""
    given, found = folder / "given.npz", folder / "found.npy"
    np.savez(given, **inputs)
    words = [sys.executable, "-I", "-W", "ignore", "-c", PROGRAM, str(folder), str(given), str(found)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(found)


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("family", ["vit"])
def test_tensorflow_gives_the_models_logits_of_any_batch_and_length(family: str, tmp_path: Path) -> None:
    job = Job(tiny.make_predictor(family), "runs/tiny")
    lines = saved_model.write(job, tmp_path)
    assert "by TensorFlow" in lines[0]
    parts = job.predictor
    for size, length in ((1, 4), (5, 8)):
        if family == "vit":
            inputs: Any = tiny.DRAWN["image"](np.random.default_rng(size), size, parts.preprocess)
            given, named = parts.input.normalise(jnp.asarray(inputs), parts.preprocess), {"inputs": inputs}
        else:
            given = jax.tree.map(lambda leaf, n=length: leaf[:, :n], tiny.inputs_of(parts.model, size))
            named = {name: np.asarray(each) for name, each in given.items()}
        expected = parts.model.apply(parts.values["params"], parts.values["model_state"], given).logits
        np.testing.assert_allclose(logits(tmp_path, named), expected, atol=1e-5)


def test_missing_tensorflow_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs TensorFlow, which is missing; install it: pip install 'jtl"):
        saved_model.write(Job(tiny.make_predictor("vit"), "runs/tiny"), tmp_path)
