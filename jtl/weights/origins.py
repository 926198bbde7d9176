"""What a set of named tensors is: by which library's names, of which family, with which head."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jtl.models.contract import FEATURES
from jtl.weights import FAMILIES
from jtl.weights.contract import Origin, Tensor
from jtl.weights.names import assign
from jtl.weights.names.assign import Assignment

OWN_PREFIXES = ("params/", "model_state/")


class Known(NamedTuple):
    """Tensors whose names a family knows: by which origin, where each goes, and what they tell of the model.

    `fields` are settings that the tensors tell and `title` what they look like. `reads` is what their head
    reads, and `num_outputs` counts the outputs of one that reads features.
    """

    family: str
    key: str
    origin: Origin
    assignment: Assignment
    fields: dict[str, Any]
    title: str
    reads: str
    num_outputs: int


def origins_of(tensors: Mapping[str, Tensor], family: str) -> Mapping[str, Origin]:
    """Return the origins that names may be of; jtl's own files name every leaf as the model does.

    Some of them without "params/": flat archives and trees of parameters alone lose it when they are opened.
    """
    # Flax's own collections may be called so too.
    has_own = FAMILIES[family].marker in tensors
    origins = FAMILIES[family].origins
    unneeded = assign.unneeded_leaves(origins.values())
    if has_own and all(name.startswith(OWN_PREFIXES) for name in tensors):
        return {"jtl": assign.own_origin(tensors, unneeded)}
    is_bare = FAMILIES[family].marker.removeprefix(OWN_PREFIXES[0]) in tensors
    found = assign.best_origin(origins, tensors) if is_bare else None
    if is_bare and (found is None or found[1].unknown):
        return {**origins, "jtl": assign.own_origin(tensors, unneeded, OWN_PREFIXES[0])}
    return origins


def best_known(tensors: Mapping[str, Tensor], families: Iterable[str] = FAMILIES) -> Known | None:
    """Return what the tensors are by the family that knows most of their names; None where none does."""
    candidates = [known for family in families if (known := known_as(tensors, family)) is not None]
    return max(candidates, key=lambda known: len(known.assignment.filled), default=None)


def known_as(tensors: Mapping[str, Tensor], family: str) -> Known | None:
    """Return what the tensors are as those of a family; None where it does not know their names."""
    origins = origins_of(tensors, family)
    best = assign.best_origin(origins, tensors)
    if best is None:
        return None
    key, assignment = best
    shapes = assign.model_shapes(assignment.filled, tensors)
    found = FAMILIES[family].recognise(shapes)
    if found is None:
        return None
    fields, title = found
    fields = {**fields, **origins[key].config_fields}
    reads, num_outputs = _head_of(family, shapes)
    return Known(family, key, origins[key], assignment, fields, title, reads, num_outputs)


def _head_of(family: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """Return what the head of a file with these leaves reads, and the number of outputs of features' head."""
    for reads, leaf in FAMILIES[family].heads:
        if leaf in shapes:
            return reads, shapes[leaf][-1] if reads == FEATURES else 0
    return FEATURES, 0
