"""Token ids against transformers' tokenizers: `tests/goldens/make_clip.py` says how they were made."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs import prompts

GOLDENS = Path(__file__).parents[1] / "goldens"
NUM_TOKENS = 12


@pytest.mark.parametrize(
    ("file", "name"), [("clip.json", "clip"), ("siglip.json", "siglip"), ("siglip.model", "siglip")]
)
def test_ids_are_transformers(file: str, name: str) -> None:
    with np.load(GOLDENS / "clip.npz") as goldens:
        texts, ids = [str(each) for each in goldens["texts"]], goldens[f"{name}/ids"]
    tokenizer = prompts.open_tokenizer(GOLDENS / "clip" / file, NUM_TOKENS)
    np.testing.assert_array_equal(tokenizer.encode(texts), ids)
    assert tokenizer.encode([]).shape == (0, NUM_TOKENS)
    assert ids.max() < tokenizer.vocabulary


def test_gemmas_kind_is_lower_cased_and_padded_with_its_own_token(tmp_path: Path) -> None:
    vocabulary = ["<pad>", "<eos>", "<unk>", "a", "c", "t", "▁", "!"]
    model = {"type": "BPE", "byte_fallback": True, "merges": [], "unk_token": "<unk>", "dropout": None}
    model |= {"vocab": {piece: index for index, piece in enumerate(vocabulary)}}
    content = {"version": "1.0", "added_tokens": [], "model": model, "normalizer": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = prompts.open_tokenizer(tmp_path / "tokenizer.json", 6)
    np.testing.assert_array_equal(tokenizer.encode(["CAT!", "a"]), [[4, 3, 5, 7, 0, 0], [3, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", '{"model": {"type": "WordPiece"}}', "'WordPiece'.* is of no kind that CLIP"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', "is damaged"),
        ("tokenizer.json", '{"model": ', "is damaged"),
        ("tokenizer.json", "[]", "is damaged"),
        ("spiece.model", "no pieces", "is damaged"),
    ],
)
def test_files_that_are_no_tokenizers_are_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        prompts.open_tokenizer(tmp_path / name, NUM_TOKENS)


def test_tokenizer_without_padding_is_told(tmp_path: Path) -> None:
    content = json.loads((GOLDENS / "clip" / "siglip.json").read_text())
    content["model"]["vocab"] = [
        [piece.replace("</s>", "end"), score] for piece, score in content["model"]["vocab"]
    ]
    content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no token '</s>' to pad with"):
        prompts.open_tokenizer(tmp_path / "tokenizer.json", NUM_TOKENS)


def test_missing_file_and_missing_library_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"is not there; expected tokenizer.json or spiece.model"):
        prompts.open_tokenizer(tmp_path / "tokenizer.json", NUM_TOKENS)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'jtl\[zero-shot\]'"):
        prompts.open_tokenizer(GOLDENS / "clip" / "clip.json", NUM_TOKENS)
