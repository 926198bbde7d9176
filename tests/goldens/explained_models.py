"""The small models that explanations are compared on: their settings, and their values drawn by name."""

from typing import Any

import numpy as np

from jtl import tree
from jtl.models import MODELS

NUM_CLASSES, SIZE_PX = 3, 64
FIELDS: dict[str, dict[str, Any]] = {
    "convnext": {
        "size": "tiny",
        "image_px": SIZE_PX,
        "units": (1, 1, 1, 1),
        "mlp": "dense",
        "widths": (8, 12, 16, 24),
    },
    "vit": {
        **{"size": "ti16", "image_px": SIZE_PX, "patch_px": 8, "dim": 32, "depth": 2, "heads": 2},
        "mlp_dim": 64,
    },
}


def leaves(family: str) -> dict[str, np.ndarray]:
    """Return the values of the family's small model by full name, drawn."""
    model = MODELS[family].build(MODELS[family].Config(**FIELDS[family]), NUM_CLASSES)
    random = np.random.default_rng(0)
    shapes = tree.flatten(dict(zip(("params", "model_state"), model.shapes(), strict=True)))
    found = {}
    for name, leaf in shapes.items():
        is_scale = name.endswith(("scale", "gamma", "var"))
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1) if name.endswith("kernel") else 9
        noise = (
            random.uniform(0.5, 1.5, leaf.shape) if is_scale else random.normal(size=leaf.shape) / fan_in**0.5
        )
        found[name] = noise.astype(np.float32)
    return found


def images() -> tuple[np.ndarray, np.ndarray]:
    """Return normalised images [batch, height, width, channels] and the class to explain of each."""
    random = np.random.default_rng(1)
    return random.normal(size=(3, SIZE_PX, SIZE_PX, 3)).astype(np.float32), np.array([0, 1, 2])
