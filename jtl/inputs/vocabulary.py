"""The text of a `tokenizer.json`, made of the parts that older repositories have instead of one.

These are a list of words (`vocab.txt`, BERT) or byte pairs (`vocab.json` with `merges.txt`, RoBERTa). The
settings are those of `BertTokenizer` and `RobertaTokenizer` of transformers 5.24.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jtl.errors import UserError

MAX_WORD_CHARS = 100
PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
PAIRS_START, PAIRS_PAD, PAIRS_END, PAIRS_UNKNOWN, PAIRS_MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


def of_words(
    words: Sequence[str],
    *,
    lowers: bool = True,
    parts_chinese: bool = True,
    strips_accents: bool | None = None,
) -> str:
    """Return a WordPiece tokenizer of words in the order of their ids.

    `lowers` makes letters small, `parts_chinese` makes every Chinese character a word, `strips_accents` None
    means as `lowers`.

    Raises:
        UserError: one of the special tokens that every text gets is missing.
    """
    ids = {word: place for place, word in enumerate(words)}
    _require(ids, (UNKNOWN, START, END))
    before, after = _special(START, 0), _special(END, 0)
    return _written(
        added=[_added(each, ids) for each in (PAD, UNKNOWN, START, END, MASK) if each in ids],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": parts_chinese,
            "strip_accents": strips_accents,
            "lowercase": lowers,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor={
            "type": "TemplateProcessing",
            "single": [before, _sequence("A", 0), after],
            "pair": [before, _sequence("A", 0), after, _sequence("B", 1), _special(END, 1)],
            "special_tokens": {
                each: {"id": each, "ids": [ids[each]], "tokens": [each]} for each in (START, END)
            },
        },
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_WORD_CHARS,
            "vocab": ids,
        },
    )


def of_pairs(ids: Mapping[str, int], merges: Iterable[str], *, adds_space: bool = False) -> str:
    """Return a byte-level BPE tokenizer of RoBERTa's: ids by token, and merges ("a b") in their order.

    `adds_space` puts a space in front of a text, so that its first word is like any other.

    Raises:
        UserError: one of the special tokens that every text gets is missing.
    """
    _require(ids, (PAIRS_START, PAIRS_END))
    special = (PAIRS_START, PAIRS_PAD, PAIRS_END, PAIRS_UNKNOWN, PAIRS_MASK)
    by_bytes = {"type": "ByteLevel", "add_prefix_space": adds_space, "trim_offsets": True, "use_regex": True}
    return _written(
        added=[_added(each, ids) for each in special if each in ids],
        normalizer=None,
        pre_tokenizer=by_bytes,
        post_processor={
            "type": "RobertaProcessing",
            "sep": [PAIRS_END, ids[PAIRS_END]],
            "cls": [PAIRS_START, ids[PAIRS_START]],
            "trim_offsets": True,
            "add_prefix_space": adds_space,
        },
        decoder=by_bytes,
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": dict(ids),
            "merges": list(merges),
        },
    )


def _written(added: list[dict[str, Any]], **parts: Any) -> str:
    in_order = sorted(added, key=lambda each: each["id"])
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": in_order}
    return json.dumps({**head, **parts}, ensure_ascii=False)


def _require(ids: Mapping[str, int], tokens: Iterable[str]) -> None:
    missing = [each for each in tokens if each not in ids]
    if missing:
        raise UserError(
            f"a vocabulary of {len(ids)} tokens has no {' and no '.join(missing)}, which every text needs"
        )


def _added(token: str, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": ids[token],
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _special(token: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}
