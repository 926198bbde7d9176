"""What `jtl train DATA` starts from, and what of it trains, where nobody says.

Of the weights that are at hand, those whose features suit the data best (`jtl rank`); by the number of
labels, as much of them as it takes.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jtl.errors import UserError
from jtl.verbs.contract import Overrides
from jtl.verbs.subject import STRATEGY, WEIGHTS

if TYPE_CHECKING:
    from jtl.models import Model

# As runs keep it (see `claim`), which is imported late.
CHOSEN = "chosen: "
EMBEDDED = "embedded://vit_mini"
# So many examples are looked at to rank, and so many weights: a choice takes less than what it is for.
NUM_EXAMPLES, MOST_WEIGHTS = 200, 6
# Up to so many labels a strategy (docs/tune.md says by which tables); with more, everything trains.
BY_LABELS = ((10_000, "lora"),)
# Fewer labels of a class than this move nothing but the head.
FEW_A_CLASS, OF_FEW = 5, "probe"
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".th", ".bin")


class Choice(NamedTuple):
    """Weights and strategy, and a line each for what was decided and why."""

    weights: str
    strategy: str
    lines: tuple[str, ...]


def chosen(data: str, strategy: str, folder: str, overrides: Overrides, say: Callable[[str], None]) -> Choice:
    """Choose weights for data, and a strategy where none is given; `folder` has weights to choose among, too.

    Raises:
        UserError: the data may hold images or texts, or cannot be opened.
    """
    holds = _holds(data)
    known = at_hand(holds, folder)
    if not known:
        weights = WEIGHTS[holds]
        why = f"{CHOSEN}{weights}, which is fetched: no weights for {holds}s are at hand to choose among"
        lines = [why]
    elif len(known) == 1:
        weights = known[0]
        lines = [f"{CHOSEN}{weights}, the only weights for {holds}s at hand"]
    else:
        say(f"no --weights are given: {len(known)} that are at hand are ranked, by {NUM_EXAMPLES} examples")
        weights, why = _ranked(data, known, overrides)
        lines = [
            f"{CHOSEN}{weights}, the first of {len(known)} at hand ({', '.join(known)})",
            f"{CHOSEN}{why}",
        ]
    if strategy:
        return Choice(weights, strategy, tuple(lines))
    strategy, why = _by_labels(data, weights, overrides)
    return Choice(weights, strategy, (*lines, f"{CHOSEN}strategy {strategy}: {why}"))


def at_hand(holds: str, folder: str) -> list[str]:
    """Return the weights on this machine: files of the folder, and what was fetched of the catalogue.

    Beside others those that jtl brings along, which are small. Large models come last, and no more than
    `MOST_WEIGHTS` are taken.

    Raises:
        UserError: the folder is none, or has no weights.
    """
    given = []
    if folder:
        path = Path(folder)
        if not path.is_dir():
            raise UserError(f"--weights-in {folder!r} is no folder; expected one with files of weights")
        given = [str(each) for each in sorted(path.iterdir()) if each.suffix.lower() in SUFFIXES]
        if not given:
            raise UserError(f"--weights-in {folder!r} has no file of weights ({', '.join(SUFFIXES)})")
    found = [*given, *_fetched(holds)]
    beside = [EMBEDDED] if holds == "image" and found else []
    return [*found[: MOST_WEIGHTS - len(beside)], *beside]


def _holds(data: str) -> str:
    from jtl.data import SOURCES, tell

    holds = SOURCES[tell.kind_of(data)].holds
    if holds not in WEIGHTS:
        raise UserError(
            f"{data!r} may hold images or texts; say which by --weights, such as "
            f"{' or '.join(WEIGHTS.values())}"
        )
    return holds


def _fetched(holds: str) -> list[str]:
    """Return what of the catalogue, or of the short list, the hub's cache has, the smaller ones first."""
    from jtl.verbs.rank.candidates import CATALOGUES
    from jtl.weights.hub import catalogue, hugging_face

    entries = catalogue.entries()
    names = sorted(
        (name for name, each in entries.items() if each.top1 is not None),
        key=lambda name: entries[name].millions,
    )
    listed = names if holds == "image" else list(CATALOGUES["small"][holds])
    return [name for name in listed if hugging_face.is_cached(catalogue.spec_of(name))]


def _ranked(data: str, known: list[str], overrides: Overrides) -> tuple[str, str]:
    """Return the weights that a ranking recommends, and on what evidence."""
    from jtl.verbs.rank import rank
    from jtl.verbs.rank.examples import Sample

    own = [pair for pair in overrides if pair[0].startswith(("data.", "task."))]
    asked = Sample(num_examples=NUM_EXAMPLES)
    found = rank.run(
        data=data, weights=known, asked=asked, skips_unreadable=True, estimates=False, overrides=own
    )
    return found["recommended"], found["sentence"]


def _by_labels(data: str, weights: str, overrides: Overrides) -> tuple[str, str]:
    """Return how to transfer, by how many labels there are."""
    from jtl.models import MODELS
    from jtl.training import build, config, recipe

    values = {**recipe.values(STRATEGY, weights), "data": {"path": data}}
    settings = config.of_values(values, overrides)
    splits = build.open_splits(settings)
    source = splits.get("train") or next(iter(splits.values()))
    count, num_classes = len(source), len(source.info.label_names)
    said = f"{count:,} labels"
    if num_classes and count < FEW_A_CLASS * num_classes:
        return OF_FEW, f"{said} are fewer than {FEW_A_CLASS} of each of {num_classes} classes"
    family = MODELS[settings.model.name]
    for most, strategy in BY_LABELS:
        if count <= most and takes_adapters(family.build(family.tiny(), max(num_classes, 1))):
            return strategy, f"{said} are at most {most:,}, up to which it is not behind training everything"
        if count <= most:
            return STRATEGY, f"{said}, and {settings.model.name!r} has no layers that {strategy} adapts"
    return STRATEGY, f"{said} are more than {BY_LABELS[-1][0]:,}"


def takes_adapters(model: "Model") -> bool:
    """Return whether a model has the layers that LoRA adapts by its defaults."""
    from jtl.strategies import STRATEGIES

    patterns = STRATEGIES["lora"].Config().targets
    return all(any(re.search(pattern, name) for name in model.linear()) for pattern in patterns)
