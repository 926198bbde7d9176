"""What a run folder's meta.json says: all that evaluation, prediction and export need beside the weights."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import __version__, files, tree
from jtl.data import Source, preflight
from jtl.data.workers import num_cores
from jtl.errors import UserError, shown
from jtl.models import MODELS
from jtl.models.linen import module_names
from jtl.report.tables import FreezeRow
from jtl.strategies.contract import EXTRA
from jtl.tasks import LabelStats
from jtl.training import optim, precision, step
from jtl.training.build import Built, Target
from jtl.training.config import Config
from jtl.weights.run_folder import CHECKPOINTS_NAME, UNSET

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
# How the notes begin that a run which goes on keeps of the one before.
CHECKPOINT, RESUMED = "checkpoint ", "resumed "


def describe(
    config: Config,
    built: Built,
    stats: LabelStats,
    splits: Mapping[str, Source],
    target: Target | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the JSON-ready description of a run's model, and which examples of a target it has.

    `splits` are the examples by split, `notes` what was said of the data before training: what it holds,
    what was skipped or cut.
    """
    about = of_model(config, built.parts, stats)
    about["data"] = {name: _fingerprinted(source) for name, source in splits.items()}
    about |= {"notes": list(notes), "weights": source(built), "parameters": parameters(built)}
    about["compute"] = precision.described(config)
    return about | ({} if target is None else {"target": _examples(target)})


def target_of(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return which examples of a target a description names, None: it has none.

    Run folders were once written with `num_images` for `num_examples`.
    """
    target = about.get("target")
    if not isinstance(target, Mapping):
        return None
    return {name.replace("num_images", "num_examples"): value for name, value in target.items()}


def check_same(folder: Path, described: Mapping[str, Any]) -> None:
    """Check that a run that goes on has the data it began with; what its meta.json does not say is not asked.

    Raises:
        UserError: examples or labels are others, or meta.json is damaged.
    """
    begun = files.read_record(folder / "meta.json")
    before, now = LabelStats.of_record(begun.below("labels")), LabelStats(**described["labels"])
    # Runs once did not keep how their labels were read; the classes say whether it is the same.
    if (before if before.reading else before._replace(reading=now.reading)) != now:
        raise UserError(
            f"the training data changed since run {str(folder)!r} began: {before.num_examples} examples "
            f"of {len(before.label_names)} classes, now {now.num_examples} of "
            f"{len(now.label_names)}, or others; restore the data or give another --workdir"
        )
    kept = begun.below("data", {}).values
    for split, ours in described["data"].items():
        if split in kept and kept[split] != ours:
            raise UserError(
                f"the examples of split {split!r} changed since run {str(folder)!r} began: "
                f"{shown(kept[split])}, now {shown(ours)}; restore them or give another --workdir"
            )
    ours, theirs = target_of(described), target_of(begun.values)
    if ours != theirs:
        raise UserError(
            f"the target's examples changed since run {str(folder)!r} began: {theirs}, now {ours}; "
            f"restore them or give another --workdir"
        )


def of_model(config: Config, parts: Any, stats: LabelStats) -> dict[str, Any]:
    """Return the JSON-ready description of a model, without its values; `parts` has task and preprocess."""
    return {
        "family": config.model.name,
        "model": asdict(config.model),
        UNSET: None,
        "input": MODELS[config.model.name].input,
        "num_outputs": parts.task.head.num_outputs,
        "task": config.task.name,
        "label_names": list(stats.label_names),
        "labels": stats._asdict(),
        "preprocess": asdict(parts.preprocess),
        **machine(),
    }


def machine() -> dict[str, Any]:
    """Return what the last bits of a run's numbers hang on: versions, devices, and on CPU the cores.

    XLA cuts a sum in as many parts as there are threads.
    """
    return {
        "versions": {"jtl": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "num_cores": num_cores(),
        "num_processes": jax.process_count(),
    }


def moved(folder: Path) -> list[str]:
    """Return a line where a run goes on that began with other versions, devices or cores, else nothing."""
    if not ((folder / "meta.json").exists() and (folder / CHECKPOINTS_NAME).exists()):
        return []
    begun = files.read_record(folder / "meta.json")
    # What a folder does not say, as those of older releases, is not asked.
    before = {
        **begun.get("versions", files.OBJECT, {}),
        "device": begun.get("device", files.TEXT, ""),
        "num_cores": begun.get("num_cores", files.COUNT, 0),
        "num_processes": begun.get("num_processes", files.COUNT, 0),
    }
    now = {name: value for name, value in machine().items() if name != "versions"} | machine()["versions"]
    if jax.default_backend() != "cpu":
        del now["num_cores"]
    changed = [name for name, value in now.items() if before.get(name) and before[name] != value]
    if not changed:
        return []
    said = ", ".join(f"{name} {shown(before[name])}, now {shown(now[name])}" for name in changed)
    return [
        f"{RESUMED}elsewhere ({said}): what follows equals an undisturbed run to rounding, not bit for bit"
    ]


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
    """Return a row a layer of the model, from input to head, and one for what the strategy adds."""
    parts, flat = built.parts, tree.flatten(built.params)
    layers = {prefixes[0].split("/")[-1]: prefixes for prefixes in parts.model.layers}
    members = {
        label: [name for name in flat if _is_under(name, prefixes)] for label, prefixes in layers.items()
    }
    members[EXTRA] = [name for name in flat if _is_under(name, (EXTRA,))]
    return [_freeze_row(label, names, built, config) for label, names in members.items() if names]


def _fingerprinted(source: Source) -> dict[str, Any]:
    """Return what tells whether a split is still the same: its examples, in order, with their labels.

    The pre-flight has read the fingerprints already; of a large split they are those of an even choice.
    """
    labels = source.labels()
    values = b"" if labels is None else np.ascontiguousarray(labels).tobytes()
    digest = hashlib.sha256(preflight.digest(source).encode() + values).hexdigest()
    return {"num_examples": len(source), "sha256": digest}


def _examples(target: Target) -> dict[str, Any]:
    sources = (target.stream,) if target.evaluation is target.stream else (target.stream, target.evaluation)
    return {
        "num_examples": len(target.stream),
        "num_evaluated": len(target.evaluation),
        "sha256": [preflight.digest(source) for source in sources],
    }


def _freeze_row(label: str, names: list[str], built: Built, config: Config) -> FreezeRow:
    parts, flat = built.parts, tree.flatten(built.params)
    trained = {name: parts.groups[name] for name in names if not parts.groups[name].is_frozen}
    multipliers = [group.multiplier for group in trained.values()]
    starts = [group.start_step for group in trained.values()]
    is_decayed = any(optim.is_decayed(name, config.optim.decay_on) for name in trained)
    modules = {name.rsplit("/", 1)[0] for name in names}
    stats = module_names(built.model_state) & modules
    last_phase = optim.phases(parts.groups)[-1]
    is_frozen = stats <= step.frozen_stats(parts, built.model_state, last_phase)
    return FreezeRow(
        name=label,
        num_params=sum(int(np.size(flat[name])) for name in names),
        num_bytes=sum(int(flat[name].nbytes) for name in names),
        num_trainable=sum(int(np.size(flat[name])) for name in trained),
        multipliers=(min(multipliers), max(multipliers)) if trained else (0.0, 0.0),
        weight_decay=config.optim.weight_decay if is_decayed else 0.0,
        start_step=min(starts) if trained else 0,
        batch_stats=("frozen" if is_frozen else "adapting") if stats else "",
    )


def _is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes)
