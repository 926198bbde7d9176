"""Writing a model's leaves under another library's names, for the tests of loading."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jtl import tree
from jtl.models import MODELS
from jtl.weights import convert
from jtl.weights.contract import Origin

NUM_CLASSES = 3


def leaves_of(
    family: str, config: Any = None, num_outputs: int = NUM_CLASSES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return a model's leaves by full name, filled with positive noise (variances among them)."""
    random = np.random.default_rng(seed)
    shapes = _shapes(family, config or MODELS[family].tiny(), num_outputs)
    return {
        name: np.abs(random.standard_normal(shape)).astype(np.float32) + 0.5 for name, shape in shapes.items()
    }


@cache
def _shapes(family: str, config: Any, num_outputs: int) -> dict[str, tuple[int, ...]]:
    params, model_state = MODELS[family].build(config, num_outputs).init(jax.random.key(0))
    return {
        name: leaf.shape
        for name, leaf in tree.flatten({"params": params, "model_state": model_state}).items()
    }


def trees_of(leaves: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (params, model_state) of leaves by full name."""
    both = tree.unflatten(leaves)
    return both["params"], both.get("model_state", {})


def named(origin: Origin, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the leaves under the origin's names and in its layout (prefix included)."""
    arrays, missing = convert.to_origin(origin, leaves)
    assert not missing, missing
    return {name: array for name, array in arrays.items() if not name.endswith(convert.COUNTER)}


def save_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    save_file(dict(arrays), path)
    return str(path)


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    np.savez(path, **arrays)
    return str(path)
