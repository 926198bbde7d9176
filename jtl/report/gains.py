"""By how much a run tells the examples of a split better than another: a paired bootstrap over them.

Both runs are measured on the very same sets drawn, so what makes an example hard falls out of the difference,
and its interval is narrower than those of the two numbers (Efron and Tibshirani 1993, ch. 16). It says what
other examples would change, and nothing of other seeds: those are `jtl compare`'s.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jtl.errors import UserError
from jtl.report import bootstrap, predictions
from jtl.report.bootstrap import Interval, Settings
from jtl.report.scores import told_right

# Only what has one class an example has all of these columns.
COLUMNS = ("example", "label", "predicted", "is_right")


class Told(NamedTuple):
    """What a run says of each example of a split, and what is true."""

    examples: list[str]
    labels: list[str]
    predicted: list[str]


def read(split: Path) -> Told | None:
    """Return what the folder of a split keeps of its predictions; None where these are none of classes.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    path = split / predictions.NAME
    if not path.is_file():
        return None
    try:
        with parquet.ParquetFile(path) as file:
            if not set(COLUMNS) <= set(file.schema_arrow.names):
                return None
            found = file.read(list(COLUMNS[:3]))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); restore it, or remove it") from error
    return Told(*(column.to_pylist() for column in found.columns))


def over(ours: Told, theirs: Told, settings: Settings) -> dict[str, Interval] | None:
    """Return by how much each share told right is larger; None where they are not of the same examples."""
    if (ours.examples, ours.labels) != (theirs.examples, theirs.labels) or not ours.examples:
        return None
    names, places = np.unique([*ours.labels, *ours.predicted, *theirs.predicted], return_inverse=True)
    labels, own, other = places.reshape(3, -1)
    first, second = (told_right(labels, each, len(names)) for each in (own, other))

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        reference = second(weights)
        found = first(weights).items()
        return {name: value - reference[name] for name, value in found if value.ndim == 1}

    return bootstrap.intervals(statistic, len(labels), settings)
