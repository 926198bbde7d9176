"""The kind of input "tokens": a text, or a pair of texts, as ids of a vocabulary.

A raw example is a text, two texts, or the bytes of a text file. On the host it becomes `{"ids": int32
[tokens], "segments": int32 [tokens], "mask": bool [tokens]}` of its own length; `collate` pads. A token whose
mask is False is no token: what its id is, nothing may depend on.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import UserError
from jtl.files import expanded
from jtl.inputs import tokenizer
from jtl.inputs.contract import Input, Inputs, Transform, Unreadable, map_leaves
from jtl.inputs.raw_text import glimpse, texts_of
from jtl.ranges import Fraction, WidthOr0
from jtl.ranges import check as check_ranges

AUTO = "auto"
SPEC_TOKENS = 8
# The endings of files that count as texts where nothing else says so.
SUFFIXES = (".txt",)


@dataclass(frozen=True)
class Preprocess:
    """How a text becomes ids; travels with the weights, and the tokenizer's file with it.

    `tokenizer` is the path of a `tokenizer.json` ("": none came) whose digest is `sha256`. Texts of more than
    `max_tokens` tokens, special ones included, are cut. `prefix` is put in front of every text ("query: " for
    E5). Of the tokenizer it is kept how many ids it gives (`vocabulary`), which of them stand for no text
    (`special_ids`), which fills up a batch (`pad_id`) and which hides a token (`mask_id`, -1: none does).
    """

    tokenizer: str = ""
    sha256: str = ""
    max_tokens: int = 512
    prefix: str = ""
    vocabulary: int = 0
    pad_id: int = 0
    mask_id: int = -1
    special_ids: tuple[int, ...] = ()

    def described(self) -> str:
        """Return the pre-processing in one line, for people.

        >>> Preprocess("minilm/tokenizer.json", "", 128, "query: ", 30522).described()
        "tokenizer.json (30,522 ids), at most 128 tokens, prefix 'query: '"
        """
        name = Path(self.tokenizer).name or "no tokenizer"
        prefix = f", prefix {self.prefix!r}" if self.prefix else ""
        return f"{name} ({self.vocabulary:,} ids), at most {self.max_tokens:,} tokens{prefix}"


@dataclass(frozen=True)
class Changes:
    """What of the texts' pre-processing is to differ from what the weights say.

    `tokenizer` is the path of a `tokenizer.json`, of its folder, or hf://org/name ("": theirs), `max_tokens`
    the length that texts are cut to, in tokens with the special ones (0: as the weights say). `prefix` is put
    in front of every text: "auto" takes the weights' own, "" puts none.
    """

    tokenizer: str = ""
    max_tokens: WidthOr0 = 0
    prefix: str = AUTO

    def __post_init__(self) -> None:
        check_ranges(self, "preprocess")


@dataclass(frozen=True)
class Augment:
    """How training texts are varied: each token is hidden with probability `mask_tokens`, special ones never.

    A hidden token is shown as the tokenizer's mask. A strategy that learns from two views of an unlabelled
    text hides each token of the strong one with probability `strong_mask_tokens`.
    """

    mask_tokens: Fraction = 0.0
    strong_mask_tokens: Fraction = 0.3

    def __post_init__(self) -> None:
        check_ranges(self, "augment")


def of_file(path: Path, *, max_tokens: int, prefix: str = "", mask_token: str = "") -> Preprocess:
    """Return the pre-processing by a `tokenizer.json`; `mask_token` "" is found by its usual names.

    Raises:
        UserError: the file is not there or damaged, or `max_tokens` leaves no room for a text.
    """
    sha256 = tokenizer.digest(str(path))
    opened = tokenizer.open_file(str(path), sha256, max_tokens, mask_token)
    return Preprocess(
        tokenizer=str(path),
        sha256=sha256,
        max_tokens=max_tokens,
        prefix=prefix,
        vocabulary=opened.vocabulary,
        pad_id=opened.pad_id,
        mask_id=opened.mask_id,
        special_ids=opened.special_ids,
    )


def settled(own: Preprocess, brought: Preprocess | None, changes: Changes) -> Preprocess:
    """Return the pre-processing that came with the weights (else the model's own) with the user's changes.

    `own` says what the model can read: so many ids (`vocabulary`, 0: any), and so many tokens.

    Raises:
        UserError: the tokenizer has ids that the model has not, or is not there or damaged; `max_tokens` is
            more than the model has positions.
    """
    base = own if brought is None else brought
    preprocess = replace(
        base,
        max_tokens=changes.max_tokens or base.max_tokens,
        prefix=base.prefix if changes.prefix == AUTO else changes.prefix,
    )
    if preprocess.max_tokens > own.max_tokens:
        raise UserError(
            f"preprocess.max_tokens is {preprocess.max_tokens} and the model has {own.max_tokens} positions; "
            f"expected at most that many: --config.preprocess.max_tokens={own.max_tokens}"
        )
    if changes.tokenizer:
        path = Path(expanded(changes.tokenizer))
        path = path / tokenizer.NAME if path.is_dir() else path
        preprocess = of_file(path, max_tokens=preprocess.max_tokens, prefix=preprocess.prefix)
    if 0 < own.vocabulary < preprocess.vocabulary:
        raise UserError(
            f"tokenizer {preprocess.tokenizer!r} has {preprocess.vocabulary:,} ids and the model "
            f"{own.vocabulary:,}; give the model's own by {tokenizer.SETTING}"
        )
    return preprocess


def remarks(own: Preprocess, preprocess: Preprocess) -> list[str]:
    """Return a line where the tokenizer gives fewer ids than the model has: some of them are never used."""
    if not 0 < preprocess.vocabulary < own.vocabulary:
        return []
    unused = own.vocabulary - preprocess.vocabulary
    return [f"the tokenizer gives {preprocess.vocabulary:,} ids, {unused:,} fewer than the model has"]


def check(raw: Any) -> None:
    """Raise Unreadable unless the example is a text, a pair of texts, or a text file's bytes in UTF-8."""
    texts_of(raw)


def converter(before: Preprocess, after: Preprocess) -> Callable[[Inputs], Inputs]:
    """Return the function that leaves inputs as they are: both models must read the same ids.

    Raises:
        UserError: their tokenizers or prefixes differ, or one reads longer texts than the other can.
    """
    for name in ("sha256", "prefix"):
        ours, theirs = getattr(before, name), getattr(after, name)
        if ours != theirs:
            raise UserError(
                f"one model reads texts by {before.described()} ({name} {ours!r}), the other by "
                f"{after.described()} ({name} {theirs!r}); expected the same {name}"
            )
    if before.max_tokens > after.max_tokens:
        raise UserError(
            f"one model reads up to {before.max_tokens} tokens and the other {after.max_tokens}; set "
            f"preprocess.max_tokens={after.max_tokens}"
        )
    return lambda inputs: inputs


def remaining(changes: Changes) -> Changes:
    """Return no change: a run has its tokenizer and lengths, and may be where the tokenizer given is not."""
    del changes
    return Changes()


def transform(preprocess: Preprocess, augment: Augment | None) -> Transform:
    """Return the function `raw, generator → inputs`; the tokenizer is opened when it is first called.

    Raises:
        UserError: tokens are to be hidden, and the tokenizer has no token for that.
    """
    if augment is not None and augment.mask_tokens and preprocess.mask_id < 0:
        raise UserError(
            f"augment.mask_tokens (of a strong view augment.strong_mask_tokens) is {augment.mask_tokens}, "
            f"and tokenizer {preprocess.tokenizer!r} has no mask token "
            f"({' or '.join(tokenizer.MASKS)}); set it to 0"
        )
    return _Transform(preprocess)


def collate(
    examples: Sequence[Inputs], buckets: tuple[int, ...], preprocess: Preprocess
) -> dict[str, np.ndarray]:
    """Return the batch: ids and segments int32, mask bool, all [batch, tokens].

    `tokens` is the smallest of `buckets` that holds the longest example, `max_tokens` where none does; a
    bucket above `max_tokens` is `max_tokens`. What is filled up has mask False and the id `pad_id`.
    """
    longest = max(len(each["ids"]) for each in examples)
    length = min((each for each in buckets if each >= longest), default=preprocess.max_tokens)
    length = min(length, preprocess.max_tokens)
    assert longest <= length, "the transform cuts examples to max_tokens"
    filled = {
        "ids": np.full((len(examples), length), preprocess.pad_id, np.int32),
        "segments": np.zeros((len(examples), length), np.int32),
        "mask": np.zeros((len(examples), length), bool),
    }
    for row, example in enumerate(examples):
        for name, values in filled.items():
            values[row, : len(example[name])] = example[name]
    return filled


def spec(preprocess: Preprocess) -> dict[str, Any]:
    """Return shapes and dtypes of a short example."""
    import jax

    shape = (min(SPEC_TOKENS, preprocess.max_tokens),)
    return {
        "ids": jax.ShapeDtypeStruct(shape, np.int32),
        "segments": jax.ShapeDtypeStruct(shape, np.int32),
        "mask": jax.ShapeDtypeStruct(shape, np.bool_),
    }


def augment(
    key: Any,
    streams: dict[str, Inputs],
    targets: Any,
    settings: Mapping[str, Augment],
    preprocess: Preprocess,
) -> tuple[dict[str, Inputs], Any]:
    """Return the streams with some of their tokens hidden; the targets stay. `key` is the step's."""
    if not any(settings[name].mask_tokens for name in streams):
        return streams, targets
    import jax

    keys = jax.random.split(key, len(streams))
    shares = {name: settings[name].mask_tokens for name in streams}
    hidden = {
        name: _hidden(keys[place], inputs, shares[name], preprocess) if shares[name] else inputs
        for place, (name, inputs) in enumerate(streams.items())
    }
    return hidden, targets


def strong(augment: Augment) -> Augment:
    """Return the settings of the strong view."""
    return replace(augment, mask_tokens=augment.strong_mask_tokens)


def redrawn(augment: Augment) -> str:
    """Return which setting hides other tokens at every step, "" where none does."""
    return f"augment.mask_tokens {augment.mask_tokens}" if augment.mask_tokens else ""


def hideable(inputs: Inputs, preprocess: Preprocess) -> Any:
    """Return which tokens [batch, tokens] stand for text: no special ones, and nothing that fills up."""
    import jax.numpy as jnp

    is_special = jnp.isin(inputs["ids"], jnp.asarray(preprocess.special_ids, jnp.int32))
    return inputs["mask"] & ~is_special


def join(batches: Sequence[Inputs]) -> Inputs:
    """Return one batch of several, as long as the longest of them; what is filled up has mask False."""
    import jax.numpy as jnp

    length = max(batch["ids"].shape[1] for batch in batches)
    return map_leaves(
        lambda *leaves: jnp.concatenate(
            [jnp.pad(leaf, ((0, 0), (0, length - leaf.shape[1]))) for leaf in leaves]
        ),
        *batches,
    )


def files(preprocess: Preprocess) -> Mapping[str, Path]:
    """Return the tokenizer's file by the name it has beside weights; none where there is none."""
    return {tokenizer.NAME: Path(preprocess.tokenizer)} if preprocess.tokenizer else {}


def placed(preprocess: Preprocess, folder: Path) -> Preprocess:
    """Return the same pre-processing by the tokenizer's file in a folder."""
    return replace(preprocess, tokenizer=str(folder / tokenizer.NAME)) if preprocess.tokenizer else preprocess


def free_dims(preprocess: Preprocess) -> dict[str, int]:
    """Return the length of a text, which may be up to `max_tokens`."""
    return {"tokens": preprocess.max_tokens}


def survey(raws: Iterable[Any], preprocess: Preprocess) -> list[str]:
    """Return a line on the lengths of texts, in tokens before any is cut; unreadable ones do not count."""
    readable = [texts for texts in map(_texts_or_none, raws) if texts is not None]
    if not readable:
        return []
    opened = tokenizer.open_file(preprocess.tokenizer, preprocess.sha256, 0)
    lengths = np.sort(opened.lengths([_with_prefix(texts, preprocess.prefix) for texts in readable]))
    p50, p95 = (int(lengths[math.ceil(share * len(lengths)) - 1]) for share in (0.5, 0.95))
    num_cut = int((lengths > preprocess.max_tokens).sum())
    num_empty = sum(not "".join(texts).strip() for texts in readable)
    return [
        f"tokens a text: p50 {p50:,}, p95 {p95:,}, most {lengths[-1]:,}; "
        f"{num_cut:,} of {len(lengths):,} texts ({num_cut / len(lengths):.1%}) are cut to max_tokens "
        f"{preprocess.max_tokens:,}; {num_empty:,} are empty"
    ]


@dataclass(frozen=True)
class _Transform:
    preprocess: Preprocess

    def __call__(self, raw: Any, generator: np.random.Generator | None) -> dict[str, np.ndarray]:
        del generator
        preprocess = self.preprocess
        opened = tokenizer.open_file(preprocess.tokenizer, preprocess.sha256, preprocess.max_tokens)
        ids, segments = opened.encode(_with_prefix(texts_of(raw), preprocess.prefix))
        if not ids:
            raise Unreadable("it has no tokens, and the tokenizer adds none; expected a text")
        return {
            "ids": np.asarray(ids, np.int32),
            "segments": np.asarray(segments, np.int32),
            "mask": np.ones(len(ids), bool),
        }


def _hidden(key: Any, inputs: Inputs, probability: float, preprocess: Preprocess) -> Inputs:
    import jax
    import jax.numpy as jnp

    is_hidden = jax.random.bernoulli(key, probability, inputs["ids"].shape) & hideable(inputs, preprocess)
    return {**inputs, "ids": jnp.where(is_hidden, preprocess.mask_id, inputs["ids"])}


def _with_prefix(texts: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    return tuple(prefix + each for each in texts) if prefix else texts


def _texts_or_none(raw: Any) -> tuple[str, ...] | None:
    try:
        return texts_of(raw)
    except Unreadable:
        return None


INPUT = Input(
    Preprocess=Preprocess,
    Augment=Augment,
    Changes=Changes,
    settled=settled,
    holds="text",
    unit="texts",
    suffixes=SUFFIXES,
    check=check,
    transform=transform,
    spec=spec,
    described=Preprocess.described,
    augment=augment,
    strong=strong,
    redrawn=redrawn,
    collate=collate,
    remaining=remaining,
    join=join,
    converter=converter,
    files=files,
    placed=placed,
    remarks=remarks,
    survey=survey,
    free_dims=free_dims,
    glimpse=glimpse,
)
