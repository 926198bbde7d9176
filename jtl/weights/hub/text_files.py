"""How a text becomes an input, by the tokenizer's files beside weights and what they say of lengths.

What travels is always a `tokenizer.json`: where a repository has only the parts of one, it is made and kept
in the cache of downloads ($JTL_CACHE or ~/.cache/jtl).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.errors import UserError
from jtl.files import cache_folder
from jtl.inputs import tokenizer, tokens, vocabulary
from jtl.inputs.tokens import Preprocess
from jtl.weights.hub.objects import cure, damaged, read_object

SETTINGS_NAME, SPECIAL_NAME = "tokenizer_config.json", "special_tokens_map.json"
SENTENCES_NAME, PROMPTS_NAME = "sentence_bert_config.json", "config_sentence_transformers.json"
WORDS_NAME, PAIRS_NAME, MERGES_NAME = "vocab.txt", "vocab.json", "merges.txt"
NAMES = (tokenizer.NAME, SETTINGS_NAME, SPECIAL_NAME, SENTENCES_NAME, PROMPTS_NAME)
PARTS = (WORDS_NAME, PAIRS_NAME, MERGES_NAME)
MAX_TOKENS = 512
# transformers writes 1e30 where nobody has said how long texts may be.
MAX_SANE_TOKENS = 1_000_000
# The models whose first position is the one behind the padding's: of so many positions texts have two fewer.
OFFSETS: dict[str, int] = {"roberta": 2, "xlm-roberta": 2, "camembert": 2}


def of_folder(config: Mapping[str, Any], folder: Path) -> Preprocess | None:
    """Return the pre-processing that a folder states; None where it has no tokenizer.

    Texts are as long as sentence-transformers says, else the tokenizer's settings, and never longer than the
    model has positions; in front of them stands the prompt that sentence-transformers takes by default.

    Raises:
        UserError: one of its files is damaged.
    """
    path = tokenizer_in(folder)
    if path is None:
        return None
    settings = read_object(folder / SETTINGS_NAME) or {}
    special = read_object(folder / SPECIAL_NAME) or {}
    return tokens.of_file(
        path,
        max_tokens=_max_tokens(config, settings, read_object(folder / SENTENCES_NAME) or {}),
        prefix=_prompt(read_object(folder / PROMPTS_NAME) or {}),
        mask_token=_token(special.get("mask_token") or settings.get("mask_token")),
    )


def tokenizer_in(folder: Path) -> Path | None:
    """Return the path of a folder's `tokenizer.json`, made of its parts where it has none; None: no parts.

    Raises:
        UserError: the parts are damaged, or what is made of them cannot be written.
    """
    if (folder / tokenizer.NAME).is_file():
        return folder / tokenizer.NAME
    settings = read_object(folder / SETTINGS_NAME) or {}
    if (folder / WORDS_NAME).is_file():
        words = _text(folder / WORDS_NAME).split("\n")
        return _kept(_of_words([word.rstrip("\r") for word in words], settings, folder / WORDS_NAME))
    if (folder / PAIRS_NAME).is_file() and (folder / MERGES_NAME).is_file():
        return _kept(_of_pairs(folder, settings))
    return None


def _of_words(words: list[str], settings: Mapping[str, Any], path: Path) -> str:
    while words and not words[-1]:
        words.pop()
    try:
        return vocabulary.of_words(
            words,
            lowers=bool(settings.get("do_lower_case", True)),
            parts_chinese=bool(settings.get("tokenize_chinese_chars", True)),
            strips_accents=settings.get("strip_accents"),
        )
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}; get it again") from error


def _of_pairs(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / PAIRS_NAME
    ids = read_object(path) or {}
    if not all(isinstance(each, int) for each in ids.values()):
        raise damaged(str(path), ValueError("not all values are ids"))
    lines = _text(folder / MERGES_NAME).split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    try:
        return vocabulary.of_pairs(ids, merges, adds_space=bool(settings.get("add_prefix_space", False)))
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}; get it again") from error


def _kept(content: str) -> Path:
    """Return the path of a file with the content, written where it was not."""
    data = content.encode()
    path = cache_folder("tokenizers", hashlib.sha256(data).hexdigest(), tokenizer.NAME)
    try:
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_bytes(data)
            part.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot keep a tokenizer in {str(path.parent)!r} ({error.strerror}); set JTL_CACHE to a folder "
            f"that can be written"
        ) from error
    return path


def _max_tokens(config: Mapping[str, Any], settings: Mapping[str, Any], sentences: Mapping[str, Any]) -> int:
    positions = _count(config.get("max_position_embeddings"))
    if positions:
        positions -= OFFSETS.get(str(config.get("model_type")), 0)
    told = _count(sentences.get("max_seq_length")) or _count(settings.get("model_max_length"))
    return min((each for each in (told, positions) if each > 0), default=MAX_TOKENS)


def _count(value: Any) -> int:
    """Return a sane number of tokens; 0 where it is none."""
    is_sane = isinstance(value, int | float) and 0 < value < MAX_SANE_TOKENS
    return int(value) if is_sane else 0


def _prompt(values: Mapping[str, Any]) -> str:
    """Return the prompt that sentence-transformers puts in front of texts where nobody names one."""
    prompts, name = values.get("prompts"), values.get("default_prompt_name")
    return str(prompts.get(name) or "") if isinstance(prompts, Mapping) and name else ""


def _token(value: Any) -> str:
    """Return a special token, which is a text or an object that holds it."""
    return str(value.get("content", "")) if isinstance(value, Mapping) else str(value or "")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); {cure(str(path))}") from error
