"""What becomes of the source's head: kept fresh, loaded, or copied class by class."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.errors import UserError, nearest
from jtl.weights.contract import Config, TensorFile
from jtl.weights.names.assign import Assigned
from jtl.weights.report import shorten

PREFIX = "params/head/"
SHOWN = 5
# The leaves of a linear head, or of the two that a distilled model has.
LINEAR = {f"{PREFIX}{leaf}" for leaf in ("kernel", "bias", "distilled/kernel", "distilled/bias")}

Leaves = Mapping[str, Any]


class Copied(NamedTuple):
    """A fresh head leaf that takes some of its outputs from a source tensor."""

    target: str
    change: Callable[[np.ndarray], np.ndarray]
    note: str


class HeadPlan(NamedTuple):
    """What becomes of the source's head tensors and of the model's head leaves.

    `regular` source tensors are loaded as any other; `copied` by label map; `left_out` with a reason; `new`
    leaves stay fresh, with a note.
    """

    regular: Mapping[str, Assigned]
    copied: Mapping[str, Copied]
    left_out: Mapping[str, str]
    new: Mapping[str, str]


def plan_head(
    sources: Mapping[str, Assigned],
    leaves: Leaves,
    settings: Config,
    file: TensorFile,
    label_names: Sequence[str],
) -> HeadPlan:
    """Return the plan for the source's head tensors and the model's head leaves, as `settings.head` says."""
    head_leaves = {name: leaf for name, leaf in leaves.items() if name.startswith(PREFIX)}
    return HEADS[settings.head](sources, head_leaves, settings, file, label_names)


def is_new(settings: Config) -> bool:
    """Return whether nothing of the source's head is used."""
    return HEADS[settings.head] is _new


def _new(sources: Mapping[str, Assigned], leaves: Leaves, *rest: Any) -> HeadPlan:
    return HeadPlan(
        {},
        {},
        dict.fromkeys(sources, "the source's head"),
        {name: f"{leaves[name].shape}" for name in leaves},
    )


def _load(sources: Mapping[str, Assigned], *rest: Any) -> HeadPlan:
    return HeadPlan(sources, {}, {}, {})


def _map(
    sources: Mapping[str, Assigned],
    leaves: Leaves,
    settings: Config,
    file: TensorFile,
    label_names: Sequence[str],
) -> HeadPlan:
    by_target = {assigned.targets[0]: name for name, assigned in sources.items()}
    if not set(by_target) <= set(leaves) <= LINEAR or f"{PREFIX}kernel" not in by_target:
        raise UserError(
            f"weights.head 'map' needs a linear head on both sides; the model has "
            f"{shorten(leaves, 4) or 'none'}, the weights {shorten(sources, 4) or 'none'}"
        )
    num_new = leaves[f"{PREFIX}kernel"].shape[-1]
    # A linear head of PyTorch is [out, in], one of Flax [in, out]: its operation says which.
    kernel_name = by_target[f"{PREFIX}kernel"]
    stand_in = np.broadcast_to(np.zeros((), np.bool_), file.tensors[kernel_name].shape)
    num_source = sources[kernel_name].row.op.forward(stand_in, ((),))[0].shape[-1]
    pairs = read_label_map(settings.label_map, label_names, num_new, file.label_names, num_source)
    names = list(label_names) or [str(index) for index in range(num_new)]
    fresh = [name for index, name in enumerate(names) if index not in pairs]
    note = f"{len(pairs)} of {num_new} classes by label map" + (
        f"; fresh: {shorten(fresh, SHOWN)}" if fresh else ""
    )
    copied = {
        name: Copied(target, partial(_copied, np.asarray(leaves[target]), pairs), note)
        for target, name in by_target.items()
    }
    return HeadPlan(
        {}, copied, {}, {name: f"{leaves[name].shape}" for name in leaves if name not in by_target}
    )


def _copied(fresh: np.ndarray, pairs: Mapping[int, int], source: np.ndarray) -> np.ndarray:
    """Return the fresh leaf with the outputs of `pairs` (new → source) taken from the source."""
    result = np.array(fresh)
    result[..., list(pairs)] = source[..., list(pairs.values())]
    return result


def read_label_map(
    label_map: str | Mapping[str, int | str],
    new_names: Sequence[str],
    num_new: int,
    source_names: Sequence[str] | None,
    num_source: int,
) -> dict[int, int]:
    """Return the source class's index for each new class's that the map has.

    Raises:
        UserError: the file cannot be read, or names a class there is none of.
    """
    entries = _read_file(Path(label_map)) if isinstance(label_map, str) else label_map
    return {
        _index(new, new_names, num_new, "new class"): _index(
            source, source_names or (), num_source, "source class"
        )
        for new, source in entries.items()
    }


def _index(label: int | str, names: Sequence[str], count: int, what: str) -> int:
    """Return the index of a class given by name, or by number where no class has that name."""
    if label in names:
        return list(names).index(str(label))
    is_number = isinstance(label, int) or label.isdecimal()
    if is_number and 0 <= int(label) < count:
        return int(label)
    known = f"nearest: {nearest(str(label), names)}" if names else "the classes have no names here"
    raise UserError(
        f"weights.label_map has {what} {label!r}; expected a name or an index below {count}; {known}"
    )


def _read_file(path: Path) -> Mapping[str, int | str]:
    reader = READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise UserError(f"weights.label_map {str(path)!r} is no file; expected one of {', '.join(READERS)}")
    try:
        entries = reader(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"weights.label_map {str(path)!r} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(type(value) in (int, str) for value in entries.values()):
        raise UserError(f"weights.label_map {str(path)!r} is no map from new classes to source classes")
    return entries


def _read_csv(text: str) -> dict[str, int | str]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("expected two columns, new class and source class")
    return {new.strip(): source.strip() for new, source in rows}


READERS: dict[str, Callable[[str], Any]] = {".json": json.loads, ".csv": _read_csv}
# A zero-shot head is new to the file: the text tower makes it once the image tower is loaded.
HEADS: dict[str, Callable[..., HeadPlan]] = {"new": _new, "load": _load, "map": _map, "zero_shot": _new}
