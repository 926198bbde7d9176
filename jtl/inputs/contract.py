"""The contract every kind of input keeps: how what a source holds becomes what a model reads.

A source gives raw examples (bytes of an image file, an array, a text); the kind's `transform` makes of one a
tree of numpy arrays, `collate` of several a batch, and on the device `normalise` and `augment` what the model
reads. Everything else sees a tree of inputs, an array or a dict of such trees, and never asks what is in it.

jax is imported where it is used, here and in the kinds: processes that only read examples do without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.errors import UserError

Inputs = Any
# (raw, generator) -> the inputs of one example; the generator is None in evaluation.
Transform = Callable[[Any, np.random.Generator | None], Inputs]


class Unreadable(UserError):
    """An example that cannot be read; the message says why, and whoever knows its name puts that in front."""


class Storage(NamedTuple):
    """How a kind keeps its examples read, so that training need not read them anew in every epoch.

    `read(raw)` → the array that is kept, uint8 of three dimensions, which the training transform takes in
    place of the raw example. `decides` is a text of all that changes it, `described` is for people.

    Where they fit on the devices, they can be varied there: `pack(examples)` → the arrays that lie there, and
    a function of (key, these arrays, int32 rows, uint32 positions [rows, 2]) to what `collate` gives of them,
    for inside jit; what it draws for an example depends on key and position alone (None: not on devices).
    """

    decides: str
    described: str
    read: Callable[[Any], np.ndarray]
    pack: Callable[[Sequence[np.ndarray]], tuple[Any, Callable[..., Any]]] | None = None


def map_leaves(function: Callable[..., Any], first: Inputs, *others: Inputs) -> Inputs:
    """Return the tree of what the function makes of the leaves of trees that are alike.

    >>> map_leaves(lambda one, other: one + other, {"ids": 1}, {"ids": 2})
    {'ids': 3}
    """
    if isinstance(first, Mapping):
        return {name: map_leaves(function, first[name], *(each[name] for each in others)) for name in first}
    return function(first, *others)


def leaves_of(tree: Inputs) -> list[Any]:
    """Return the arrays of a tree of inputs, or of a batch of them.

    >>> leaves_of({"inputs": {"ids": 1}, "mask": 2})
    [1, 2]
    """
    return (
        [leaf for each in tree.values() for leaf in leaves_of(each)] if isinstance(tree, Mapping) else [tree]
    )


def stacked(examples: Sequence[Inputs], buckets: tuple[int, ...], preprocess: Any) -> Inputs:
    """Return the batch of examples that are all of one shape."""
    del buckets, preprocess
    return map_leaves(lambda *leaves: np.stack(leaves), *examples)


def as_it_is(inputs: Inputs, preprocess: Any) -> Inputs:
    """Return the inputs: they need no arithmetic on the device."""
    del preprocess
    return inputs


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Return one batch of several whose examples are of one shape."""
    import jax.numpy as jnp

    return map_leaves(lambda *leaves: jnp.concatenate(leaves), *batches)


def no_files(preprocess: Any) -> Mapping[str, Path]:
    """Return {}: all that the pre-processing needs stands in its fields."""
    del preprocess
    return {}


def nothing_blended(augment: Any) -> str:
    """Return "": no two examples are blended."""
    del augment
    return ""


def nothing_varied(augment: Any) -> str:
    """Return "": nothing is drawn by chance."""
    del augment
    return ""


def no_strong_view(augment: Any) -> Any:
    """Refuse: there is no strong view of such an example.

    Raises:
        UserError: always.
    """
    del augment
    raise UserError(
        "inputs of this kind have no strong view; expected images or texts, or a strategy that needs one view"
    )


def no_remarks(own: Any, preprocess: Any) -> list[str]:
    """Return []: nothing is to be told of a model and its pre-processing."""
    del own, preprocess
    return []


def no_survey(raws: Iterable[Any], preprocess: Any) -> list[str]:
    """Return []: there is nothing to say of these examples beside their number."""
    del raws, preprocess
    return []


def nothing_recognised(head: bytes) -> bool:
    """Return False: files of this kind begin with nothing of their own."""
    del head
    return False


def nothing_told(found: Sequence[tuple[str, Any]]) -> list[str]:
    """Return []: nothing of an example is lost in reading it."""
    del found
    return []


def nothing_fitted(
    preprocess: Any, found: Sequence[Any], changes: Any, *, is_trained: bool
) -> tuple[Any, list[str]]:
    """Return the pre-processing as it is: it depends on no example."""
    del found, changes, is_trained
    return preprocess, []


def keep(preprocess: Any, folder: Path) -> Any:
    """Return the pre-processing as it is: it names no file."""
    del folder
    return preprocess


def all_of_them(changes: Any) -> Any:
    """Return the changes of the pre-processing."""
    return changes


def no_free_dims(preprocess: Any) -> dict[str, int]:
    """Return {}: all examples are of one shape."""
    del preprocess
    return {}


def nothing_stored(preprocess: Any, augment: Any) -> None:
    """Return None: reading an example costs no more than keeping it would."""
    del preprocess, augment


def no_options(changes: Any) -> dict[str, Any]:
    """Return {}: what the user changes of the pre-processing does not change the model."""
    del changes
    return {}


def same(before: Any, after: Any) -> Callable[[Inputs], Inputs]:
    """Return the function that leaves inputs as they are.

    Raises:
        UserError: the two models do not read the same.
    """
    if before != after:
        raise UserError(f"one model reads {before} and the other {after}; expected two that read the same")
    return lambda inputs: inputs


class Glimpse(NamedTuple):
    """What a report shows of a raw example: the bytes of a small JPEG or a text, and how large it is.

    `size` is of the raw example, by what is counted: width and height of a picture, letters of a text.
    """

    picture: bytes = b""
    text: str = ""
    size: Mapping[str, int] = {}


def no_glimpse(raw: Any, *, is_shown: bool = True) -> Glimpse:
    """Return nothing: examples of this kind cannot be shown."""
    del raw, is_shown
    return Glimpse()


class Input(NamedTuple):
    """One kind of input.

    `Preprocess` is a frozen dataclass of plain values that travels with the weights into the run folder and
    every export, `Augment` the section `augment`, `Changes` the section `preprocess`: what the user may set
    of the pre-processing. `settled(own, brought, changes)` → the pre-processing of a model that expects `own`
    by itself, from weights that `brought` theirs (None: none), with the user's changes. `holds` names what a
    raw example of this kind is ("image", "text"; see `data.contract.Info`), `unit` is its plural in messages,
    `suffixes` are the endings of the files that are examples, `recognises(head)` → whether a file that begins
    so is one, whatever its ending.

    `check(raw)` raises `Unreadable` where an example cannot be read, and returns the facts of it that `told`
    and `fitted` read: `told([(name, facts)])` → lines for people about what is lost or decided in reading,
    `fitted(preprocess, facts, changes, is_trained=…)` → the pre-processing with what depends on the data, and
    lines about that; what the user set or the model `is_trained` with stays, and data that does not fit that
    is an error.
    `transform(preprocess, augment)` → a picklable function (raw, generator) → inputs of one example (numpy),
    for evaluation where `augment` is None; it raises `Unreadable`. `collate(examples, buckets, preprocess)`
    → the batch: examples that differ in length are padded to the smallest of `buckets` that holds them all.
    `spec(preprocess)` → shapes and dtypes of one example, in a length that the model can read.
    `storage(preprocess, augment)` → how training examples are kept read between epochs (None: they are not).

    On the device, inside jit: `normalise(inputs, preprocess)` → what the model reads; `augment(key, streams,
    targets, settings, preprocess)` → ({stream: inputs}, targets) in training, where the first stream is the
    one with the targets and `settings` are {stream: augment}; `join(batches)` → one batch of several.
    `strong(augment)` → the settings of a strong view of what these vary weakly (UserError: there is none).
    `blended(augment)` → which settings blend
    examples with their targets, for an error ("": none does). `varied(augment)` → which settings vary an
    example by chance as it is read, `redrawn(augment)` → which vary a batch anew at every step ("": none).

    `converter(before, after)` → a function of the inputs that a model of pre-processing `before` reads to
    those that a model of `after` reads; UserError where there is none.

    `files(preprocess)` → the files that must travel too, by name (a tokenizer); `placed(preprocess, folder)`
    → the pre-processing that finds them there. `remarks(own, preprocess)` → lines for people about where it
    differs from what the model expects by itself. `survey(raws, preprocess)` → lines for people about the raw
    examples of a split. `described(preprocess)` → the pre-processing in one line. `model_options(changes)` →
    what a change of the pre-processing asks of `Family.build`. `remaining(changes)` → those of a run's
    changes that must be made again when it is opened, though its own pre-processing has them all.
    `free_dims(preprocess)` → the leading dims of an example's leaves in which examples differ, by name, and
    the most that each may be.

    `glimpse(raw, is_shown=…)` → what a report shows of a raw example, its size alone unless it `is_shown`; it
    raises `Unreadable`. `views` are other looks at the same examples by name, for averaging at test time: a
    function, for use inside jit, of what the model reads.
    """

    Preprocess: type
    Augment: type
    Changes: type
    settled: Callable[[Any, Any | None, Any], Any]
    holds: str
    unit: str
    suffixes: tuple[str, ...]
    check: Callable[[Any], Any]
    transform: Callable[[Any, Any | None], Transform]
    spec: Callable[[Any], Inputs]
    described: Callable[[Any], str]
    augment: Callable[[Any, dict[str, Inputs], Any, Any, Any], tuple[dict[str, Inputs], Any]]
    collate: Callable[..., Inputs] = stacked
    normalise: Callable[[Inputs, Any], Inputs] = as_it_is
    join: Callable[[Sequence[Inputs]], Inputs] = joined
    strong: Callable[[Any], Any] = no_strong_view
    blended: Callable[[Any], str] = nothing_blended
    varied: Callable[[Any], str] = nothing_varied
    redrawn: Callable[[Any], str] = nothing_varied
    converter: Callable[[Any, Any], Callable[[Inputs], Inputs]] = same
    files: Callable[[Any], Mapping[str, Path]] = no_files
    placed: Callable[[Any, Path], Any] = keep
    remarks: Callable[[Any, Any], list[str]] = no_remarks
    survey: Callable[[Iterable[Any], Any], list[str]] = no_survey
    model_options: Callable[[Any], dict[str, Any]] = no_options
    remaining: Callable[[Any], Any] = all_of_them
    recognises: Callable[[bytes], bool] = nothing_recognised
    told: Callable[[Sequence[tuple[str, Any]]], list[str]] = nothing_told
    fitted: Callable[..., tuple[Any, list[str]]] = nothing_fitted
    free_dims: Callable[[Any], Mapping[str, int]] = no_free_dims
    glimpse: Callable[..., Glimpse] = no_glimpse
    views: Mapping[str, Callable[[Inputs], Inputs]] = {}
    storage: Callable[[Any, Any], Storage | None] = nothing_stored
