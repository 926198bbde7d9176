"""Choosing examples by content: validation splits and smaller training sets, wherever the data lies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jtl import signals
from jtl.data.classes import few
from jtl.data.contract import IMAGE, TEXT, Config, Info, Source
from jtl.data.labels import strata
from jtl.data.rotated import rotated
from jtl.errors import UserError
from jtl.inputs import Unreadable

_READ_THREADS = 8


@dataclass(frozen=True, eq=False)
class Subset:
    """Source of the chosen examples of another source, in the order of `indices`.

    `keys` are the fingerprints of the chosen where all are known already (None: ask the source), `notes` what
    there is to say of the choice.
    """

    source: Source
    indices: np.ndarray
    keys: tuple[bytes | None, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def info(self) -> Info:
        """Its name and its classes."""
        info = self.source.info
        return info._replace(notes=(*info.notes, *self.notes))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {**self.source[int(self.indices[index])], "id": index}

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes read examples and compare none.
        return type(self), (self.source, self.indices, None, self.notes)

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        labels = self.source.labels()
        return None if labels is None else labels[self.indices]

    def describe(self, index: int) -> str:
        """Name the example as the source does."""
        return self.source.describe(int(self.indices[index]))

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        key = None if self.keys is None else self.keys[index]
        return self.source.fingerprint(int(self.indices[index]), raw) if key is None else key


def arrange(splits: dict[str, Source], config: Config) -> dict[str, Source]:
    """Apply the shared settings to freshly opened splits.

    Validation split or fold, then training subset, then classes multiplied: all that is made of a picture is
    in the split that it is in.

    Raises:
        UserError: a split is empty, too small to be split, or not of what a setting needs.
    """
    chosen = _chosen(splits, config)
    if not config.rotated_classes:
        return chosen
    return {name: rotated(source) for name, source in chosen.items()}


def _chosen(splits: dict[str, Source], config: Config) -> dict[str, Source]:
    """Return the splits with validation examples split off, and the training examples that are asked for.

    An example that cannot be read at all is left where it is, in training: whoever reads it names it.

    Raises:
        UserError: a split is empty, or too small to be split, or has a validation split beside `folds`.
    """
    for name, source in splits.items():
        if len(source) == 0:
            raise UserError(f"{source.info.name}: the {name} split has no examples")
    if "train" not in splits:
        return splits
    train = splits["train"]
    needs_split = "val" not in splits and (config.folds > 0 or config.val_fraction > 0)
    needs_subset = config.train_per_class > 0 or config.train_fraction < 1
    if config.folds and not needs_split:
        raise UserError(
            f"{train.info.name}: the data has a validation split of its own, expected none with data.folds "
            f"{config.folds}; set data.folds=0, or let data.path name the training part alone"
        )
    if not needs_split and not needs_subset:
        return splits
    found = readable_fingerprints(train)
    rows = np.asarray([row for row, key in enumerate(found) if key is not None], np.int64)
    keys = [key for key in found if key is not None]
    groups, notes = _strata(train)[rows], ()
    is_val = np.zeros(len(rows), bool)
    if needs_split:
        is_val = SPLITTERS[train.info.holds](keys, groups, config, train.info)
    is_kept = ~is_val
    if needs_subset:
        left = np.flatnonzero(is_kept)
        is_chosen, notes = _choose_train([keys[place] for place in left], groups[left], config, train.info)
        is_kept[left[~is_chosen]] = False
    unreadable = np.setdiff1d(np.arange(len(train)), rows)

    def part(chosen: np.ndarray, notes: tuple[str, ...] = ()) -> Subset:
        return Subset(train, chosen, tuple(found[row] for row in chosen.tolist()), notes)

    kept = part(np.sort(np.concatenate([rows[is_kept], unreadable])), notes)
    others = {name: source for name, source in splits.items() if name != "train"}
    return {"train": kept, **({"val": part(rows[is_val])} if needs_split else {}), **others}


def readable_fingerprints(source: Source) -> list[bytes | None]:
    """Return `source.fingerprint(i)` of every example, read in threads; None where it cannot be read."""

    def fingerprint(row: int) -> bytes | None:
        try:
            return source.fingerprint(row)
        except Unreadable:
            return None

    chunks = np.array_split(np.arange(len(source)), _READ_THREADS)
    with signals.pool(_READ_THREADS) as pool:
        parts = pool.map(lambda rows: [fingerprint(row) for row in rows.tolist()], chunks)
        return [key for part in parts for key in part]


def fingerprints(source: Source) -> list[bytes]:
    """Return `source.fingerprint(i)` of every example, read in threads."""
    chunks = np.array_split(np.arange(len(source)), _READ_THREADS)
    with signals.pool(_READ_THREADS) as pool:
        parts = pool.map(lambda rows: [source.fingerprint(row) for row in rows.tolist()], chunks)
        return [key for part in parts for key in part]


def choose_val(
    keys: Sequence[bytes], groups: Int[np.ndarray, " examples"], fraction: float
) -> Bool[np.ndarray, " examples"]:
    """Return which examples are for validation: `fraction` of the distinct keys of every group.

    Every group with two distinct keys or more gets at least one on either side. Examples with equal keys,
    even of different groups, land on the same side.
    """
    val_keys: set[bytes] = set()
    for group_keys in _members(keys, groups).values():
        count = min(max(1, round(fraction * len(group_keys))), len(group_keys) - 1)
        val_keys.update(group_keys[:count])
    return np.fromiter((key in val_keys for key in keys), bool, len(keys))


def choose_folds(
    keys: Sequence[bytes], groups: Int[np.ndarray, " examples"], folds: int
) -> Int[np.ndarray, " examples"]:
    """Return the fold of each example, such that the distinct keys of every group are spread evenly.

    The counts of any two folds differ by at most one, in every group and over all. Examples with equal keys,
    even of different groups, are of the same fold.
    """
    # Dealt out in turn, and the next group goes on where the last one ended: else fold 0 got all remainders.
    dealt = (key for group_keys in _members(keys, groups).values() for key in group_keys)
    fold_of = {key: place % folds for place, key in enumerate(dealt)}
    return np.fromiter((fold_of[key] for key in keys), np.int64, len(keys))


def _members(keys: Sequence[bytes], groups: np.ndarray) -> dict[int, list[bytes]]:
    """Return the distinct keys of every group in order; one of several groups belongs to the first."""
    group_of: dict[bytes, int] = {}
    for key, group in zip(keys, groups.tolist(), strict=True):
        group_of[key] = min(group, group_of.get(key, group))
    members: dict[int, list[bytes]] = {}
    for key, group in sorted(group_of.items()):
        members.setdefault(group, []).append(key)
    return {group: members[group] for group in sorted(members)}


def _held_out(keys: Sequence[bytes], groups: np.ndarray, config: Config, info: Info) -> np.ndarray:
    """Return which examples are for validation, as a fraction or as one of the folds.

    Raises:
        UserError: there are too few different examples.
    """
    if config.folds:
        num_distinct = len(set(keys))
        if num_distinct < config.folds:
            raise UserError(
                f"{info.name}: {num_distinct} different {info.holds}s cannot be cut into data.folds "
                f"{config.folds}; expected at most {num_distinct} folds"
            )
        return choose_folds(keys, groups, config.folds) == config.fold
    is_val = choose_val(keys, groups, config.val_fraction)
    if not is_val.any():
        raise UserError(
            f"{info.name}: no class has two different {info.holds}s, too few to split off validation "
            f"examples; add {info.holds}s, a validation split, or set data.val_fraction=0"
        )
    return is_val


def _choose_train(
    keys: Sequence[bytes], groups: np.ndarray, config: Config, info: Info
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which examples to keep, and what there is to say of it.

    A smaller choice is contained in every larger one.
    """
    if config.train_per_class and not info.label_names:
        raise UserError("data.train_per_class needs classes; for regression set data.train_fraction")
    members: dict[int, list[int]] = {}
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        members.setdefault(int(groups[row]), []).append(row)
    is_kept = np.zeros(len(keys), bool)
    for rows in members.values():
        is_kept[rows[: config.train_per_class or max(1, round(config.train_fraction * len(rows)))]] = True
    short = [
        f"{info.label_names[group] if group >= 0 else 'no class'}: {len(rows):,}"
        for group, rows in sorted(members.items())
        if len(rows) < config.train_per_class
    ]
    if not short:
        return is_kept, ()
    note = (
        f"data.train_per_class is {config.train_per_class:,}, more than {len(short):,} of {len(members):,} "
        f"classes have for training, which keep all: {few(short)}"
    )
    return is_kept, (note,)


def _strata(source: Source) -> np.ndarray:
    labels = source.labels()
    return np.zeros(len(source), np.int64) if labels is None else strata(labels, source.info.label_names)


# How validation examples are held out is a property of what a source holds: (keys, groups, config, info) →
# which examples. Pictures and texts are split by content, so that equal ones land on one side.
SPLITTERS: dict[str, Callable[[Sequence[bytes], np.ndarray, Config, Info], np.ndarray]] = {
    IMAGE: _held_out,
    TEXT: _held_out,
}
