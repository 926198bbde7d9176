"""What became of every source tensor and every model leaf: rows for machines, a short text for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LOADED, RESAMPLED, NEW, LEFT_OUT = "loaded", "resampled", "re-initialised", "left out"
MAX_NAMES = 4


class ReportRow(NamedTuple):
    """One fact: `source` ("" for a fresh leaf) filled `targets` (none where it was left out).

    `shape` is the source's, or the leaf's where there is no source; `num_values` counts its scalars, `dtype`
    is the file's own; `note` says how or why.
    """

    status: str
    source: str
    targets: tuple[str, ...]
    shape: tuple[int, ...]
    num_values: int
    dtype: str
    note: str = ""


class LoadReport(NamedTuple):
    """Every source tensor and every model leaf, each in exactly one row.

    `notes` say what was decided about the file's names.
    """

    source: str
    origin: str
    rows: tuple[ReportRow, ...]
    notes: tuple[str, ...] = ()

    def of(self, status: str) -> tuple[ReportRow, ...]:
        """Return the rows with that status."""
        return tuple(row for row in self.rows if row.status == status)

    def text(self) -> str:
        """Return the report for people, a line a group."""
        loaded = self.of(LOADED)
        num_values = sum(row.num_values for row in loaded)
        dtypes = sorted({row.dtype for row in loaded} - {"float32"})
        lines = [
            f"weights: {self.source} ({self.origin})",
            *(f"  {note}" for note in self.notes),
            f"  loaded {_plural(len(loaded), 'tensor')}, {_compact(num_values)} values"
            + (f" ({', '.join(dtypes)} -> float32)" if dtypes else ""),
            *(f"    {row.source}: {row.note}" for row in loaded if row.note),
        ]
        for status in (RESAMPLED, NEW):
            if rows := self.of(status):
                lines.append(f"  {status} {len(rows)}: {shorten(map(_described, rows), MAX_NAMES)}")
        lines += [f"  {line}" for line in left_out({row.source: row.note for row in self.of(LEFT_OUT)})]
        return "\n".join(lines)

    def remarks(self) -> list[str]:
        """Return what was decided for the user: about names, what is left out, what was resampled."""
        found = [*self.notes, *left_out({row.source: row.note for row in self.of(LEFT_OUT)})]
        if rows := self.of(RESAMPLED):
            found.append(f"{RESAMPLED} {len(rows)}: {shorten(map(_described, rows), MAX_NAMES)}")
        return [f"weights: {line}" for line in found]


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Return what was left out (name → reason), a line a reason.

    >>> left_out({"a": "counter", "b": "counter"})
    ['left out 2 (counter): a, b']
    """
    lines = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, each in reasons.items() if each == reason]
        lines.append(f"{LEFT_OUT} {len(names)} ({reason}): {shorten(names, MAX_NAMES)}")
    return lines


def shorten(texts: Iterable[Any], count: int) -> str:
    """Return the first texts, comma-separated, and how many more there are.

    >>> shorten("abcd", 2)
    'a, b, … 2 more'
    """
    texts = [str(each) for each in texts]
    more = [f"… {len(texts) - count} more"] if len(texts) > count else []
    return ", ".join(texts[:count] + more)


def counted(groups: Mapping[str, Sequence[str]], count: int) -> str:
    """Return how many names each group that is not empty has, and the first of them.

    >>> counted({"do not fit": "abcd", "have no place": ""}, 2)
    '4 do not fit: a, b, … 2 more'
    """
    return "; ".join(
        f"{len(names)} {what}: {shorten(names, count)}" for what, names in groups.items() if names
    )


def _described(row: ReportRow) -> str:
    name = row.source or ", ".join(target.removeprefix("params/") for target in row.targets)
    return f"{name} {row.note or row.shape}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _compact(count: int) -> str:
    """Return a count with a unit people read.

    >>> _compact(5_717_416), _compact(192)
    ('5.72 M', '192')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
