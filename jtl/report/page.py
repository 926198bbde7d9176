"""report.html: what was trained on what, how well it does, and what it gets wrong; one file, no network.

`sections` has what each part shows. A part whose numbers a run does not have is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.files import replace_text
from jtl.report import examples, folder, sections, side_by_side
from jtl.report.folder import FACTS, GALLERY, Folder
from jtl.report.html import Markup, document, element, together

__all__ = ["FACTS", "GALLERY", "NAME", "compared", "of_run", "write"]

NAME = "report.html"


def write(path: Path, summary: Mapping[str, Any] | None = None) -> Path:
    """Write the report of a run folder into it, and return its path; `summary` is as `folder.read` has it.

    Raises:
        UserError: it is no run folder, or a file of it is damaged.
    """
    found = folder.read(path, None if summary is None else dict(summary))
    replace_text(path / NAME, of_run(found))
    return path / NAME


def of_run(found: Folder) -> str:
    """Return the page of one run."""
    return document(found.name, element("main", *_parts(found), sections.footer(found)))


def compared(runs: Sequence[Folder]) -> str:
    """Return the page of several runs side by side, and below it what each says by itself."""
    runs = folder.told_apart(runs)
    each = [
        element("details", element("summary", found.name), *_parts(found, is_alone=False), class_="run")
        for found in runs
    ]
    body = element(
        "main", *side_by_side.parts(runs), element("h2", "Each run"), *each, sections.footer(runs[0])
    )
    return document(" · ".join(found.name for found in runs), body)


def _parts(found: Folder, *, is_alone: bool = True) -> list[Markup]:
    parts = [
        sections.head(found) if is_alone else None,
        sections.tiles(found),
        sections.results(found),
        sections.curves(found),
        *(part for split in found.splits for part in _of_split(found, split)),
        sections.data(found),
        sections.model(found),
        sections.speed(found),
        sections.notes(found),
        sections.settings(found),
    ]
    return [part for part in parts if part]


def _of_split(found: Folder, name: str) -> list[Markup]:
    split = found.splits[name]
    parts = [
        examples.classes(split, found.facts.get("data", {})),
        examples.points(split),
        examples.confusions(split),
        examples.calibration(split),
        examples.gallery(split, "mistakes", found.facts),
        examples.gallery(split, "random", found.facts),
    ]
    kept = [part for part in parts if part]
    return [element("h2", f"On {name}"), together(*kept)] if kept else []
