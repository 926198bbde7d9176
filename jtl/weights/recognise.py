"""What a file of weights looks like, from its names and shapes, and from the config.json beside them."""

from collections.abc import Iterable, Mapping
from typing import Any

from jtl import tree
from jtl.errors import UserError, located
from jtl.models import MODELS
from jtl.models.contract import FEATURES, build
from jtl.weights import FAMILIES
from jtl.weights.contract import Config, Recognised, TensorFile
from jtl.weights.head import PREFIX
from jtl.weights.hub import resolve as hub
from jtl.weights.names import assign
from jtl.weights.origins import Known, best_known, known_as
from jtl.weights.report import shorten

CURE = "get both again, of one version, or give the file of weights itself"


def recognise(spec: str, settings: Config | None = None) -> Recognised:
    """Return which model a spec's weights are for.

    Raises:
        UserError: the weights cannot be had or read, or look like no model jtl knows.
    """
    _, file = hub.opened(spec, settings or Config())
    return described(file, spec)


def described(file: TensorFile, spec: str) -> Recognised:
    """Return which model the open file of a spec is for.

    Raises:
        UserError: it looks like no model jtl knows.
    """
    recognised = of_file(file)
    if recognised is None:
        beside = f" (config.json beside says {file.described_as})" if file.described_as else ""
        raise UserError(
            f"{spec!r} looks like no model jtl knows{beside}; it holds {len(file.tensors)} tensors: "
            f"{shorten(file.tensors, 6)}; known families: {', '.join(FAMILIES)}"
        )
    return recognised._replace(label_names=file.label_names if recognised.num_outputs else None)


def of_file(file: TensorFile) -> Recognised | None:
    """Return which model an open file is for; None where no family knows its names.

    The title says so where a config.json beside it is of a model jtl does not know.

    Raises:
        UserError: the config.json beside it is of another model.
    """
    best = _best(file, [file.family] if file.family in FAMILIES else file.stated or FAMILIES)
    if best is None and file.stated:
        other = _best(file, FAMILIES)
        if other is not None:
            raise UserError(
                f"config.json in {str(file.path.parent)!r} says {file.described_as}, and the tensors beside "
                f"it look like a {other.title}; {CURE}"
            )
    if best is not None and file.described_as and not file.stated:
        note = (
            f"config.json beside says {file.described_as}, which jtl does not know: its settings are not read"
        )
        return best._replace(title=f"{best.title} ({note})")
    return best


def of_family(file: TensorFile, family: str) -> Recognised | None:
    """Return what an open file is as a model of that family; None where the family does not know its names.

    Raises:
        UserError: the config.json beside it is of another model.
    """
    known = known_as(file.tensors, family)
    return None if known is None else _recognised(file, known)


def _best(file: TensorFile, families: Iterable[str]) -> Recognised | None:
    """Return what the file is as one of the family that knows most of its names."""
    known = best_known(file.tensors, families)
    return None if known is None else _recognised(file, known)


def _recognised(file: TensorFile, known: Known) -> Recognised:
    """Return what the file is, with what is said beside its tensors of its model."""
    family = known.family
    title = f"{known.title} with {known.num_outputs or ('no' if known.reads == FEATURES else known.reads)}"
    title = f"{title} outputs and {known.origin.title}"
    found = Recognised(family, known.fields, known.num_outputs, known.key, title, reads=known.reads)
    if file.family == family:
        return found._replace(config_fields=dict(file.config_fields))
    if family in file.stated:
        return found._replace(config_fields=_stated(file, found, known.assignment))
    return found


def _stated(file: TensorFile, found: Recognised, assignment: assign.Assignment) -> dict[str, Any]:
    """Return the settings the tensors tell, with those that config.json states in their place.

    Raises:
        UserError: the two contradict each other.
    """
    family, told, num_outputs = found.family, found.config_fields, found.num_outputs
    stated = file.stated[family]
    fields = {**told, **stated}
    where = f"config.json in {str(file.path.parent)!r}"
    num_labels = len(file.label_names or ())
    if num_labels and num_outputs and num_labels != num_outputs:
        raise UserError(
            f"{where} names {num_labels} classes, and the weights have {num_outputs} outputs; {CURE}"
        )
    of_tensors = {**MODELS[family].sizes.get(told.get("size", ""), {}), **told}
    with located(file.path.parent):
        config = MODELS[family].resolve(MODELS[family].Config(**fields))
    differing = [
        name
        for name, value in of_tensors.items()
        if name in stated and name != "size" and getattr(config, name) not in (value, (value, value))
    ]
    # What shapes cannot tell, such as the number of heads, may differ.
    if differing and not _fits(file, found, fields, assignment):
        wrong = [
            name
            for name in differing
            if not _fits(file, found, {**of_tensors, name: stated[name]}, assignment)
        ] or differing
        says = ", ".join(f"{name}={stated[name]!r}" for name in wrong)
        seen = ", ".join(f"{name}={of_tensors[name]!r}" for name in wrong)
        raise UserError(f"{where} says {says}, and the tensors beside it are of {seen}; {CURE}")
    same = {name for name in of_tensors if name in stated and name not in (*differing, "size")}
    return {name: value for name, value in fields.items() if name in told or name not in same}


def _fits(
    file: TensorFile, found: Recognised, fields: Mapping[str, Any], assignment: assign.Assignment
) -> bool:
    """Return whether the file's tensors have the shapes of this model's leaves, and fill all of its body."""
    try:
        family = MODELS[found.family]
        built = build(family, family.Config(**fields), found.num_outputs, reads=found.reads)
    except UserError:
        return False
    params, model_state = built.shapes()
    leaves = tree.flatten({"params": params, "model_state": model_state})
    for name, (row, targets) in assignment.filled.items():
        expected = tuple(tuple(leaves[target].shape) for target in targets if target in leaves)
        if row.unneeded and not expected:
            continue
        is_known = len(expected) == len(targets)
        if not is_known or assign.target_shapes(row, file.tensors[name].shape, expected) != expected:
            return False
    filled = {target for each in assignment.filled.values() for target in each.targets}
    return all(name in filled or name.startswith(PREFIX) for name in leaves)
