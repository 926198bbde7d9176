"""Texts as token ids, by the tokenizer that lies beside the weights: CLIP's, SigLIP's or SigLIP 2's.

`tokenizer.json` is read by the library tokenizers, `spiece.model` by sentencepiece (jtl[zero-shot]). Texts
are prepared, cut and padded as by transformers 5.23: `CLIPTokenizer`, `SiglipTokenizer`, `Siglip2Tokenizer`.
"""

import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jtl.errors import UserError, reading

# What repositories call their tokenizer, the one that holds all of it first.
NAMES = ("tokenizer.json", "spiece.model")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
END = "</s>"


class Tokenizer(NamedTuple):
    """`encode(texts)` → ids [texts, num_tokens], padded behind the end of text; `vocabulary` counts ids."""

    encode: Callable[[Sequence[str]], Int[np.ndarray, "texts tokens"]]
    vocabulary: int


class Kind(NamedTuple):
    """What a kind of tokenizer's file does not say: the token that fills up, and how a text is prepared."""

    padding: str
    prepare: Callable[[str], str]


def open_tokenizer(path: Path, num_tokens: int) -> Tokenizer:
    """Open a tokenizer for texts of that many tokens; longer ones are cut, their end of text kept.

    Raises:
        UserError: the file is damaged, or of a kind that neither CLIP nor SigLIP has; the library is missing.
    """
    if not path.is_file():
        raise UserError(f"tokenizer {str(path)!r} is not there; expected {' or '.join(NAMES)}")
    return (_of_json if path.suffix == ".json" else _of_pieces)(path, num_tokens)


def canonical(text: str) -> str:
    """Return the text as SigLIP was trained: lower case, no punctuation, single spaces.

    >>> canonical(" A Photo,  of it's cat! ")
    'a photo of its cat'
    """
    return " ".join(text.lower().translate(WITHOUT_PUNCTUATION).split())


def _as_it_is(text: str) -> str:
    return text


def _of_json(path: Path, num_tokens: int) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise _missing("tokenizers") from error
    # Some faults of a file show only when it is used.
    what = f"tokenizer {str(path)!r}"
    with reading(what):
        content = path.read_text(encoding="utf-8")
        kind = _kind(json.loads(content)["model"], path)
        tokenizer = tokenizers.Tokenizer.from_str(content)
        padding_id = tokenizer.token_to_id(kind.padding)
        if padding_id is None:
            raise UserError(f"{what} has no token {kind.padding!r} to pad with; get it again")
        tokenizer.enable_truncation(num_tokens)
        tokenizer.enable_padding(length=num_tokens, pad_id=padding_id, pad_token=kind.padding)
        vocabulary = tokenizer.get_vocab_size()

    def encode(texts: Sequence[str]) -> Int[np.ndarray, "texts tokens"]:
        with reading(what):
            encodings = tokenizer.encode_batch([kind.prepare(text) for text in texts])
            return np.array([each.ids for each in encodings], np.int32).reshape(-1, num_tokens)

    return Tokenizer(encode, vocabulary)


def _of_pieces(path: Path, num_tokens: int) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise _missing("sentencepiece") from error
    what = f"tokenizer {str(path)!r}"
    with reading(what):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        end_id, vocabulary = processor.piece_to_id(END), processor.vocab_size()

    def encode(texts: Sequence[str]) -> Int[np.ndarray, "texts tokens"]:
        ids = np.full((len(texts), num_tokens), end_id, np.int32)
        for row, text in zip(ids, texts, strict=True):
            with reading(what):
                found = processor.encode(canonical(text))[: num_tokens - 1]
            row[: len(found)] = found
        return ids

    return Tokenizer(encode, vocabulary)


def _kind(model: Mapping[str, Any], path: Path) -> Kind:
    """Return which kind of tokenizer a `tokenizer.json` is of, by its model."""
    found = next((kind for is_of, kind in KINDS if is_of(model)), None)
    if found is None:
        raise UserError(
            f"tokenizer {str(path)!r} ({model.get('type')!r}) is of no kind that CLIP or SigLIP has; give "
            f"theirs"
        )
    return found


def _missing(library: str) -> UserError:
    return UserError(
        f"zero-shot classification reads texts by {library}, which is not here: pip install 'jtl[zero-shot]'"
    )


# By what is particular to the model: CLIP's ends of words, SigLIP's unigrams, Gemma's bytes (SigLIP 2).
KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Kind], ...] = (
    (lambda model: model.get("end_of_word_suffix") == "</w>", Kind("<|endoftext|>", _as_it_is)),
    (lambda model: model.get("type") == "Unigram", Kind(END, canonical)),
    (lambda model: bool(model.get("byte_fallback")), Kind("<pad>", str.lower)),
)
