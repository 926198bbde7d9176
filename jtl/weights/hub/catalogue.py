"""Well-known public weights by name: where they are, what they expect, their licence and their accuracy.

The table is assets/catalogue.tsv; jtl ships none of the weights. Names, pre-processing, licences and sizes
are those of timm 1.0.31 and of the repositories; top-1 is on ImageNet's validation set at the input size
shown, from timm's results/results-imagenet.csv (zero-shot: open_clip's docs/openclip_results.csv).
"""

import csv
import importlib.resources
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jtl.inputs.preprocess import Preprocess

STATISTICS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class Entry(NamedTuple):
    """One set of weights; `millions` counts parameters, `top1` is in percent, None where there is none."""

    name: str
    spec: str
    family: str
    size: str
    preprocess: Preprocess
    licence: str
    millions: float
    top1: float | None
    trained_on: str


def spec_of(spec: str) -> str:
    """Return where the weights of a catalogue's name are; other specs, and paths that exist, as they are."""
    is_name = spec in entries() and not Path(spec).exists()
    return entries()[spec].spec if is_name else spec


@cache
def entries() -> dict[str, Entry]:
    """Return the catalogue by name, in its order."""
    path = importlib.resources.files("jtl") / "assets" / "catalogue.tsv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return {row["name"]: _entry(row) for row in rows}


def _entry(row: dict[str, str]) -> Entry:
    image_px = int(row["image_px"])
    mean, std = STATISTICS[row["statistics"]]
    return Entry(
        name=row["name"],
        spec=row["spec"],
        family=row["family"],
        size=row["size"],
        preprocess=Preprocess(
            (image_px, image_px), int(row["resize_px"]), mean, std, interpolation=row["interpolation"]
        ),
        licence=row["licence"],
        millions=float(row["millions"]),
        top1=float(row["top1"]) if row["top1"] else None,
        trained_on=row["trained_on"],
    )


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as plain values."""
    return {**entry._asdict(), "preprocess": asdict(entry.preprocess)}


def rows() -> list[list[str]]:
    """Return the catalogue as a table for people, with headings."""
    heading = ["name", "family", "size", "input", "M params", "top-1 %", "licence", "trained on", "origin"]
    return [heading, *(_row(entry) for entry in entries().values())]


def _row(entry: Entry) -> list[str]:
    top1 = "-" if entry.top1 is None else f"{entry.top1:.1f}"
    crop = entry.preprocess
    taken = f"{crop.image_px[0]} px of {crop.resize_px or crop.image_px[0]}, {crop.interpolation}"
    facts = [entry.name, entry.family, entry.size, taken, f"{entry.millions:.1f}", top1]
    return [*facts, entry.licence, entry.trained_on, entry.spec.rpartition("/")[0]]
