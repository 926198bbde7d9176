"""What a finished run folder says, for pages about it: its JSON files as they are, nothing computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl import files
from jtl.report import curves, writer
from jtl.report.curves import Series

# What the report shows that no other file says; the examples that it shows of a split.
FACTS, GALLERY = "report.json", "gallery.json"
# What jtl compare writes above its runs, which lie in OUT/VARIANT/seed0.
COMPARISON = "compare.json"
SPLIT_ORDER = ("test", "val")


class Split(NamedTuple):
    """What is known of a split: its metrics.json, and the examples to show."""

    metrics: dict[str, Any]
    gallery: list[dict[str, Any]]


class Folder(NamedTuple):
    """A run: what its files say, {} where one is missing; `splits` with the one that counts first.

    `called` is what it is called beside others ("": by the folder's own name).
    """

    path: Path
    config: dict[str, Any]
    meta: dict[str, Any]
    summary: dict[str, Any]
    facts: dict[str, Any]
    series: Series
    splits: dict[str, Split]
    called: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.called or self.path.resolve().name


def read(path: Path, summary: dict[str, Any] | None = None) -> Folder:
    """Return what a run folder says; `summary` is what summary.json is going to say, where it is not yet.

    Raises:
        UserError: it is no run folder, or a file is damaged.
    """
    config = files.read_record(path / "config.json").values
    if summary is None:
        summary = files.read_record(path / "summary.json").values
    splits = {
        found.name: Split(_object(found / "metrics.json"), _list(found / GALLERY))
        for found in sorted(path.iterdir(), key=lambda each: (each.name not in SPLIT_ORDER, each.name))
        if (found / "metrics.json").is_file()
    }
    metrics = path / writer.FILE_NAME
    return Folder(
        path=path,
        config=config,
        meta=_object(path / "meta.json"),
        summary=summary,
        facts=_object(path / FACTS),
        series=curves.read(metrics) if metrics.is_file() else {},
        splits=splits,
    )


def told_apart(runs: Sequence[Folder]) -> list[Folder]:
    """Return the runs called by as many of the last parts of their paths as tell them apart: full/seed0."""
    parts = [run.path.resolve().parts for run in runs]
    longest = max(map(len, parts), default=1)
    names = [["/".join(each[-count:]) for each in parts] for count in range(1, longest + 1)]
    chosen = next((each for each in names if len(set(each)) == len(runs)), names[0] if names else [])
    return [run._replace(called=name) for run, name in zip(runs, chosen, strict=True)]


def comparison(runs: Sequence[Folder]) -> dict[str, Any]:
    """Return what `jtl compare` wrote of the runs, {} where they are not all of one comparison.

    Raises:
        UserError: the file is damaged.
    """
    above = {run.path.resolve().parent.parent for run in runs}
    return _object(above.pop() / COMPARISON) if len(above) == 1 else {}


def _object(path: Path) -> dict[str, Any]:
    return files.read_record(path).values if path.is_file() else {}


def _list(path: Path) -> list[dict[str, Any]]:
    found = files.read_json(path) if path.is_file() else []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
