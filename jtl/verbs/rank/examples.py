"""The examples that candidates are ranked on: one split, thinned where it is large, and its labels."""

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from jtl.errors import UserError, counted, nearest
from jtl.verbs.contract import Overrides

if TYPE_CHECKING:
    import numpy as np

    import jtl.data
    import jtl.predictor

MIN_FOLDS = 2
SPLITS_BY_PREFERENCE = ("train", "val", "test")


class Examples(NamedTuple):
    """What is ranked on.

    `labels` are classes 0, 1, … each of which has an example, or numbers [n v] of spread; `label_kind` is the
    task's. `class_names` are in their order. `facts` are what the kind of input found of the examples.
    """

    source: "jtl.data.Source"
    split: str
    labels: "np.ndarray"
    label_kind: str
    class_names: tuple[str, ...]
    facts: list[Any]
    notes: tuple[str, ...]


class Sample(NamedTuple):
    """Which examples are asked for: the split ("": training, else what there is), and how many (0: all)."""

    split: str = ""
    num_examples: int = 0


def examples(
    opened: "jtl.predictor.Predictor", data: str, asked: Sample, overrides: Overrides, least: int
) -> Examples:
    """Open and check the data as the first candidate reads it; every class needs `least` examples.

    Raises:
        UserError: it has no labels of one kind or the other, or too few of them.
    """
    from jtl.data import preflight
    from jtl.tasks import TASKS
    from jtl.training import build, config

    shared = [pair for pair in overrides if pair[0].startswith(("data.", "task."))]
    settings = config.with_overrides(build.with_data(opened.settings, data), shared)
    kind = TASKS[settings.task.name].label_kind
    _check_kind(kind, settings.task.name)
    splits = build.open_splits(settings)
    split = _split(asked.split, splits)
    source, notes = thinned(splits[split], asked.num_examples, least)
    checked = preflight.inspect({split: source}, settings.data, config.input_of(settings.model))
    source = checked.splits[split]
    said = (*checked.lines, *notes)
    sys.stderr.write("".join(f"{line}\n" for line in said))
    labels, names = _labels(source, data, least)
    return Examples(source, split, labels, kind, names, checked.facts, said)


def _check_kind(kind: str, task: str) -> None:
    from jtl.ranking import OF_LAYERS

    if kind not in OF_LAYERS:
        raise UserError(
            f"task.name is {task!r}, whose labels are of kind {kind!r}; expected one class an example, or "
            f"numbers: task.name=multiclass or regression"
        )


def _split(name: str, splits: "dict[str, jtl.data.Source]") -> str:
    if name and name not in splits:
        raise UserError(f"--split {name!r} is not in the data; nearest: {nearest(name, splits)}")
    return name or next(each for each in SPLITS_BY_PREFERENCE if each in splits)


def thinned(source: "jtl.data.Source", count: int, least: int) -> "tuple[jtl.data.Source, tuple[str, ...]]":
    """Return about `count` examples (0: all), evenly spaced in each class, `least` or more; and a line."""
    import numpy as np

    from jtl.data.labels import strata
    from jtl.data.subset import Subset

    labels = source.labels()
    if not count or len(source) <= count or labels is None:
        return source, ()
    groups = strata(labels, source.info.label_names)
    chosen = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        wanted = min(len(rows), max(least, round(count * len(rows) / len(source))))
        chosen.append(rows[np.linspace(0, len(rows) - 1, wanted).round().astype(np.int64)])
    rows = np.sort(np.concatenate(chosen))
    of = f"{len(rows):,} of {len(source):,} examples"
    line = f"{of} are looked at, in the ratio of the classes; --examples 0: all"
    return Subset(source, rows), (line,)


def _labels(source: "jtl.data.Source", data: str, least: int) -> "tuple[np.ndarray, tuple[str, ...]]":
    """Return the labels, of classes that have examples, and their names."""
    import numpy as np

    found = source.labels()
    if found is None:
        raise UserError(f"{data!r} has no labels; expected a class or numbers for every example")
    if found.ndim == 2:
        spread = found.std(axis=0)
        if len(found) < least or not spread.all():
            raise UserError(
                f"{data!r} has {counted(len(found), 'examples')}, whose numbers spread by "
                f"{spread.min():g}; expected {least} or more that differ"
            )
        return found.astype(np.float64), ()
    present, labels = np.unique(found, return_inverse=True)
    names = tuple(source.info.label_names[place] for place in present.tolist())
    if len(present) < 2:
        raise UserError(f"{data!r} has the class {names[0]!r} alone; expected two or more to tell apart")
    counts = np.bincount(labels)
    if counts.min() < least:
        few = names[int(counts.argmin())]
        raise UserError(
            f"class {few!r} has {counted(int(counts.min()), 'examples')} and {least} are needed of each; add "
            f"some, or lower --folds"
        )
    return labels.astype(np.int64), names
