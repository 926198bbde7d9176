"""Which class each word of a label means: its name, a number, or its place among names.

It is settled once, for a run: where a model is trained, by its training labels; everywhere else by that. A
name is compared in one Unicode form, a number as a number, so that 3 is 3.0 and 2 comes before 10.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from jtl.data.contract import NAMES, NUMBERS, PLACES
from jtl.errors import UserError, counted, nearest, shown
from jtl.names import plain_name

# What programs write for a label that is not there.
MISSING = frozenset(("", "nan", "<na>", "#n/a", "null", "nat"))
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]\d{1,2})?", re.ASCII)
MAX_DIGITS = 40
# More places than any set of classes has; each costs a name, and a row of the model's head.
MAX_PLACES = 1_000_000
MANY_NUMBERS = 20
NAMED, MAX_SHOWN = 5, 60


class Known(NamedTuple):
    """What is known of the classes before the labels are read.

    `names` are those of the run or the weights, in the order of their outputs (None: to be found), `reading`
    how that run read its labels ("": unknown). `own_names` are those the data declares (None: it declares
    none), and with `are_places` its labels are places among them. `asked` is the user's word, one of
    `contract.ASKED`.
    """

    names: tuple[str, ...] | None = None
    reading: str = ""
    own_names: tuple[str, ...] | None = None
    are_places: bool = False
    asked: str = ""


class Classes(NamedTuple):
    """The classes, how labels tell them (`NAMES`, `NUMBERS`, `PLACES`), and that in a line for people."""

    names: tuple[str, ...]
    reading: str
    note: str


def as_number(word: str) -> str | None:
    """Return a number in its one form, None for what is no plain number.

    >>> [as_number(word) for word in ("3", "3.0", "+03", "1.5e+02", "-.50", "1e5", "3a")]
    ['3', '3', '3', '150', '-0.5', None, None]
    """
    if len(word) > MAX_DIGITS or not NUMBER.fullmatch(word):
        return None
    number = Decimal(word)
    if abs(number.adjusted()) > MAX_DIGITS:
        return None
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "0", "") else text


def index(words: Sequence[str], known: Known, where: Callable[[int], str]) -> tuple[np.ndarray, Classes]:
    """Return the place of every word's class, and the classes; `where(i)` says where word i stands.

    Raises:
        UserError: a word is missing, means no class, or class names repeat.
    """
    distinct = dict.fromkeys(words)
    at = _Places(words, where)
    if known.asked == PLACES and not known.are_places:
        known = known._replace(own_names=None)
    declared = known.own_names if known.own_names is not None else known.names or ()
    _check_missing(distinct, {plain_name(name) for name in declared}, words, where)
    if known.own_names is not None:
        places, classes = _declared(distinct, known, at)
    elif known.names is None:
        places, classes = _found(distinct, known.asked, at, len(words))
    else:
        places, classes = _given(distinct, known, at)
    return np.fromiter((places[word] for word in words), np.int64, len(words)), classes


class _Places(NamedTuple):
    """Where words stand, for errors."""

    words: Sequence[str]
    where: Callable[[int], str]

    def of(self, word: str) -> str:
        return self.where(self.words.index(word))


def few(names: Iterable[str], count: int = NAMED, max_chars: int = MAX_SHOWN) -> str:
    """Return the first names, each in one line and cut where it is long, and how many more there are.

    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    names = list(names)
    lines = (" ".join(name.split()) for name in names[:count])
    text = ", ".join(f"{line[:max_chars]}…" if len(line) > max_chars else line for line in lines)
    return text if len(names) <= count else f"{text} and {len(names) - count:,} more"


def _check_missing(
    distinct: Iterable[str], declared: set[str], words: Sequence[str], where: Callable[[int], str]
) -> None:
    """Raise UserError for labels that are not there, unless a class is called so."""
    missing = {word for word in distinct if word.casefold() in MISSING and plain_name(word) not in declared}
    if not missing:
        return
    rows = [row for row, word in enumerate(words) if word in missing]
    first = words[rows[0]]
    others = f" (so have {few(map(where, rows[1:]))})" if len(rows) > 1 else ""
    raise UserError(
        f"label missing: {where(rows[0])} has {repr(first) if first else 'none'}{others}, expected a class; "
        f"write it, or take {len(rows):,} of the examples out"
    )


def _declared(distinct: Iterable[str], known: Known, at: _Places) -> tuple[dict[str, int], Classes]:
    """Return the places of words that tell classes the data declares; of the run's classes if it has any."""
    assert known.own_names is not None, "declared classes"
    own = [plain_name(name) for name in known.own_names]
    # Names are merged that differ in their Unicode form alone; among places each has its own.
    own = own if known.are_places else list(dict.fromkeys(own))
    by_place = known.are_places and known.asked != NAMES
    places = _by_place(distinct, own, at) if by_place else _by_name(distinct, own, at)
    reading = PLACES if by_place else NAMES
    if known.names is None:
        return places, Classes(tuple(own), reading, _note(own, reading))
    wanted = _by_name({own[place] for place in places.values()}, known.names, _Placed(places, own, at))
    places = {word: wanted[own[place]] for word, place in places.items()}
    return places, Classes(known.names, known.reading, _note(known.names, reading))


class _Placed(NamedTuple):
    """Where names stand that are told by other words."""

    places: Mapping[str, int]
    own: Sequence[str]
    at: _Places

    def of(self, name: str) -> str:
        return self.at.of(next(word for word, place in self.places.items() if self.own[place] == name))


def _found(
    distinct: Iterable[str], asked: str, at: _Places, num_words: int
) -> tuple[dict[str, int], Classes]:
    """Return the places of words of which nothing is known, and the classes they are."""
    numbers = {word: as_number(word) for word in distinct}
    if asked == PLACES:
        names: Sequence[str] = _range_of(numbers, at)
        return _by_place(distinct, names, at), Classes(tuple(names), PLACES, _note(names, PLACES))
    if asked == NAMES or not numbers or None in numbers.values():
        names = sorted({plain_name(word) for word in distinct})
        return _by_name(distinct, names, at), Classes(tuple(names), NAMES, _note(names, NAMES))
    values = sorted({number for number in numbers.values() if number is not None}, key=Decimal)
    are_whole = not any("." in value for value in values)
    if are_whole and values[0].startswith("-"):
        word = next(word for word, number in numbers.items() if number == values[0])
        raise UserError(
            f"label out of range: {at.of(word)} has {word}, expected 0 or more (below, it often marks a "
            f"missing label); where {few(values)} are classes, set config.data.labels_are={NAMES}"
        )
    note = _note_of_numbers(values, are_whole=are_whole, num_words=num_words)
    return _by_name(distinct, values, at), Classes(tuple(values), NUMBERS, note)


def _given(distinct: Iterable[str], known: Known, at: _Places) -> tuple[dict[str, int], Classes]:
    """Return the places of words among given names, as that run read its own.

    Where that is unknown (weights, and runs that did not keep it) words are names if one is a number, for
    then a number is a name too; else all of them are names, or all places.
    """
    assert known.names is not None, "given names"
    reading = known.asked or (known.reading if known.reading in (NAMES, NUMBERS) else "")
    if not reading:
        has_numbers = any(as_number(plain_name(name)) is not None for name in known.names)
        are_places = bool(set(distinct)) and all(_is_whole(word) for word in distinct)
        reading = PLACES if are_places and not has_numbers else NAMES
    find = _by_place if reading == PLACES else _by_name
    places = find(distinct, known.names, at)
    return places, Classes(known.names, known.reading, _note(known.names, reading))


def _by_name(distinct: Iterable[str], names: Sequence[str], at: "_Places | _Placed") -> dict[str, int]:
    """Return the place of the name that each word is, or of the number that it is."""
    exact = {plain_name(name): place for place, name in enumerate(names)}
    if len(exact) != len(names):
        raise UserError(f"class names repeat: {few(sorted(_repeated(names)))}; expected each name once")
    numbers: dict[str, int] = {}
    for name, place in exact.items():
        if (number := as_number(name)) is not None:
            # Two names of one number, such as 7 and 007, are told apart by their letters alone.
            numbers[number] = place if number not in numbers else -1
    places: dict[str, int] = {}
    for word in distinct:
        plain = plain_name(word)
        place = exact.get(plain, numbers.get(as_number(plain) or "", -1))
        if place < 0:
            raise _unknown(word, distinct, names, at)
        places[word] = place
    return places


def _unknown(word: str, distinct: Iterable[str], names: Sequence[str], at: "_Places | _Placed") -> UserError:
    if _is_whole(word) and tuple(names) == _numerals(len(names)):
        return _out_of_range(word, len(names), at)
    hint = ""
    if all(map(_is_whole, distinct)) and not any(as_number(name) for name in names):
        hint = f"; where the numbers are places of classes, from 0: config.data.labels_are={PLACES}"
    return UserError(
        f"label unknown: {at.of(word)} has {shown(word)}; nearest known class: {nearest(word, names)}{hint}"
    )


def _out_of_range(word: str, count: int, at: "_Places | _Placed") -> UserError:
    return UserError(
        f"label out of range: {at.of(word)} has {few([word])}, expected 0 to {count - 1} ({count} classes)"
    )


def _by_place(distinct: Iterable[str], names: Sequence[str], at: _Places) -> dict[str, int]:
    """Return the place that each word says."""
    places: dict[str, int] = {}
    for word in distinct:
        number = as_number(word)
        if number is None or "." in number:
            raise UserError(
                f"label unknown: {at.of(word)} has {shown(word)}, expected a place among the classes, 0 to "
                f"{len(names) - 1}; where labels are names, set config.data.labels_are={NAMES}"
            )
        if not 0 <= int(number) < len(names):
            raise _out_of_range(word, len(names), at)
        places[word] = int(number)
    return places


def _range_of(numbers: Mapping[str, str | None], at: _Places) -> tuple[str, ...]:
    """Return the names of places 0 to the largest.

    Raises:
        UserError: there are more than any set of classes has.
    """
    whole = {word: int(number) for word, number in numbers.items() if number and "." not in number}
    largest = max(whole, key=whole.__getitem__, default="")
    if largest and whole[largest] >= MAX_PLACES:
        raise UserError(
            f"label out of range: {at.of(largest)} has {largest}, expected places below {MAX_PLACES:,}; "
            f"numbers with gaps are names: leave config.data.labels_are empty"
        )
    return _numerals(whole[largest] + 1 if largest else 0)


def _numerals(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _is_whole(word: str) -> bool:
    number = as_number(word)
    return number is not None and "." not in number


def _repeated(names: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in map(plain_name, names) if name in seen or seen.add(name)}


def _note(names: Sequence[str], reading: str) -> str:
    """Say for people how words are read."""
    if tuple(names) == _numerals(len(names)):
        return f"labels are the numbers 0 to {len(names) - 1}"
    if reading == PLACES:
        return f"labels are places, from 0, among {counted(len(names), 'classes')}: {few(names)}"
    return f"labels are names of {counted(len(names), 'classes')}: {few(names)}"


def _note_of_numbers(values: Sequence[str], *, are_whole: bool, num_words: int) -> str:
    if tuple(values) == _numerals(len(values)):
        return _note(values, NUMBERS)
    note = f"labels are numbers, taken as names of {counted(len(values), 'classes')}: {few(values)}"
    is_continuous = not are_whole or (len(values) > MANY_NUMBERS and 2 * len(values) > num_words)
    if is_continuous:
        note += "; they look like amounts: to predict numbers, set config.task.name=regression"
    return note
