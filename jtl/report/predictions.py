"""What a model said of every example of an evaluation, a row each, as CSV or Parquet."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.files import replaced
from jtl.report.scores import Scored

# The file that a run keeps them in, in the folder of each split.
NAME = "predictions.parquet"
# Up to here each class has a column with its probability.
MAX_CLASSES = 100

Columns = dict[str, Sequence[Any]]


def columns(kind: str, scored: Scored, examples: Iterable[str]) -> Columns:
    """Return the table of a split whose labels are of a kind; `examples` name them in their order."""
    return {"example": list(examples), **KINDS[kind](scored)}


def write(path: Path, found: Columns) -> None:
    """Write the table in the form that the path's ending says; a reader finds the old file or the new one."""
    with replaced(path) as part:
        WRITERS[path.suffix.lower()](part, found)


def _of_classes(scored: Scored) -> Columns:
    names, every = np.asarray(scored.label_names, object), np.arange(len(scored.labels))
    labels, predicted = scored.labels.astype(np.int64), scored.logits.argmax(1)
    return {
        "label": names[labels].tolist(),
        "predicted": names[predicted].tolist(),
        "is_right": (labels == predicted).tolist(),
        "probability": scored.predictions[every, predicted].tolist(),
        "label_probability": scored.predictions[every, labels].tolist(),
        **_probabilities(scored),
    }


def _of_several(scored: Scored) -> Columns:
    names = np.asarray(scored.label_names, object)

    def named(is_on: np.ndarray) -> list[str]:
        return [";".join(names[row]) for row in is_on]

    return {
        "label": named(scored.labels > 0.5),
        "predicted": named(scored.predictions >= scored.threshold),
        **_probabilities(scored),
    }


def _of_numbers(scored: Scored) -> Columns:
    found: Columns = {}
    for place, name in enumerate(scored.label_names):
        found[f"label {name}"] = scored.labels[:, place].tolist()
        found[f"predicted {name}"] = scored.predictions[:, place].tolist()
    return found


def _probabilities(scored: Scored) -> Mapping[str, list[float]]:
    if len(scored.label_names) > MAX_CLASSES:
        return {}
    return {
        f"probability of {name}": scored.predictions[:, place].tolist()
        for place, name in enumerate(scored.label_names)
    }


def _csv(path: Path, found: Columns) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(found)
        writer.writerows(zip(*found.values(), strict=True))


def _parquet(path: Path, found: Columns) -> None:
    import pyarrow
    import pyarrow.parquet

    # Names of files need not be Unicode.
    whole = {
        name.encode(errors="backslashreplace").decode(): [
            each.encode(errors="backslashreplace").decode() if isinstance(each, str) else each
            for each in values
        ]
        for name, values in found.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(whole), path)


KINDS: dict[str, Callable[[Scored], Columns]] = {
    "class": _of_classes,
    "multilabel": _of_several,
    "regression": _of_numbers,
}
WRITERS: dict[str, Callable[[Path, Columns], None]] = {".csv": _csv, ".parquet": _parquet}
