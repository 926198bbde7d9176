"""What a file of weights looks like, from its names and shapes, and from the config.json beside them."""

from collections.abc import Iterable, Mapping
from typing import Any

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.models.contract import FEATURES, build
from jtl.weights import FAMILIES
from jtl.weights.contract import Config, Origin, Recognised, TensorFile
from jtl.weights.head import PREFIX
from jtl.weights.hub import resolve as hub
from jtl.weights.names import assign
from jtl.weights.open import open_path
from jtl.weights.report import shorten

OWN_PREFIXES = ("params/", "model_state/")
CURE = "get both again, of one version, or give the file of weights itself"


def recognise(spec: str, settings: Config | None = None) -> Recognised:
    """Return which model a spec's weights are for.

    Raises:
        UserError: the weights cannot be had or read, or look like no model jtl knows.
    """
    found = hub.resolve(spec, settings or Config())
    return described(open_path(found.path), spec)


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
    found = _as_family(file, family)
    return None if found is None else found[1]


def origins_of(file: TensorFile, family: str) -> Mapping[str, Origin]:
    """Return the origins a file's names may be of; jtl's own files name every leaf as the model does.

    Some of them without "params/": flat archives and trees of parameters alone lose it when they are opened.
    """
    # Flax's own collections may be called so too.
    has_own = FAMILIES[family].marker in file.tensors
    origins = FAMILIES[family].origins
    unneeded = assign.unneeded_leaves(origins.values())
    if has_own and all(name.startswith(OWN_PREFIXES) for name in file.tensors):
        return {"jtl": assign.own_origin(file.tensors, unneeded)}
    is_bare = FAMILIES[family].marker.removeprefix(OWN_PREFIXES[0]) in file.tensors
    found = assign.best_origin(origins, file.tensors) if is_bare else None
    if is_bare and (found is None or found[1].unknown):
        return {**origins, "jtl": assign.own_origin(file.tensors, unneeded, OWN_PREFIXES[0])}
    return origins


def _best(file: TensorFile, families: Iterable[str]) -> Recognised | None:
    """Return what the file is as one of the family that knows most of its names."""
    candidates = [recognised for family in families if (recognised := _as_family(file, family)) is not None]
    return max(candidates, key=lambda each: each[0])[1] if candidates else None


def _as_family(file: TensorFile, family: str) -> tuple[int, Recognised] | None:
    """Return how many names the family knows, and what the file is as one of it."""
    origins = origins_of(file, family)
    best = assign.best_origin(origins, file.tensors)
    if best is None:
        return None
    key, assignment = best
    shapes = assign.model_shapes(assignment.filled, file.tensors)
    found = FAMILIES[family].recognise(shapes)
    if found is None:
        return None
    fields, title = found
    fields = {**fields, **origins[key].config_fields}
    reads, num_outputs = _head_of(family, shapes)
    title = f"{title} with {num_outputs or ('no' if reads == FEATURES else reads)} outputs"
    found = Recognised(family, fields, num_outputs, key, f"{title} and {origins[key].title}", reads=reads)
    if file.family == family:
        found = found._replace(config_fields=dict(file.config_fields))
    elif family in file.stated:
        found = found._replace(config_fields=_stated(file, found, assignment))
    return len(assignment.filled), found


def _head_of(family: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """Return what the head of a file with these leaves reads, and the number of outputs of features' head."""
    for reads, leaf in FAMILIES[family].heads:
        if leaf in shapes:
            return reads, shapes[leaf][-1] if reads == FEATURES else 0
    return FEATURES, 0


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
