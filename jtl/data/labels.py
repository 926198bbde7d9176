"""Labels as people write them → arrays: class names or indices, `a;b` for several, numbers for regression."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from jtl.data.contract import NO_LABELS, Labels
from jtl.errors import UserError, nearest

SEPARATOR = ";"


class Encoded(NamedTuple):
    """`values` as `Source.labels()` gives them, and the class names they index (empty where none are)."""

    values: np.ndarray | None
    names: tuple[str, ...]


def encode(
    cells: Sequence[str],
    labels: Labels,
    *,
    where: Callable[[int], str],
    own_names: tuple[str, ...] | None = None,
) -> Encoded:
    """Turn one label cell an example into an array.

    `own_names` are the classes the data itself declares, in the order its indices mean; `labels.names` are
    those the result must index. A cell is a name or an index; if every cell is a known name they are names,
    else indices. `where(i)` says where cell i stands, for errors.

    >>> encode(["cat", "ant", "cat"], Labels(), where=str)
    Encoded(values=array([1, 0, 1]), names=('ant', 'cat'))
    """
    if labels.kind not in _ENCODERS:
        raise UserError(f"label kind {labels.kind!r} is unknown; nearest: {nearest(labels.kind, _ENCODERS)}")
    return _ENCODERS[labels.kind](cells, labels.names, own_names, where)


def encode_splits(
    cells: Mapping[str, Sequence[str]],
    labels: Labels,
    *,
    where: Callable[[str, int], str],
    own_names: tuple[str, ...] | None = None,
) -> dict[str, Encoded]:
    """Turn the label cells of every split into arrays over the same classes: the training split's.

    Raises:
        UserError: a label is malformed, out of range, or unknown to the training split.
    """
    encoded: dict[str, Encoded] = {}
    for split in sorted(cells, key=lambda name: name != "train"):
        encoded[split] = encode(
            cells[split], labels, where=lambda row, split=split: where(split, row), own_names=own_names
        )
        if labels.kind != "regression" and labels.names is None:
            labels = labels._replace(names=encoded[split].names)
    widths = {split: each.values.shape[1:] for split, each in encoded.items() if each.values is not None}
    if len(set(widths.values())) > 1:
        raise UserError(f"label values an example differ between splits ({widths}), expected the same number")
    return {split: encoded[split] for split in cells}


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


def _encode_class(
    cells: Sequence[str],
    names: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    where: Callable[[int], str],
) -> Encoded:
    for row, cell in enumerate(cells):
        if cell == "":
            raise UserError(f"label missing: {where(row)} has none, expected a class")
    indices, names = _index(cells, names, own_names, where)
    return Encoded(indices, names)


def _encode_multilabel(
    cells: Sequence[str],
    names: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    where: Callable[[int], str],
) -> Encoded:
    rows: list[int] = []
    tokens: list[str] = []
    for row, cell in enumerate(cells):
        parts = [part.strip() for part in cell.split(SEPARATOR)] if cell else []
        if "" in parts:
            raise UserError(
                f"label malformed: {where(row)} has {cell!r}, expected classes as 'a{SEPARATOR}b'"
            )
        rows += [row] * len(parts)
        tokens += parts
    indices, names = _index(tokens, names, own_names, lambda token: where(rows[token]))
    values = np.zeros((len(cells), len(names)), np.float32)
    values[rows, indices] = 1
    return Encoded(values, names)


def _encode_regression(
    cells: Sequence[str],
    names: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    where: Callable[[int], str],
) -> Encoded:
    del names, own_names
    parsed: list[list[float]] = []
    for row, cell in enumerate(cells):
        try:
            numbers = [float(part) for part in cell.split(SEPARATOR)]
        except ValueError:
            numbers = []
        if not numbers or not np.isfinite(numbers).all():
            raise UserError(
                f"label malformed: {where(row)} has {cell!r}, expected finite numbers as '0.5' or "
                f"'0.1{SEPARATOR}0.2'"
            )
        if len(numbers) != len(parsed[0] if parsed else numbers):
            raise UserError(
                f"label malformed: {where(row)} has {len(numbers)} numbers, expected {len(parsed[0])} as "
                "before it"
            )
        parsed.append(numbers)
    return Encoded(np.asarray(parsed, np.float32).reshape(len(parsed), -1), ())


def _encode_nothing(
    cells: Sequence[str],
    names: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    where: Callable[[int], str],
) -> Encoded:
    del cells, names, own_names, where
    return Encoded(None, ())


_ENCODERS = {
    "class": _encode_class,
    "multilabel": _encode_multilabel,
    "regression": _encode_regression,
    NO_LABELS: _encode_nothing,
}


def _index(
    tokens: Sequence[str],
    names: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    where: Callable[[int], str],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class index of every token, and the classes."""
    distinct = dict.fromkeys(tokens)
    spoken = own_names if own_names is not None else names
    if spoken is None and all(_is_integer(token) for token in distinct):
        spoken = tuple(str(number) for number in range(max(map(int, distinct), default=-1) + 1))
    elif spoken is None:
        spoken = tuple(sorted(distinct))
    places = {name: place for place, name in enumerate(spoken)}
    if len(places) != len(spoken):
        raise UserError(
            f"class names repeat: {', '.join(sorted(set(_repeated(spoken))))}; expected each name once"
        )
    if not all(token in places for token in distinct):
        places = _as_integers(tokens, spoken, where)
    if names is not None and own_names is not None:
        places = _translated(places, own_names, names, tokens, where)
        spoken = names
    return np.fromiter((places[token] for token in tokens), np.int64, len(tokens)), spoken


def _as_integers(
    tokens: Sequence[str], names: tuple[str, ...], where: Callable[[int], str]
) -> dict[str, int]:
    """Return the index each token means where not all are class names, checking that it is in range."""
    are_integers = all(map(_is_integer, tokens))
    places: dict[str, int] = {}
    for row, token in enumerate(tokens):
        if not are_integers and token not in names:
            raise UserError(
                f"label unknown: {where(row)} has {token!r}; nearest known class: {nearest(token, names)}"
            )
        if are_integers and not 0 <= int(token) < len(names):
            raise UserError(
                "label out of range: "
                f"{where(row)} has {token}, expected 0 to {len(names) - 1} ({len(names)} classes)"
            )
        places[token] = int(token) if are_integers else names.index(token)
    return places


def _translated(
    places: dict[str, int],
    own_names: tuple[str, ...],
    names: tuple[str, ...],
    tokens: Sequence[str],
    where: Callable[[int], str],
) -> dict[str, int]:
    """Return the tokens' places among `names`, given their places among the data's own names."""
    wanted = {name: place for place, name in enumerate(names)}
    for row, token in enumerate(tokens):
        name = own_names[places[token]]
        if name not in wanted:
            raise UserError(
                f"label unknown: {where(row)} has {name!r}; nearest known class: {nearest(name, names)}"
            )
    return {token: wanted[own_names[place]] for token, place in places.items() if own_names[place] in wanted}


def _is_integer(token: str) -> bool:
    return token.removeprefix("-").isdecimal() and token.isascii()


def _repeated(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [name for name in names if names.count(name) > 1]
