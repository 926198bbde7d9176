"""What a model gives in Python: records of NumPy arrays and names, which print as tables."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from jtl.data.contract import IMAGE, TEXT
from jtl.errors import UserError
from jtl.explain import pictures, texts
from jtl.explain.examples import Explained
from jtl.predictor import Predictor, ranked
from jtl.report.tables import aligned
from jtl.verbs.predict import SHOWN_CHARACTERS, SHOWN_DIGITS

# Of many predictions those a table shows, and what stands between the first and the last of them.
MAX_SHOWN, GAP = 20, "…"


class Prediction(NamedTuple):
    """What is predicted of one example.

    `name` is its path, its text, or its place in what was given. `label` is the likeliest class, and `value`
    its probability; where a model predicts numbers, "" and the first. `values` [outputs] are all of them, in
    the order of the model's `label_names`. `fault` says why it could not be read; its values are then NaN.
    """

    name: str
    label: str
    value: float
    values: np.ndarray
    label_names: tuple[str, ...]
    fault: str = ""

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the likeliest classes with their probabilities; predicted numbers all, in their order."""
        rows = ranked(self.values, self.label_names, count)
        return [(row["label"], row["value"]) for row in rows]

    def __repr__(self) -> str:
        shown = self.fault or ", ".join(f"{name} {value:.{SHOWN_DIGITS}f}" for name, value in self.top(3))
        return f"{self.name}: {shown}"


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """What is predicted of examples, in the order in which they were given: a sequence of `Prediction`.

    `values` are [examples, outputs] float32: probabilities (of several classes at once each by itself), or
    the predicted numbers. `label_names` are the classes in that order, none of numbers.
    """

    names: tuple[str, ...]
    label_names: tuple[str, ...]
    values: np.ndarray
    faults: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each example; "" of those that could not be read, and of numbers."""
        return [each.label for each in self]

    @property
    def probabilities(self) -> Float[np.ndarray, "examples classes"]:
        """The probability of every class.

        Raises:
            ValueError: the model predicts numbers.
        """
        if not self.label_names:
            raise UserError("the model predicts numbers, which have no probabilities; they are in `values`")
        return self.values

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Prediction:
        index = range(len(self))[index]
        values, fault = self.values[index], self.faults[index]
        place = 0 if fault or not self.label_names else int(np.argmax(values))
        label = self.label_names[place] if self.label_names and not fault else ""
        return Prediction(self.names[index], label, float(values[place]), values, self.label_names, fault)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        header = ["example", "prediction", ""] if self.label_names else ["example", "values"]
        rows = [self._row(self[index]) if index >= 0 else [GAP] * len(header) for index in self._shown()]
        return aligned([header, *rows], left=(0, 1))

    def _shown(self) -> list[int]:
        """Return the rows that a table shows; -1 is where some are left out."""
        if len(self) <= MAX_SHOWN:
            return list(range(len(self)))
        half = MAX_SHOWN // 2
        return [*range(half), -1, *range(len(self) - half, len(self))]

    def _row(self, each: Prediction) -> list[str]:
        if each.fault:
            return [_shortened(each.name), each.fault, *([""] if self.label_names else [])]
        if not self.label_names:
            return [_shortened(each.name), ", ".join(f"{value:.{SHOWN_DIGITS}g}" for value in each.values)]
        return [_shortened(each.name), each.label, f"{each.value:.{SHOWN_DIGITS}f}"]


class Explanation(NamedTuple):
    """What of one example a class hangs on.

    `relevance` is [rows, columns] of a picture, or [tokens] of a text; `picture` shows it over the input
    (None of a text), `tokens` are the text's with what each adds (() of a picture).
    """

    name: str
    label: str
    value: float
    relevance: np.ndarray
    picture: Image.Image | None
    tokens: tuple[texts.Piece, ...] = ()

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.relevance.shape))
        return f"{self.name}: {self.label} {self.value:.{SHOWN_DIGITS}f}, relevance of {size}"

    def _repr_png_(self) -> bytes | None:
        """Return the picture as a notebook shows it."""
        if self.picture is None:
            return None
        stream = io.BytesIO()
        self.picture.save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str | None:
        """Return the text as a notebook shows it, coloured."""
        return texts.as_html(list(self.tokens)) if self.tokens else None


def explanation(name: str, opened: Predictor, each: Explained) -> Explanation:
    """Return the record of an explained example: its picture, or its tokens."""
    names = opened.stats.label_names
    label = names[each.output] if names else f"value{each.output}"
    value = float(each.predictions[each.output])
    picture, tokens = SHOWN[opened.input.holds](opened, each)
    return Explanation(name, label, value, each.relevance, picture, tokens)


def _pictured(opened: Predictor, each: Explained) -> tuple[Image.Image, tuple[()]]:
    del opened
    return pictures.beside(np.asarray(each.inputs), each.relevance), ()


def _told(opened: Predictor, each: Explained) -> tuple[None, tuple[texts.Piece, ...]]:
    return None, tuple(texts.pieces(each.inputs, opened.preprocess, each.relevance))


# By what a model's raw examples are: the picture, and the tokens of an explanation.
SHOWN: dict[str, Callable[..., tuple[Any, tuple[Any, ...]]]] = {IMAGE: _pictured, TEXT: _told}


def shown_name(named: dict[str, str]) -> str:
    """Return what an example is called in a record: its path, or its whole text.

    >>> shown_name({"path": "a.jpg"}), shown_name({"text": "good", "text_pair": "bad", "source": "row 1"})
    ('a.jpg', 'good | bad')
    """
    return " | ".join(named[key] for key in ("path", "text", "text_pair") if key in named)


def _shortened(name: str) -> str:
    """Return a name that fits a row of a table."""
    line = " ".join(name.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
