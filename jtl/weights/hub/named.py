"""What a name tells of pre-processing, where nothing else does: of a file, its folder, an architecture.

Tensors of DeiT and AugReg look alike, and expect other means and deviations. The catalogue knows how timm
calls its models; beyond it some words in names tell who trained a model. A name proves nothing, so what it
tells is marked as a guess wherever it is used.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jtl.inputs.preprocess import Preprocess
from jtl.weights.contract import TensorFile
from jtl.weights.hub import catalogue
from jtl.weights.hub.catalogue import STATISTICS, Entry

MAX_NAME_CHARS = 60


class Guess(NamedTuple):
    """Pre-processing that a name tells, and the words that say so."""

    preprocess: Preprocess
    why: str


class _Word(NamedTuple):
    """Words in a name of weights, whose pre-processing they mean: statistics, and crop over resize."""

    pattern: re.Pattern[str]
    statistics: str
    crop: float


def _word(words: str, statistics: str, crop: float) -> _Word:
    return _Word(re.compile(rf"(?<![a-z])({words})"), statistics, crop)


# In the order in which they are asked. Crops are timm's (1.0.31) for these models; all are bicubic.
WORDS: Mapping[str, tuple[_Word, ...]] = {
    "vit": (
        _word("deit_?(3|iii)|dino_?v2", "imagenet", 1.0),
        _word("deit|dino|mae|moco|ibot", "imagenet", 0.9),
        _word("clip|openai|laion|datacomp", "clip", 1.0),
        _word("augreg", "half", 0.9),
    ),
}


def guess(spec: str, file: TensorFile, family: str) -> Guess | None:
    """Return what names tell of the pre-processing of a file that brings none; None where they tell nothing.

    Asked are, one after the other, what the file calls its architecture, its own name, its folder's, and the
    spec that led to it.
    """
    for name in (*file.called, file.path.stem, file.path.parent.name, _last_parts(spec)):
        found = of_name(name, family)
        if found is not None:
            return found
    return None


def of_name(name: str, family: str) -> Guess | None:
    """Return what one name tells of a family's pre-processing; None where it tells nothing.

    >>> of_name("deit_tiny_patch16_224-a1311bcf", "vit").preprocess.mean
    (0.485, 0.456, 0.406)
    """
    text = _plain(name)
    shown = name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}…"
    entries = _entries(text, family)
    if entries:
        chosen = max(entries, key=lambda entry: _shared_words(entry, text))
        return Guess(chosen.preprocess, f"from the name {shown!r}, as {chosen.name} of `jtl weights list`")
    for word in WORDS.get(family, ()):
        if (found := word.pattern.search(text)) is not None:
            mean, std = STATISTICS[word.statistics]
            preprocess = Preprocess((224, 224), math.floor(224 / word.crop), mean, std)
            return Guess(preprocess, f"from {found[0]!r} in the name {shown!r}")
    return None


def _entries(text: str, family: str) -> list[Entry]:
    """Return the entries of the longest architecture that a text names."""
    found = [each for each in catalogue.entries().values() if each.family == family]
    named = {each.name: _plain(each.name.partition(".")[0]) for each in found}
    found = [each for each in found if _is_named(named[each.name], text)]
    longest = max((len(named[each.name]) for each in found), default=0)
    return [each for each in found if len(named[each.name]) == longest]


def _is_named(architecture: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(architecture)}(?![a-z0-9])", text) is not None


def _shared_words(entry: Entry, text: str) -> int:
    """Return how many words of the entry's training the text has."""
    words = _plain(entry.name.partition(".")[2]).split("_")
    return sum(_is_named(word, text.replace("_", " ")) for word in words if word)


def _last_parts(spec: str) -> str:
    return "/".join(Path(spec.partition("?")[0].rstrip("/")).parts[-2:])


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower())
