"""What a file of weights looks like, from its names and shapes alone."""

from collections.abc import Mapping

from jtl.errors import UserError
from jtl.weights import FAMILIES, hub
from jtl.weights.contract import Config, Origin, Recognised, TensorFile
from jtl.weights.names import assign
from jtl.weights.open import open_path
from jtl.weights.report import shorten

OWN_PREFIXES = ("params/", "model_state/")


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
        raise UserError(
            f"{spec!r} looks like no model jtl knows; it holds {len(file.tensors)} tensors: "
            f"{shorten(file.tensors, 6)}; known families: {', '.join(FAMILIES)}"
        )
    return recognised._replace(label_names=file.label_names)


def of_file(file: TensorFile) -> Recognised | None:
    """Return which model an open file is for; None where no family knows its names."""
    candidates = [
        recognised
        for family in ([file.family] if file.family in FAMILIES else FAMILIES)
        if (recognised := _as_family(file, family)) is not None
    ]
    return max(candidates, key=lambda each: each[0])[1] if candidates else None


def origins_of(file: TensorFile, family: str) -> Mapping[str, Origin]:
    """Return the origins a file's names may be of; jtl's own files name every leaf as the model does."""
    if all(name.startswith(OWN_PREFIXES) for name in file.tensors):
        return {"jtl": assign.own_origin(file.tensors)}
    return FAMILIES[family].origins


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
    heads = [shapes[name] for name in ("params/head/kernel", "params/head/out/kernel") if name in shapes]
    num_outputs = heads[0][-1] if heads else 0
    title = f"{title} with {num_outputs or 'no'} outputs and {origins[key].title}"
    fields = dict(file.config_fields) or fields
    return len(assignment.filled), Recognised(family, fields, num_outputs, key, title)
