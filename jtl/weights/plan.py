"""The plan of a load: for every source tensor what becomes of it, before any of them is read."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jtl.weights import fit
from jtl.weights.contract import AUTO, Config, FamilyNames, Grid, Origin, TensorFile
from jtl.weights.head import PREFIX, HeadPlan, is_new, plan_head
from jtl.weights.names.assign import Assigned, Assignment, target_shapes
from jtl.weights.report import LEFT_OUT, LOADED, NEW, RESAMPLED, ReportRow

FLOATS = (
    *("float32", "float16", "bfloat16", "float64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)


class Target(NamedTuple):
    """The model's side: its family's names, its fresh leaves by name, its grid, and the settings."""

    names: FamilyNames
    leaves: Mapping[str, Any]
    grid: Grid | None
    settings: Config


class Fill(NamedTuple):
    """How one source tensor fills its leaves: by its row's operation, then for each leaf by `change`."""

    assigned: Assigned
    status: str
    change: Callable[[np.ndarray], np.ndarray]
    note: str = ""


class Plan(NamedTuple):
    """What becomes of every source tensor and every leaf; the last three are faults.

    `fills` by source name; `left_out` source names with reasons; `new` leaves with notes; `unknown` source
    names; `misfits` by source name, what is wrong; `unfilled` leaves.
    """

    fills: Mapping[str, Fill]
    left_out: Mapping[str, str]
    new: Mapping[str, str]
    unknown: tuple[str, ...]
    misfits: Mapping[str, str]
    misfit_targets: tuple[tuple[str, ...], ...]
    unfilled: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether everything has its place."""
        return not (self.unknown or self.misfits or self.unfilled)

    def rows(self, file: TensorFile, leaves: Mapping[str, Any]) -> tuple[ReportRow, ...]:
        """Return the report's rows: source tensors in the file's order, then the fresh leaves."""
        rows = []
        for name, tensor in file.tensors.items():
            size = math.prod(tensor.shape)
            if name in self.fills:
                fill = self.fills[name]
                row = ReportRow(
                    fill.status, name, fill.assigned.targets, tensor.shape, size, tensor.dtype, fill.note
                )
            else:
                row = ReportRow(LEFT_OUT, name, (), tensor.shape, size, tensor.dtype, self.left_out[name])
            rows.append(row)
        for name, tensor in file.others.items():
            size = math.prod(tensor.shape)
            rows.append(ReportRow(LEFT_OUT, name, (), tensor.shape, size, tensor.dtype, file.reasons[name]))
        for name, note in self.new.items():
            rows.append(ReportRow(NEW, "", (name,), leaves[name].shape, leaves[name].size, "float32", note))
        return tuple(rows)


def make(
    target: Target,
    file: TensorFile,
    origin: Origin,
    assignment: Assignment,
    label_names: Sequence[str],
    source: Grid | None,
) -> Plan:
    """Plan the load; `source` is the grid of the file's position embedding where the file says it."""
    is_new_head = is_new(target.settings)
    left_out = {
        name: why.reason for name, why in assignment.left_out.items() if is_new_head or not why.of_head
    }
    unknown = [*assignment.unknown, *(name for name in assignment.left_out if name not in left_out)]
    head_sources = {
        name: each for name, each in assignment.filled.items() if each.targets[0].startswith(PREFIX)
    }
    head = plan_head(head_sources, target.leaves, target.settings, file, label_names)
    fills, misfits = _copied_fills(head, head_sources), {}
    regular = {
        name: each
        for name, each in assignment.filled.items()
        if name not in head_sources or name in head.regular
    }
    for name, assigned in regular.items():
        if any(leaf not in target.leaves for leaf in assigned.targets):
            if assigned.row.unneeded and not any(leaf in target.leaves for leaf in assigned.targets):
                left_out[name] = assigned.row.unneeded
            else:
                unknown.append(name)
            continue
        found = _fill(name, assigned, target, file, origin, source)
        if isinstance(found, Fill):
            fills[name] = found
        else:
            misfits[name] = found
    taken = {leaf for name in (*fills, *misfits) for leaf in assignment.filled[name].targets} | set(head.new)
    added = {leaf: "added to the weights' model" for leaf in target.names.additions if leaf in target.leaves}
    new = {**head.new, **{leaf: note for leaf, note in added.items() if leaf not in taken}}
    unfilled = tuple(leaf for leaf in target.leaves if leaf not in taken and leaf not in new)
    misfit_targets = tuple(assignment.filled[name].targets for name in misfits)
    return Plan(fills, {**left_out, **head.left_out}, new, tuple(unknown), misfits, misfit_targets, unfilled)


def _copied_fills(head: HeadPlan, sources: Mapping[str, Assigned]) -> dict[str, Fill]:
    return {name: Fill(sources[name], LOADED, each.change, each.note) for name, each in head.copied.items()}


def _fill(
    name: str, assigned: Assigned, target: Target, file: TensorFile, origin: Origin, source: Grid | None
) -> Fill | str:
    """Return how a source tensor fills its leaves, or what is wrong."""
    tensor = file.tensors[name]
    expected = tuple(tuple(target.leaves[leaf].shape) for leaf in assigned.targets)
    found = target_shapes(assigned.row, tensor.shape, expected)
    if tensor.dtype not in FLOATS:
        return f"{name} is {tensor.dtype}; expected floating point"
    misfit = f"{name} {tensor.shape} for {assigned.targets[0]} {expected[0]}"
    if found is None:
        return misfit
    if assigned.targets[0] == target.names.position_embedding:
        grown = _position_fill(assigned, found[0], target, origin, source)
        return (
            grown or f"{misfit} (places that form no square: set model.image_px to what they were made for)"
        )
    if assigned.targets[0] == target.names.input_kernel and found != expected:
        num_source, num_channels = found[0][2], expected[0][2]
        if found[0][:2] + found[0][3:] != expected[0][:2] + expected[0][3:]:
            return misfit
        adapt = fit.CHANNELS[target.settings.channels]
        return Fill(
            assigned,
            RESAMPLED,
            lambda part: adapt(part, num_channels),
            f"{num_source} -> {num_channels} channels",
        )
    return Fill(assigned, LOADED, _same) if found == expected else misfit


def _position_fill(
    assigned: Assigned, shape: tuple[int, ...], target: Target, origin: Origin, source: Grid | None
) -> Fill | None:
    """Return how a position embedding fills the model's; None where their prefix or width differ.

    A table that does not say its grid is taken as square, or where it cannot be, as the model's own.
    """
    own = target.grid
    assert own is not None, "a family with a position embedding has a grid"
    leaf = target.leaves[assigned.targets[0]]
    if len(shape) != 3 or shape[0] != 1 or shape[2] != leaf.shape[2]:
        return None
    num_positions = shape[1] - own.prefix
    side = math.isqrt(max(num_positions, 0))
    square = (side, side) if side > 0 and side * side == num_positions else None
    same = (own.rows, own.columns) if shape == leaf.shape else None
    grid = (source.rows, source.columns) if source is not None else square or same
    if grid is None or grid[0] * grid[1] != num_positions:
        return None
    new = (own.rows, own.columns)
    if grid == new:
        return Fill(assigned, LOADED, _same)
    mode = (
        origin.position_embedding
        if target.settings.position_embedding == AUTO
        else target.settings.position_embedding
    )
    change = partial(fit.resample, num_prefix=own.prefix, grid_in=grid, grid_out=new, mode=mode)
    return Fill(assigned, RESAMPLED, change, f"{grid[0]}x{grid[1]} -> {new[0]}x{new[1]} {mode}")


def _same(array: np.ndarray) -> np.ndarray:
    return array
