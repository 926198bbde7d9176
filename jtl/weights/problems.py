"""What is wrong with weights that do not fit a model, in one line."""

from collections.abc import Mapping
from typing import Any

from jtl.models import MODELS
from jtl.weights.contract import Origin, Recognised, TensorFile
from jtl.weights.head import PREFIX
from jtl.weights.plan import Plan
from jtl.weights.recognise import of_file
from jtl.weights.report import counted, shorten

SHOWN = 3
# Another image size is no misfit: the position embedding is resampled.
UNSHOWN_FIELDS = ("image_px",)


def wrong_family(spec: str, file: TensorFile, family: str) -> str:
    """Return the message for a file few of whose names the family knows."""
    return (
        f"weights {spec!r} ({file.format}) are not of model {family!r}: {_looks(file, family)}; found "
        f"{len(file.tensors)} tensors: {shorten(file.tensors, SHOWN)}"
    )


def misfit(spec: str, file: TensorFile, config: Any, origin: Origin, plan: Plan) -> str:
    """Return the message for a file whose names fit the family and whose tensors do not fit the model.

    `config` are the model's settings, resolved.
    """
    faults = {
        "do not fit": tuple(plan.misfits.values()),
        "have no place in the model": plan.unknown,
        "leaves of the model are not filled": plan.unfilled,
    }
    cure = "for a fresh head set weights.head='new'" if _is_head(plan) else _looks(file, config.name, config)
    return (
        f"weights {spec!r} ({file.format}, {origin.title}) do not fit the model: {cure}; of "
        f"{len(file.tensors)} tensors {len(plan.fills)} fit; {counted(faults, SHOWN)}"
    )


def other_settings(spec: str, differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the message for weights that fit a model which would compute something else with them."""
    found = ", ".join(f"model.{name}={own!r}" for name, (own, _) in differing.items())
    wanted = ", ".join(f"model.{name}={theirs!r}" for name, (_, theirs) in differing.items())
    return (
        f"weights {spec!r} fit the model, but were made with {wanted}; found {found}: set what they were "
        f"made with, or model.name='auto'"
    )


def _looks(file: TensorFile, family: str, config: Any = None) -> str:
    """Return what the file looks like, and the settings for it that the model has not got."""
    found = of_file(file)
    if found is None:
        return "they look like no model jtl knows"
    settings = {} if found.family == family else {"name": found.family}
    settings |= {key: value for key, value in _full(found).items() if key not in UNSHOWN_FIELDS}
    settings = {key: value for key, value in settings.items() if getattr(config, key, None) != value}
    wanted = ", ".join(f"model.{key}={value!r}" for key, value in settings.items())
    return f"they look like a {found.title}" + (f" (set {wanted})" if wanted else "")


def _full(found: Recognised) -> dict[str, Any]:
    """Return the settings of what a file was taken for, none of them left to its size."""
    kind = MODELS[found.family]
    resolved = kind.resolve(kind.Config(**found.config_fields))
    return {name: getattr(resolved, name) for name in found.config_fields}


def _is_head(plan: Plan) -> bool:
    """Return whether only the head is at fault."""
    leaves = (*plan.unfilled, *(leaf for targets in plan.misfit_targets for leaf in targets))
    return not plan.unknown and bool(leaves) and all(leaf.startswith(PREFIX) for leaf in leaves)
