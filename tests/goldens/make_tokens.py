"""Make `tokens.npz` and the folder `tokens`: ids that transformers' fast tokenizers give to mixed lines.

Run in an environment with transformers: `python tests/goldens/make_tokens.py REAL_DATA`, where REAL_DATA is
the folder that JTL_TEST_DATA names.

Two small tokenizers are written into the folder `tokens`: `words` (WordPiece, as BERT) and `pairs`
(byte-level BPE, as RoBERTa), each with its parts and with the tokenizer.json that transformers saves of them.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import mixed_lines
import numpy as np
import transformers

OUT = Path(__file__).parent / "tokens"
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_OF_PAIRS = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "film", "is", "an", "good", "bad", "charm", "story", "cafe", "naive", "worse", "anything"]
PIECES = ["ing", "est", "ly", "s", "able", "ed", "er", "ie", "'"]
MARKS = list("!\"#$%&'()*+,-./:;<=>?@[]{}|。，！？；、「」")
CHINESE = list("酒店的房间很大早餐也不错服务员态度差好看电影一二三")
MERGES = (
    *("h e", "t he", "Ġ t", "Ġt he", "i n", "in g", "e r", "Ġ a", "a n", "o n", "Ġ i", "Ġi s"),
    *("å ħ", "Ġ Ġ", "f i", "fi l", "fil m"),
)
REAL = ("minilm_l6_v2", "e5_small_zh_en")


def main(real: Path) -> None:
    """Write the small tokenizers, and for each tokenizer a checksum of the ids of every line and pair."""
    write_words(OUT / "words")
    write_pairs(OUT / "pairs")
    saved: dict[str, Any] = {"versions": np.array(f"transformers {transformers.__version__}")}
    for name, tokenizer in {
        "words": transformers.BertTokenizer.from_pretrained(OUT / "words"),
        "pairs": transformers.RobertaTokenizer.from_pretrained(OUT / "pairs"),
        REAL[0]: transformers.AutoTokenizer.from_pretrained(real / "weights" / REAL[0]),
        REAL[1]: transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(real / "weights" / REAL[1] / "tokenizer.json")
        ),
    }.items():
        saved |= {f"{name}/{what}": values for what, values in checksums(tokenizer).items()}
    np.savez_compressed(OUT.with_suffix(".npz"), **saved)


def checksums(tokenizer: Any) -> dict[str, np.ndarray]:
    """Return checksums of the ids and segments of single lines and of each line with the next.

    They are given as lists: asked for one pair, transformers takes an empty second text for none.
    """
    lines = mixed_lines.lines()
    single = tokenizer(lines, truncation=True, max_length=mixed_lines.MAX_TOKENS, return_token_type_ids=True)
    following = lines[1:] + lines[:1]
    pairs = tokenizer(
        lines, following, truncation=True, max_length=mixed_lines.MAX_PAIR_TOKENS, return_token_type_ids=True
    )
    return {"lines": _digests(single), "pairs": _digests(pairs)}


def _digests(encoded: Any) -> np.ndarray:
    rows = zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)
    return np.array([mixed_lines.digest(ids, segments) for ids, segments in rows], np.uint32)


def write_words(folder: Path) -> None:
    """Write vocab.txt, the settings, and the tokenizer.json of a small WordPiece."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL, *LETTERS, *(f"##{each}" for each in LETTERS), *WORDS]
    words += [*(f"##{each}" for each in PIECES), *MARKS, *CHINESE]
    (folder / "vocab.txt").write_text("".join(f"{each}\n" for each in dict.fromkeys(words)), encoding="utf-8")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    _save(transformers.BertTokenizer.from_pretrained(folder), folder)


def write_pairs(folder: Path) -> None:
    """Write vocab.json, merges.txt and the tokenizer.json of a small byte-level BPE."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(transformers.convert_slow_tokenizer.bytes_to_unicode().values())
    tokens = [*SPECIAL_OF_PAIRS, *letters, *(each.replace(" ", "") for each in MERGES), "<mask>"]
    ids = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{each}\n" for each in ["#version: 0.2", *MERGES])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    _save(transformers.RobertaTokenizer.from_pretrained(folder), folder)


def _save(tokenizer: Any, folder: Path) -> None:
    """Keep of what transformers saves the tokenizer.json."""
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        shutil.copyfile(Path(saved) / "tokenizer.json", folder / "tokenizer.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
