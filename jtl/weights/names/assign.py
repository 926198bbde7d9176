"""Finding, for every tensor of a file, the one row of a table that says where it goes."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jtl.weights.contract import LeftOut, Origin, Row, Tensor
from jtl.weights.names import ops, pattern

# A file whose names fit a table less than this is another model, not a variant of this one.
MIN_COVERAGE = 0.5
EntryT = TypeVar("EntryT", Row, LeftOut)


class Assigned(NamedTuple):
    """A source tensor's row, and the model's leaves it fills."""

    row: Row
    targets: tuple[str, ...]


class Assignment(NamedTuple):
    """Every source name, in exactly one of the three."""

    filled: dict[str, Assigned]
    left_out: dict[str, LeftOut]
    unknown: tuple[str, ...]


def assign(origin: Origin, names: Iterable[str]) -> Assignment:
    """Return where each name goes; no name may fit two rows."""
    filled: dict[str, Assigned] = {}
    left_out: dict[str, LeftOut] = {}
    unknown: list[str] = []
    # Looking rows up keeps the search linear; jtl's own files have a plain one for every tensor.
    plain = {row.source: row for row in origin.rows if not pattern.PLACE.search(row.source)}
    numbered = [row for row in origin.rows if row.source not in plain]
    rows, reasons = _by_outline(numbered), _by_outline(origin.left_out)
    assert len(plain) + len(numbered) == len(origin.rows), f"the table of {origin.title} has a row twice"
    for name in names:
        bare = name.removeprefix(origin.prefix)
        outline = pattern.outline(bare)
        found = [
            Assigned(row, tuple(pattern.render(target, numbers) for target in row.targets))
            for row in rows.get(outline, ())
            if (numbers := pattern.match(row.source, bare)) is not None
        ]
        found += [Assigned(plain[bare], plain[bare].targets)] if bare in plain else []
        why = [each for each in reasons.get(outline, ()) if pattern.match(each.source, bare) is not None]
        assert len(found) + len(why) <= 1, f"{name} fits several rows of the table of {origin.title}"
        if found:
            filled[name] = found[0]
        elif why:
            left_out[name] = why[0]
        else:
            unknown.append(name)
    return Assignment(filled, left_out, tuple(unknown))


def best_origin(origins: Mapping[str, Origin], tensors: Mapping[str, Any]) -> tuple[str, Assignment] | None:
    """Return the origin that knows most of the names, and where they go; None where none knows enough.

    `tensors` are anything with shapes, by name.
    """
    assignments = {key: assign(origin, tensors) for key, origin in origins.items() if origin.is_of(tensors)}
    if not assignments:
        return None
    key = min(assignments, key=lambda each: len(assignments[each].unknown))
    if len(assignments[key].unknown) > (1 - MIN_COVERAGE) * len(tensors):
        return None
    return key, assignments[key]


def own_origin(names: Iterable[str], unneeded: Mapping[str, str], missing: str = "") -> Origin:
    """Return the origin of jtl's own files: every leaf under its own name, or without a prefix of it.

    `unneeded` says of leaves why a model may do without them (`unneeded_leaves`).
    """
    rows = (Row(name, (f"{missing}{name}",), ops.SAME) for name in names)
    return Origin("jtl names", tuple(row._replace(unneeded=unneeded.get(row.targets[0], "")) for row in rows))


def unneeded_leaves(origins: Iterable[Origin]) -> dict[str, str]:
    """Return the leaves that a model may do without by the tables of other libraries, and why."""
    rows = (row for origin in origins for row in origin.rows if row.unneeded)
    return {target: row.unneeded for row in rows for target in row.targets}


def model_shapes(filled: Mapping[str, Assigned], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the tensors' shapes under the model's names; as one head where the source does not tell.

    Tensors whose rank does not fit their name are not in it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (row, targets) in filled.items():
        found = target_shapes(row, tensors[name].shape, ((1, 1, 1),) * len(targets))
        shapes.update(zip(targets, found or (), strict=False))
    return shapes


def target_shapes(
    row: Row, shape: tuple[int, ...], expected: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes the row's operation makes of a source's shape; None where it does not apply."""
    stand_in = np.broadcast_to(np.zeros((), np.bool_), shape)
    try:
        return tuple(array.shape for array in row.op.forward(stand_in, expected))
    except (ValueError, IndexError):
        return None


def _by_outline(entries: Iterable[EntryT]) -> dict[str, list[EntryT]]:
    """Return rows or reasons by their sources' outline."""
    found: dict[str, list[EntryT]] = {}
    for each in entries:
        found.setdefault(pattern.outline(each.source), []).append(each)
    return found
