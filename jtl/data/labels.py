"""Labels as people write them → arrays: class names or places, `a;b` for several, numbers for regression."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jtl.data import classes
from jtl.data.classes import Classes, Known
from jtl.data.contract import NO_LABELS, Labels
from jtl.errors import UserError, nearest, shown

SEPARATOR = ";"
# The place of no class, in the splits of public sets whose labels are kept secret.
UNKNOWN = "-1"
# Values of a multi-hot table, 4 bytes each.
MAX_MULTI_HOT = 1 << 30
# Beyond, squares of targets in float32 are no numbers any more; below, as a spread, they vanish.
MAX_TARGET, MIN_SPREAD = 1e18, 1e-18
# Of the spread of targets so much may be lost by float32.
MAX_LOST = 1e-2


class Encoded(NamedTuple):
    """`values` as `Source.labels()` gives them, and the class names they index (empty where none are).

    `reading` is how labels tell classes (`Info.reading`), `notes` say
    it for people.
    """

    values: np.ndarray | None
    names: tuple[str, ...]
    reading: str = ""
    notes: tuple[str, ...] = ()


def encode(
    cells: Sequence[str],
    labels: Labels,
    *,
    where: Callable[[int], str],
    own_names: tuple[str, ...] | None = None,
    are_places: bool = False,
    asked: str = "",
) -> Encoded:
    """Turn one label cell an example into an array.

    `own_names` are the classes the data itself declares, and with `are_places` its labels are places among
    them; `labels.names` are those the result must index. `asked` is how the user wants words to be read
    (`contract.ASKED`). `where(i)` says where cell i stands, for errors.

    >>> encode(["cat", "ant", "cat"], Labels(), where=str)[:3]
    (array([1, 0, 1]), ('ant', 'cat'), 'names')
    """
    if labels.kind not in _ENCODERS:
        raise UserError(f"label kind {labels.kind!r} is unknown; nearest: {nearest(labels.kind, _ENCODERS)}")
    known = Known(labels.names, labels.reading, own_names, are_places, asked)
    return _ENCODERS[labels.kind](cells, known, where)


def encode_splits(
    cells: Mapping[str, Sequence[str]],
    labels: Labels,
    *,
    where: Callable[[str, int], str],
    own_names: tuple[str, ...] | None = None,
    are_places: bool = False,
    asked: str = "",
) -> dict[str, Encoded]:
    """Turn the label cells of every split into arrays over the same classes: the training split's.

    How words tell classes is settled there too, and other splits are read so; arguments are as `encode`'s.

    Raises:
        UserError: a label is malformed, out of range, or unknown to the training split.
    """
    encoded: dict[str, Encoded] = {}
    for split in sorted(cells, key=lambda name: name != "train"):
        encoded[split] = encode(
            cells[split],
            labels,
            where=lambda row, split=split: where(split, row),
            own_names=own_names,
            are_places=are_places,
            asked=asked,
        )
        if labels.kind != "regression" and labels.names is None:
            labels = labels._replace(names=encoded[split].names, reading=encoded[split].reading)
    widths = {split: each.values.shape[1:] for split, each in encoded.items() if each.values is not None}
    if len(set(widths.values())) > 1:
        raise UserError(f"label values an example differ between splits ({widths}), expected the same number")
    return {split: encoded[split] for split in cells}


def unlabelled(cells: Mapping[str, Sequence[str]], labels: Labels) -> dict[str, str]:
    """Return the splits without labels, and that in a line for people.

    The test split of a public set often has none: all are -1, as places of classes go, or empty. It is left
    out where other splits have some; that of training never is.
    """
    marks = {"class": {UNKNOWN, ""}, "multilabel": {UNKNOWN}, "regression": {""}}.get(labels.kind, set())
    found = {split: each for split, each in cells.items() if each and set(each) <= marks}
    if len(found) == len(cells):
        return {}
    return {
        split: f"{split}: left out, none of its {len(each):,} examples has a label"
        for split, each in found.items()
        if split != "train"
    }


def strata(
    values: Shaped[np.ndarray, "examples ..."], names: tuple[str, ...]
) -> Int[np.ndarray, " examples"]:
    """Return for each example the group that splits and subsets keep balanced.

    That is its class; for multi-hot labels its rarest positive class (-1 without any); one group for
    regression, which has no `names`.
    """
    if not names:
        return np.zeros(len(values), np.int64)
    if values.ndim == 1:
        return values
    rarity = np.where(values > 0, values.sum(axis=0, keepdims=True), np.inf)
    return np.where(values.any(axis=1), rarity.argmin(axis=1), -1)


def _encode_class(cells: Sequence[str], known: Known, where: Callable[[int], str]) -> Encoded:
    indices, found = classes.index(cells, known, where)
    return _encoded(indices, found)


def _encode_multilabel(cells: Sequence[str], known: Known, where: Callable[[int], str]) -> Encoded:
    rows: list[int] = []
    words: list[str] = []
    for row, cell in enumerate(cells):
        parts = [part.strip() for part in cell.split(SEPARATOR)] if cell else []
        if "" in parts:
            raise UserError(
                f"label malformed: {where(row)} has {shown(cell)}, expected classes as 'a{SEPARATOR}b'"
            )
        rows += [row] * len(parts)
        words += parts
    indices, found = classes.index(words, known, lambda word: where(rows[word]))
    if len(cells) * len(found.names) > MAX_MULTI_HOT:
        raise UserError(
            f"{len(cells):,} examples of {len(found.names):,} classes are {len(cells) * len(found.names):,} "
            f"labels, expected at most {MAX_MULTI_HOT:,}; are {classes.few(found.names, 3)} classes?"
        )
    values = np.zeros((len(cells), len(found.names)), np.float32)
    values[rows, indices] = 1
    return _encoded(values, found)


def _encode_regression(cells: Sequence[str], known: Known, where: Callable[[int], str]) -> Encoded:
    del known
    parsed: list[list[float]] = []
    for row, cell in enumerate(cells):
        try:
            numbers = [float(part) for part in cell.split(SEPARATOR)]
        except ValueError:
            numbers = []
        if not numbers or not np.isfinite(numbers).all():
            raise UserError(
                f"label malformed: {where(row)} has {shown(cell)}, expected finite numbers as '0.5' or "
                f"'0.1{SEPARATOR}0.2'"
            )
        if len(numbers) != len(parsed[0] if parsed else numbers):
            raise UserError(
                f"label malformed: {where(row)} has {len(numbers)} numbers, expected {len(parsed[0])} as "
                "before it"
            )
        parsed.append(numbers)
    values = np.asarray(parsed, np.float64).reshape(len(parsed), -1)
    if values.size:
        _check_targets(values, cells, where)
    return Encoded(values.astype(np.float32), ())


def _check_targets(
    values: Float[np.ndarray, "examples values"], cells: Sequence[str], where: Callable[[int], str]
) -> None:
    """Raise UserError for targets whose size or spread float32 cannot compute with."""
    row = int(np.abs(values).max(axis=1).argmax())
    if np.abs(values[row]).max() > MAX_TARGET:
        raise UserError(
            f"label out of range: {where(row)} has {shown(cells[row])}, expected at most {MAX_TARGET:g} in "
            f"size; give targets in a larger unit"
        )
    spread = values.std(axis=0)
    lost = np.abs(values - values.astype(np.float32)).max(axis=0)
    if (is_lost := (spread > 0) & ((lost > MAX_LOST * spread) | (spread < MIN_SPREAD))).any():
        place = int(is_lost.argmax())
        raise UserError(
            f"label out of range: targets such as {shown(cells[0])} at {where(0)} lie around "
            f"{values[:, place].mean():.6g} and differ by {spread[place]:.3g}, which float32 cannot tell "
            f"apart; subtract a number from all, or give them in another unit"
        )


def _encode_nothing(cells: Sequence[str], known: Known, where: Callable[[int], str]) -> Encoded:
    del cells, known, where
    return Encoded(None, ())


def _encoded(values: np.ndarray, found: Classes) -> Encoded:
    return Encoded(values, found.names, found.reading, (found.note,) if found.note else ())


_ENCODERS: dict[str, Callable[[Sequence[str], Known, Callable[[int], str]], Encoded]] = {
    "class": _encode_class,
    "multilabel": _encode_multilabel,
    "regression": _encode_regression,
    NO_LABELS: _encode_nothing,
}
