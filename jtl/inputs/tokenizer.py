"""The file of a tokenizer (`tokenizer.json`), opened by the library tokenizers once a process."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jtl.errors import UserError, nearest, reading, shortened

NAME = "tokenizer.json"
SETTING = "--config.preprocess.tokenizer=PATH"
# What the tokens that hide others and that fill up are called where nothing says so: BERT's names, RoBERTa's.
MASKS, PADS = ("[MASK]", "<mask>"), ("[PAD]", "<pad>")
# The threads of a process read its first batch at once, and a large vocabulary takes a second to open.
_OPENING = threading.Lock()

Texts = tuple[str, ...]


class Tokenizer(NamedTuple):
    """An open tokenizer, safe for several threads.

    `encode(texts)` of one text or a pair → ids with the special tokens, and the segment (0 or 1) of each.
    `lengths(batch)` → the number of tokens of each, special ones included. `vocabulary` is the number of
    ids, `special_ids` are those that stand for no text, `mask_id` hides a token (-1: none does), `pad_id`
    fills up (0 where none is for that).
    """

    encode: Callable[[Texts], tuple[list[int], list[int]]]
    lengths: Callable[[Sequence[Texts]], list[int]]
    vocabulary: int
    special_ids: tuple[int, ...]
    mask_id: int
    pad_id: int


def open_file(path: str, sha256: str, max_tokens: int, mask_token: str = "") -> Tokenizer:
    """Open a `tokenizer.json` that cuts texts to `max_tokens` (0: never), special tokens included.

    Of a pair the longer text is cut, token by token, as by transformers ("longest_first"). The file must
    have this `sha256` ("": any). What is open is kept: a second call costs nothing.

    Raises:
        UserError: the file is not there, damaged or another one; `max_tokens` leaves no room for a text.
    """
    with _OPENING:
        return _opened(path, sha256, max_tokens, mask_token)


def digest(path: str) -> str:
    """Return the sha256 of a tokenizer's file.

    Raises:
        UserError: it cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


@lru_cache(8)
def _opened(path: str, sha256: str, max_tokens: int, mask_token: str) -> Tokenizer:
    import tokenizers

    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise UserError(
            f"tokenizer {path!r} has sha256 {found}, expected {sha256}: it is not the one the model was "
            f"trained with; put that back, or give one by {SETTING}"
        )
    # Some faults of a file show only when it is used.
    what = f"tokenizer {path!r}"
    with reading(what):
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        _check_template(tokenizer, what)
        _cut(tokenizer, max_tokens, path)
        vocabulary = tokenizer.get_vocab()
        added = tokenizer.get_added_tokens_decoder()
    mask_id = _first_of((mask_token,) if mask_token else MASKS, vocabulary, -1)
    special = {place for place, token in added.items() if token.special} | {mask_id} - {-1}

    def encode(texts: Texts) -> tuple[list[int], list[int]]:
        text, pair = (*texts, None)[:2]
        with reading(what):
            encoding = tokenizer.encode(text, pair)
            return encoding.ids, encoding.type_ids

    def lengths(batch: Sequence[Texts]) -> list[int]:
        with reading(what):
            return [len(each) for each in tokenizer.encode_batch_fast([_inputs(texts) for texts in batch])]

    return Tokenizer(
        encode=encode,
        lengths=lengths,
        vocabulary=max(vocabulary.values(), default=-1) + 1,
        special_ids=tuple(sorted(special)),
        mask_id=mask_id,
        pad_id=_first_of(PADS, vocabulary, 0),
    )


def _check_template(tokenizer: Any, what: str) -> None:
    """Refuse a template with a special token that the file does not describe.

    The library finds that out when a text is encoded, and then writes its stack over the screen.
    """
    if tokenizer.post_processor is None:
        return
    whole = json.loads(tokenizer.post_processor.__getstate__())
    for processor in (whole, *whole.get("processors", ())):
        described = processor.get("special_tokens", {})
        for piece in (*processor.get("single", ()), *processor.get("pair", ())):
            name = piece.get("SpecialToken", {}).get("id")
            if name is not None and name not in described:
                raise UserError(
                    f"{what} is damaged: its template has the token {shortened(name)!r}, expected one of its "
                    f"special_tokens: {nearest(name, described)}; get it again"
                )


def _cut(tokenizer: Any, max_tokens: int, path: str) -> None:
    """Let the tokenizer cut texts, with room for at least one token of each text of a pair."""
    num_special = tokenizer.num_special_tokens_to_add(is_pair=True)
    if not max_tokens:
        return
    if max_tokens < num_special + 2:
        raise UserError(
            f"preprocess.max_tokens is {max_tokens}, expected at least {num_special + 2}: tokenizer {path!r} "
            f"adds {num_special} special tokens to a pair of texts"
        )
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")


def _first_of(tokens: Sequence[str], vocabulary: Mapping[str, int], otherwise: int) -> int:
    """Return the id of the first of the tokens that the vocabulary has."""
    return next((vocabulary[each] for each in tokens if each in vocabulary), otherwise)


def _inputs(texts: Texts) -> Any:
    return texts[0] if len(texts) == 1 else texts


def _read(path: str) -> bytes:
    if not path:
        raise UserError(
            f"the weights came without a tokenizer: beside them lies no {NAME}, no vocab.txt, and no "
            f"vocab.json with merges.txt (of a sentencepiece model, spiece.model or the like, transformers "
            f"makes one: AutoTokenizer.from_pretrained(IT).save_pretrained(FOLDER)); give one by {SETTING}"
        )
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"tokenizer {path!r} cannot be read ({error.strerror}); expected the {NAME} of these weights, "
            f"beside them or by {SETTING}"
        ) from error
