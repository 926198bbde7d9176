"""Which example stands at each position of training: orders, pure functions of (labels, seed, position).

They are random access, so that a run goes on at any step, and picklable, for worker processes. None draws
with replacement: by the end of a round, any two examples of a class have been drawn equally often, or one of
them once more. A round of `_Balanced` is a visit of each class, of `_Weighted` as many positions as examples.
Of `_Episodic` that holds where a visit's examples divide the class; else some are left out of a pass, others
of every one, so that none is twice in a visit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from jtl.data.contract import Source
from jtl.data.episodes import members_of
from jtl.data.shuffled import MAX_SIZE, Shuffled
from jtl.errors import UserError, nearest, shown
from jtl.ranges import INT32_MAX

UNIFORM = "uniform"
# What stands between the name of a sampling and its number, and between that and another.
NUMBER, BY = ":", "x"
EXAMPLES = ("episodic:8", "episodic:8x5")
# An episode of one class tells nothing.
MIN_WAYS = 2
# Orders of single classes that threads reading ahead find again.
NUM_DRAWN = 4096


@runtime_checkable
class Order(Protocol):
    """The example at each position, without end."""

    def __getitem__(self, position: int, /) -> int: ...


class Visit(NamedTuple):
    """So many examples of a class in a row, and so many classes an episode (0: nothing ends an episode)."""

    num_examples: int = 1
    ways: int = 0


class Sampling(NamedTuple):
    """One way to draw: `order(source, seed)`, and how often each class is drawn, from the examples it has.

    Where it `takes_visit`, as in "episodic:8x5", that is the third argument of `order`.
    """

    order: Callable[..., Order]
    counts: Callable[[np.ndarray], np.ndarray]
    takes_visit: bool = False


def order_of(source: Source, sampling: str, seed: int) -> Order:
    """Return the order that a name of `SAMPLINGS` means for the examples of a source."""
    check_source(sampling, source)
    kind, visit = _parsed(sampling)
    return kind.order(source, seed, visit) if kind.takes_visit else kind.order(source, seed)


def episode_of(sampling: str) -> Visit | None:
    """Return what the batches of a known sampling are made of, where they are whole episodes.

    >>> episode_of("episodic:6x5"), episode_of("uniform"), episode_of("episodic:6")
    (Visit(num_examples=6, ways=5), None, None)
    """
    kind, visit = _parsed(sampling)
    return visit if kind.takes_visit and visit.ways else None


def check_name(sampling: str) -> None:
    """Check that a sampling is known, and that its number is one.

    Raises:
        UserError: it is not.
    """
    name, has_number, text = sampling.partition(NUMBER)
    if name not in SAMPLINGS:
        raise UserError(f"train.sampling is {shown(sampling)}; nearest: {nearest(name, SAMPLINGS)}")
    numbers = text.split(BY)
    is_number = all(each.isascii() and each.isdigit() and 0 < int(each) <= INT32_MAX for each in numbers)
    is_visit = is_number and len(numbers) <= len(Visit._fields) and SAMPLINGS[name].takes_visit
    if has_number and not is_visit:
        raise UserError(
            f"train.sampling is {shown(sampling)}; expected {', '.join(SAMPLINGS)}, of which "
            f"{', '.join(each for each, kind in SAMPLINGS.items() if kind.takes_visit)} may have a number "
            f"behind it, such as {' or '.join(EXAMPLES)}"
        )
    if 0 < _parsed(sampling)[1].ways < MIN_WAYS:
        raise UserError(
            f"train.sampling is {shown(sampling)}, whose episodes are of one class; expected {MIN_WAYS} or "
            f"more behind the {BY!r}, such as {EXAMPLES[1]}"
        )


def check_source(sampling: str, source: Source) -> None:
    """Check that the examples have what a sampling goes by.

    Raises:
        UserError: they have not one class each, or too few classes, or of one too few, for an episode.
    """
    labels = source.labels()
    has_classes = bool(source.info.label_names) and labels is not None and labels.ndim == 1
    if sampling != UNIFORM and not has_classes:
        raise UserError(
            f"train.sampling is {sampling!r}, but the examples of {source.info.name} have not one class "
            f"each; expected train.sampling={UNIFORM} where they have several labels, or numbers"
        )
    kind, visit = _parsed(sampling)
    if kind.takes_visit:
        assert labels is not None, "there are classes"
        _check_visit(sampling, visit, np.bincount(labels), source.info.label_names)


def _check_visit(sampling: str, visit: Visit, counts: np.ndarray, names: tuple[str, ...]) -> None:
    """Raise UserError unless all episodes can be made of different classes, and of different examples."""
    least, found = max(visit.ways, MIN_WAYS), int(np.count_nonzero(counts))
    if found < least:
        raise UserError(
            f"train.sampling is {sampling!r}, whose episodes are of {least} classes or more, and there are "
            f"training examples of {found}; give more classes{', or lower it' if visit.ways else ''}"
        )
    few = int(np.where(counts > 0, counts, INT32_MAX).argmin())
    if counts[few] < visit.num_examples:
        raise UserError(
            f"train.sampling is {sampling!r}, which draws {visit.num_examples} examples of a class, and "
            f"{names[few]!r} has {counts[few]} for training; lower it, or leave the class out"
        )


def drawn_counts(sampling: str, counts: Int[np.ndarray, " classes"]) -> Int[np.ndarray, " classes"]:
    """Return how often each class is drawn, as a ratio in whole numbers.

    >>> drawn_counts("square_root", np.array([64, 16, 4, 0])).tolist()
    [48, 24, 12, 0]
    >>> drawn_counts("class_balanced", np.array([64, 16, 4, 0])).tolist()
    [1, 1, 1, 0]
    """
    return _parsed(sampling)[0].counts(counts)


def _uniform(source: Source, seed: int) -> Order:
    return _permuted(len(source), seed)


def _class_balanced(source: Source, seed: int) -> Order:
    members = _members(source)
    cycle = np.random.default_rng(seed).permutation(len(members))
    return _Balanced(tuple(members[each] for each in cycle), _orders(members, cycle, seed))


def _square_root(source: Source, seed: int) -> Order:
    members = _members(source)
    counts = _square_root_counts(np.array([len(each) for each in members]))
    classes = np.repeat(np.arange(len(members)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    orders = _orders(members, np.arange(len(members)), seed)
    return _Weighted(tuple(members), orders, counts, classes, ranks, _permuted(len(classes), seed))


def _parsed(sampling: str) -> tuple[Sampling, Visit]:
    name, _, text = sampling.partition(NUMBER)
    return SAMPLINGS[name], Visit(*map(int, text.split(BY))) if text else Visit()


def _episodic(source: Source, seed: int, visit: Visit) -> Order:
    members = _members(source)
    return _Episodic(tuple(members), tuple(_seeds(members, seed)), _permuted(len(members), seed), visit)


@dataclass(frozen=True)
class _Episodic:
    """The classes in turn, each with `visit.num_examples` of its own in a row, in another order every round.

    Of a round with `visit.ways` that many classes are an episode, and what is left of them waits for another
    round: no episode has a class twice. Without, a batch in which a round ends may. The examples of a visit
    differ: of a class whose number they do not divide, others are left out every time it has been gone
    through.
    """

    members: tuple[np.ndarray, ...]
    seeds: tuple[int, ...]
    classes: Any
    visit: Visit

    def __getitem__(self, position: int) -> int:
        count, ways = self.visit
        num_classes = len(self.members)
        turn, place = divmod(position, count)
        round_number, slot = divmod(turn, num_classes // ways * ways if ways else num_classes)
        each = int(self.classes[round_number * num_classes + slot])
        size = len(self.members[each])
        passed, visit = divmod(round_number, size // count)
        return int(self.members[each][_drawn(size, self.seeds[each], passed)[visit * count + place]])


@dataclass(frozen=True)
class _Balanced:
    """The classes in turn, always in the same order: any `len(members)` positions in a row have each once."""

    members: tuple[np.ndarray, ...]
    orders: tuple[Any, ...]

    def __getitem__(self, position: int) -> int:
        visit, place = divmod(position, len(self.members))
        return int(self.members[place][self.orders[place][visit]])


@dataclass(frozen=True)
class _Weighted:
    """Rounds of as many positions as there are examples, in each of which class c has `counts[c]`.

    Slot s of a round is the visit number `ranks[s]` of class `classes[s]`; `shuffled` orders the slots anew
    every round.
    """

    members: tuple[np.ndarray, ...]
    orders: tuple[Any, ...]
    counts: np.ndarray
    classes: np.ndarray
    ranks: np.ndarray
    shuffled: Any

    def __getitem__(self, position: int) -> int:
        slot = self.shuffled[position]
        place = self.classes[slot]
        visit = position // len(self.classes) * int(self.counts[place]) + int(self.ranks[slot])
        return int(self.members[place][self.orders[place][visit]])


def _members(source: Source) -> list[np.ndarray]:
    """Return the examples of every class that has any."""
    labels = source.labels()
    assert labels is not None, "only classes are balanced"
    return members_of(labels)


def _orders(members: list[np.ndarray], places: np.ndarray, seed: int) -> tuple[Any, ...]:
    """Return an endless order of each class's own examples, in the order of `places`."""
    # Grain adds the number of the epoch to the seed: neighbouring seeds would give the same orders, shifted.
    seeds = _seeds(members, seed)
    return tuple(_permuted(len(members[place]), seeds[place]) for place in places)


def _seeds(members: list[np.ndarray], seed: int) -> list[int]:
    """Return a seed for each class."""
    return np.random.SeedSequence([seed, len(members)]).generate_state(len(members)).tolist()


@lru_cache(maxsize=NUM_DRAWN)
def _drawn(size: int, seed: int, number: int) -> np.ndarray:
    """Return a permutation of few examples, each used for a visit or two: 10 us, where Grain's takes 7 ms."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64))).permutation(size)


def _permuted(size: int, seed: int) -> Any:
    if size <= MAX_SIZE:
        return Shuffled(size, seed)
    from grain import MapDataset

    return MapDataset.range(size).shuffle(seed=seed).repeat()


def _same(counts: np.ndarray) -> np.ndarray:
    return counts


def _once(counts: np.ndarray) -> np.ndarray:
    return np.minimum(counts, 1)


def _square_root_counts(counts: np.ndarray) -> np.ndarray:
    """Return as many in all, in the ratio of their square roots, by largest remainders.

    A class with examples has a share of one or more, since no count is below its square root.
    """
    shares = np.sqrt(counts) / np.sqrt(counts).sum() * counts.sum()
    whole = np.floor(shares).astype(np.int64)
    missing = int(counts.sum() - whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole


SAMPLINGS: dict[str, Sampling] = {
    UNIFORM: Sampling(_uniform, _same),
    "class_balanced": Sampling(_class_balanced, _once),
    "square_root": Sampling(_square_root, _square_root_counts),
    "episodic": Sampling(_episodic, _once, takes_visit=True),
}
