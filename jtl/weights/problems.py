"""What is wrong with weights that do not fit a model, in one line."""

from jtl.weights.contract import Origin, TensorFile
from jtl.weights.plan import Plan
from jtl.weights.recognise import of_file
from jtl.weights.report import shorten

SHOWN = 3


def wrong_family(spec: str, file: TensorFile, family: str) -> str:
    """Return the message for a file none of whose names the family knows."""
    return (
        f"weights {spec!r} are not of model {family!r}: {_looks(file, family)}; "
        f"its {len(file.tensors)} tensors start with {shorten(file.tensors, SHOWN)}"
    )


def misfit(spec: str, file: TensorFile, family: str, origin: Origin, plan: Plan) -> str:
    """Return the message for a file whose names fit the family and whose tensors do not fit the model."""
    faults = {
        "do not fit": tuple(plan.misfits.values()),
        "have no place in the model": plan.unknown,
        "of the model's leaves are not filled": plan.unfilled,
    }
    parts = [f"{len(names)} {what} ({shorten(names, SHOWN)})" for what, names in faults.items() if names]
    return (
        f"weights {spec!r} ({file.format}, {origin.title}) do not fit the model: {'; '.join(parts)}; "
        f"{len(plan.fills)} of {len(file.tensors)} tensors fit. {_looks(file, family)}{_head_hint(plan)}"
    )


def _looks(file: TensorFile, family: str) -> str:
    found = of_file(file)
    if found is None:
        return "It looks like no model jtl knows"
    settings = {"name": found.family} if found.family != family else {}
    chosen = {
        **settings,
        **{key: found.config_fields[key] for key in ("size",) if key in found.config_fields},
    }
    wanted = ", ".join(f"model.{key}={value}" for key, value in chosen.items())
    return f"It looks like a {found.title}: set {wanted}"


def _head_hint(plan: Plan) -> str:
    faults = (*plan.misfits.values(), *plan.unknown, *plan.unfilled)
    is_head = all(
        "head" in each or "fc." in each or "classifier" in each or "linear." in each for each in faults
    )
    return "; for a fresh head set weights.head='new'" if is_head else ""
