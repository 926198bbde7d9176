"""The contract every kind of input keeps: how what a source holds becomes what a model reads.

A source gives raw examples (bytes of an image file, an array, a text); the kind's `transform` makes of one a
tree of numpy arrays, `collate` of several a batch, and on the device `normalise` and `augment` what the model
reads. Everything else sees a tree of inputs and never asks what is in it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import UserError

Inputs = Any
# (raw, generator) -> the inputs of one example; the generator is None in evaluation.
Transform = Callable[[Any, np.random.Generator | None], Inputs]


class Unreadable(UserError):
    """An example that cannot be read; the message says why, and whoever knows its name puts that in front."""


def stacked(examples: Sequence[Inputs], buckets: tuple[int, ...]) -> Inputs:
    """Return the batch of examples that are all of one shape."""
    del buckets
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def as_it_is(inputs: Inputs, preprocess: Any) -> Inputs:
    """Return the inputs: they need no arithmetic on the device."""
    del preprocess
    return inputs


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Return one batch of several whose examples are of one shape."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def no_files(preprocess: Any) -> Mapping[str, Path]:
    """Return {}: all that the pre-processing needs stands in its fields."""
    del preprocess
    return {}


def no_survey(raws: Sequence[Any], preprocess: Any) -> list[str]:
    """Return []: there is nothing to say of these examples beside their number."""
    del raws, preprocess
    return []


def no_options(changes: Any) -> dict[str, Any]:
    """Return {}: what the user changes of the pre-processing does not change the model."""
    del changes
    return {}


class Input(NamedTuple):
    """One kind of input.

    `Preprocess` is a frozen dataclass of plain values that travels with the weights into the run folder and
    every export, `Augment` the section `augment`, `Changes` the section `preprocess`: what the user may set
    of the pre-processing. `changed(preprocess, changes)` → the pre-processing with them. `holds` names what a
    raw example of this kind is ("image", "text"; see `data.contract.Info`), `unit` is its plural in messages,
    `suffixes` are the endings of the files that are examples.

    `transform(preprocess, augment)` → a picklable function (raw, generator) → inputs of one example (numpy),
    for evaluation where `augment` is None; it raises `Unreadable`. `collate(examples, buckets)` → the batch:
    examples that differ in length are padded to the smallest of `buckets` that holds them all.
    `spec(preprocess)` → shapes and dtypes of one example, in a length that the model can read.

    On the device, inside jit: `normalise(inputs, preprocess)` → what the model reads; `augment(key, streams,
    targets, settings)` → ({stream: inputs}, targets) in training, where the first stream is the one with the
    targets; `join(batches)` → one batch of several.

    `files(preprocess)` → the files that must travel too, by name (a tokenizer); `placed(preprocess, folder)`
    → the pre-processing that finds them there. `survey(raws, preprocess)` → lines for people about the raw
    examples of a split. `described(preprocess)` → the pre-processing in one line. `model_options(changes)` →
    what a change of the pre-processing asks of `Family.build`.
    """

    Preprocess: type
    Augment: type
    Changes: type
    changed: Callable[[Any, Any], Any]
    holds: str
    unit: str
    suffixes: tuple[str, ...]
    transform: Callable[[Any, Any | None], Transform]
    spec: Callable[[Any], Inputs]
    described: Callable[[Any], str]
    augment: Callable[[Any, dict[str, Inputs], Any, Any], tuple[dict[str, Inputs], Any]]
    collate: Callable[[Sequence[Inputs], tuple[int, ...]], Inputs] = stacked
    normalise: Callable[[Inputs, Any], Inputs] = as_it_is
    join: Callable[[Sequence[Inputs]], Inputs] = joined
    files: Callable[[Any], Mapping[str, Path]] = no_files
    placed: Callable[[Any, Path], Any] = lambda preprocess, folder: preprocess
    survey: Callable[[Sequence[Any], Any], list[str]] = no_survey
    model_options: Callable[[Any], dict[str, Any]] = no_options
