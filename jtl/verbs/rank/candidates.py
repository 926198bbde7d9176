"""What `jtl rank` ranks: weights, each with settings of its own, written as SPEC[:SECTION.NAME=VALUE[;…]]."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jtl.errors import UserError, nearest, shown
from jtl.verbs.contract import Overrides

if TYPE_CHECKING:
    import jtl.predictor

# A short choice of the catalogue and the hub, by what the data holds.
CATALOGUES: dict[str, dict[str, tuple[str, ...]]] = {
    "small": {
        "image": (
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            "vit_small_patch16_224.augreg_in21k_ft_in1k",
            "vit_small_patch16_224.dino",
            "deit3_small_patch16_224.fb_in22k_ft_in1k",
            "resnet18.a1_in1k",
            "resnet50.a1_in1k",
            "convnext_tiny.fb_in22k_ft_in1k",
        ),
        "text": (
            "hf://sentence-transformers/all-MiniLM-L6-v2",
            "hf://intfloat/multilingual-e5-small",
            "hf://distilbert/distilbert-base-uncased",
        ),
    },
}
SETTINGS = re.compile(r"^(?P<spec>.+?):(?P<settings>[a-z_]+\.[a-z_.]+=.*)$", re.DOTALL)
# Settings of what is asked, which all candidates share; the others are of how a candidate is read.
SHARED = ("data.", "task.", "train.", "strategy.", "optim.", "augment.")


class Candidate(NamedTuple):
    """Weights to rank: what they are called, their spec, and the settings that are theirs alone."""

    label: str
    spec: str
    overrides: tuple[tuple[str, str], ...] = ()


def read(specs: Sequence[str], catalogue: str, data: str) -> list[Candidate]:
    """Return the candidates in order: those listed, then those of the catalogue.

    Raises:
        UserError: one is malformed or listed twice, or there is none.
    """
    found = [_parsed(each) for each in (*specs, *_of_catalogue(catalogue, data))]
    if not found:
        raise UserError(
            f"there is nothing to rank; give --weights SPEC …, or --catalogue {next(iter(CATALOGUES))}"
        )
    for each in found:
        if sum((each.spec, each.overrides) == (other.spec, other.overrides) for other in found) > 1:
            raise UserError(f"{each.spec!r} is listed twice; expected each weights once")
    short = [_short(each.spec) for each in found]
    return [
        each._replace(label=name if short.count(name) == 1 else _whole(each))
        for each, name in zip(found, short, strict=True)
    ]


def _of_catalogue(name: str, data: str) -> tuple[str, ...]:
    from jtl.data import SOURCES, tell

    if not name:
        return ()
    if name not in CATALOGUES:
        raise UserError(f"--catalogue is {shown(name)}; nearest: {nearest(name, CATALOGUES)}")
    holds = SOURCES[tell.kind_of(data)].holds
    if holds not in CATALOGUES[name]:
        raise UserError(
            f"{data!r} may hold images or texts, so that --catalogue {name} does not say which weights; list "
            f"them by --weights"
        )
    return CATALOGUES[name][holds]


def _parsed(text: str) -> Candidate:
    from jtl.verbs.compare.variants import split

    found = SETTINGS.match(text)
    if found is None:
        return Candidate("", text)
    settings = tuple(_setting(each, text) for each in split(found["settings"], ";"))
    return Candidate("", found["spec"], settings)


def _setting(text: str, spec: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    if not value or "." not in name:
        raise UserError(
            f"{spec!r} has the setting {text!r}; expected SPEC:SECTION.NAME=VALUE;…, such as "
            f"mine.safetensors:model.padding=same"
        )
    if name.startswith(SHARED):
        raise UserError(
            f"{spec!r} sets {name}, which all that are ranked share; give --config.{name}={value} instead"
        )
    return name, value


def _short(spec: str) -> str:
    return spec.rstrip("/").rpartition("/")[2] or spec


def _whole(each: Candidate) -> str:
    return ";".join([each.spec, *(f"{name}={value}" for name, value in each.overrides)])


def opened(each: Candidate, data: str, overrides: Overrides) -> "jtl.predictor.Predictor":
    """Open a candidate with the head that it came with, if it has one.

    Raises:
        UserError: it is of no model jtl knows, cannot be had, or a setting does not fit it.
    """
    from jtl import predictor
    from jtl.training import build, config

    own = [*(pair for pair in overrides if not pair[0].startswith(SHARED)), *each.overrides]
    found = predictor.of_weights(each.spec, config.weights_of(own), needs_head=False)
    settings = config.with_overrides(build.with_data(found.settings, data), own)
    has_head = bool(found.stats.label_names)
    return predictor.open(found._replace(settings=settings), has_head=has_head)
