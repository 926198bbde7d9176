"""What the devices of a compiled program exchange: its collective operations, and the bytes they move."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Exchange(NamedTuple):
    """One collective operation of a compiled program, as one of its devices sees it.

    `num_bytes` is the whole array of which each device of a group has, or ends with, a part or all; `group`
    are the devices that exchange it, those of the first group there is.
    """

    kind: str
    num_bytes: int
    group: tuple[int, ...]

    @property
    def moved_bytes(self) -> float:
        """Bytes that a device sends, and receives, where they go round in a ring.

        >>> Exchange("all-reduce", 800, tuple(range(8))).moved_bytes
        1400.0
        """
        size = len(self.group)
        return RINGS[self.kind] * self.num_bytes * (size - 1) / size


# How often an array goes round in a ring.
RINGS = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0}
COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?\S+ = (.*?) ({'|'.join(RINGS)})(-start)?\(.*?replica_groups=(.*)", re.MULTILINE
)
SHAPE = re.compile(r"(pred|[a-z]+\d+)\w*\[([\d,]*)\]")
ALL = "{}"
# How groups are written: one by one, by counting, or as axes of a mesh of the devices.
LISTED, COUNTED = re.compile(r"\{\{([\d,]+)\}"), re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(r"mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}")
AXIS, PART = re.compile(r"'(\w+)'=(\d+)"), re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def of_text(text: str, num_devices: int) -> list[Exchange]:
    """Return the collective operations of a compiled program's text, those in a loop once.

    Raises:
        ValueError: which devices exchange is written in a way that is not known.
    """
    found = []
    for shapes, kind, is_started, groups in COLLECTIVE.findall(text):
        group = tuple(range(num_devices)) if groups.startswith(ALL) else _first_group(groups)
        parts = [_bytes_of(*each) for each in SHAPE.findall(shapes)]
        # What is started has its operands in front of its results.
        num_bytes = sum(parts[len(parts) // 2 :] if is_started and kind != "all-reduce" else parts)
        if len(group) > 1:
            found.append(Exchange(kind, num_bytes * (len(group) if kind == "reduce-scatter" else 1), group))
    return found


def summed(found: Sequence[Exchange]) -> dict[str, dict[str, float]]:
    """Return by kind how many there are, and the bytes that a device sends in them."""
    return {
        kind: {
            "num": sum(each.kind == kind for each in found),
            "moved_bytes": sum(each.moved_bytes for each in found if each.kind == kind),
        }
        for kind in RINGS
        if any(each.kind == kind for each in found)
    }


def _bytes_of(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return math.prod(map(int, dims.split(","))) * bits // 8 if dims else bits // 8


def _first_group(groups: str) -> tuple[int, ...]:
    """Return the devices of the first group of a text that begins with groups.

    >>> _first_group("{{0,1},{2,3}}, "), _first_group("[2,2]<=[2,2]T(1,0), ")
    ((0, 1), (0, 2))
    >>> _first_group("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}")
    (0, 2, 4, 6)
    >>> _first_group("mesh['a'=4] {'a':(2)2}")
    (0, 1)

    Raises:
        ValueError: they are written in another way.
    """
    if listed := LISTED.match(groups):
        return tuple(_numbers(listed.group(1)))
    if counted := COUNTED.match(groups):
        sizes, dims, order = map(_numbers, counted.groups())
        return tuple(_counted(dims, order).reshape(sizes)[0].tolist())
    if mesh := MESH.match(groups):
        sizes = {name: int(size) for name, size in AXIS.findall(mesh.group(1))}
        devices = _counted(_numbers(mesh.group(2)) or [math.prod(sizes.values())], _numbers(mesh.group(3)))
        return tuple(_along(devices.reshape(-1), sizes, mesh.group(4)))
    raise ValueError(f"groups of devices are written as {groups[:80]!r}")


def _along(devices: np.ndarray, sizes: Mapping[str, int], axes: str) -> list[int]:
    """Return the devices that stand, with the first of them, along axes of a mesh, or along parts of axes."""
    taken = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in PART.findall(axes)}
    parts: list[int] = []
    kept: list[slice | int] = []
    for name, size in sizes.items():
        before, own = taken.get(name, (1, 1))
        parts += [before, own, size // (before * own)]
        kept += [0, slice(None) if name in taken else 0, 0]
    return devices.reshape(parts)[tuple(kept)].reshape(-1).tolist()


def _counted(dims: list[int], order: list[int]) -> np.ndarray:
    devices = np.arange(math.prod(dims)).reshape(dims)
    return devices.transpose(order) if order else devices


def _numbers(text: str | None) -> list[int]:
    return [int(each) for each in text.split(",")] if text else []
