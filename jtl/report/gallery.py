"""Which examples a report shows: the mistakes a model is surest of, and some by chance."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.inputs.contract import Glimpse
from jtl.report.scores import Scored

NUM_MISTAKES, NUM_RANDOM = 18, 12
MISTAKES, RANDOM = "mistakes", "random"
# Of both together so many are explained, mistakes first.
NUM_EXPLAINED, NUM_EXPLAINED_MISTAKES = 12, 8


class Pick(NamedTuple):
    """An example to show: its place in the split, why it is there, and what is said of it."""

    row: int
    why: str
    label: str
    predicted: str
    detail: str
    is_right: bool


class Overlay(NamedTuple):
    """What a prediction hangs on: a small JPEG of the input under a map, or the tokens of a text.

    Each token stands with its share of the strongest one; below 0 it speaks against.
    """

    picture: bytes = b""
    tokens: tuple[tuple[str, float], ...] = ()


class Overlays(NamedTuple):
    """Overlays by the place of their example, the method they are made by, and why there are none ("")."""

    method: str
    found: Mapping[int, Overlay]
    why_not: str = ""


def chosen(kind: str, scored: Scored, seed: int = 0) -> list[Pick]:
    """Return the most confident mistakes, the surest first, and a random choice, for a kind of labels."""
    doubt, told = KINDS[kind](scored)
    order = np.argsort(-doubt, kind="stable")
    mistakes = [index for index in order[:NUM_MISTAKES].tolist() if doubt[index] > -np.inf]
    count = len(scored.labels)
    random = np.random.default_rng(seed).choice(count, min(NUM_RANDOM, count), replace=False)
    picked = [*((index, MISTAKES) for index in mistakes), *((index, RANDOM) for index in random.tolist())]
    return [Pick(index, why, *told(index)) for index, why in picked]


def explained(picks: Sequence[Pick]) -> list[int]:
    """Return the places of those that are explained: the surest mistakes, then the choice by chance."""
    mistakes = [pick.row for pick in picks if pick.why == MISTAKES][:NUM_EXPLAINED_MISTAKES]
    others = [pick.row for pick in picks if pick.why == RANDOM]
    return list(dict.fromkeys([*mistakes, *others]))[:NUM_EXPLAINED]


def items(
    picks: Iterable[Pick],
    describe: Callable[[int], str],
    glimpse: Callable[[int], Glimpse],
    overlays: Mapping[int, Overlay],
) -> list[dict[str, Any]]:
    """Return what gallery.json has of the examples, pictures in base64."""
    found: list[dict[str, Any]] = []
    for pick in picks:
        shown = glimpse(pick.row)
        item = {
            "index": pick.row,
            **pick._asdict(),
            "name": describe(pick.row),
            "text": shown.text,
            "size": dict(shown.size),
        }
        item["picture"] = base64.b64encode(shown.picture).decode()
        overlay = overlays.get(pick.row, Overlay())
        item["overlay"] = base64.b64encode(overlay.picture).decode()
        item["tokens"] = [list(token) for token in overlay.tokens]
        found.append(item)
    return found


# What is said of an example: label, prediction, detail, whether it is right.
Said = Callable[[int], tuple[str, str, str, bool]]


def _of_classes(scored: Scored) -> tuple[np.ndarray, Said]:
    """Return the confidence of each mistake (-inf of what is right), and what is said of an example."""
    labels, predicted = scored.labels.astype(np.int64), scored.logits.argmax(1)
    confidence = scored.predictions[np.arange(len(labels)), predicted]

    def told(index: int) -> tuple[str, str, str, bool]:
        label, name = scored.label_names[labels[index]], scored.label_names[predicted[index]]
        detail = f"{confidence[index]:.1%}"
        if labels[index] != predicted[index]:
            detail += f", {label}: {scored.predictions[index, labels[index]]:.1%}"
        return label, name, detail, bool(labels[index] == predicted[index])

    # By log odds of the two, where both probabilities are as good as 1.
    margin = scored.logits.max(1) - scored.logits[np.arange(len(labels)), labels]
    return np.where(labels == predicted, -np.inf, margin), told


def _of_several(scored: Scored) -> tuple[np.ndarray, Said]:
    """Return how far the worst label of each example is off, and what is said of an example."""
    actual, taken = scored.labels > 0.5, scored.predictions >= scored.threshold
    gaps = np.abs(scored.predictions - actual)
    worst = gaps.argmax(1)

    def named(is_on: np.ndarray) -> str:
        return ", ".join(np.asarray(scored.label_names, object)[is_on]) or "none"

    def told(index: int) -> tuple[str, str, str, bool]:
        name = scored.label_names[worst[index]]
        detail = f"furthest off: {name} {scored.predictions[index, worst[index]]:.1%}"
        is_right = bool((actual[index] == taken[index]).all())
        return named(actual[index]), named(taken[index]), detail, is_right

    return np.where((actual == taken).all(1), -np.inf, gaps.max(1)), told


def _of_numbers(scored: Scored) -> tuple[np.ndarray, Said]:
    """Return the error of each example in standard deviations of the labels, and what is said of it."""
    spread = scored.labels.std(0)
    gaps = np.abs(scored.predictions - scored.labels) / np.where(spread > 0, spread, 1.0)[None, :]

    def shown(values: np.ndarray) -> str:
        return ", ".join(f"{value:.4g}" for value in values[:5]) + (", …" if len(values) > 5 else "")

    def told(index: int) -> tuple[str, str, str, bool]:
        label, predicted = shown(scored.labels[index]), shown(scored.predictions[index])
        return label, predicted, f"off by {gaps[index].max():.2f} standard deviations", True

    return gaps.max(1), told


KINDS: dict[str, Callable[[Scored], tuple[np.ndarray, Said]]] = {
    "class": _of_classes,
    "multilabel": _of_several,
    "regression": _of_numbers,
}
