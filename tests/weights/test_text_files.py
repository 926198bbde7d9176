"""What lies beside a text model's weights becomes its pre-processing, or is a clear error."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jtl.errors import UserError
from jtl.inputs import tokens
from jtl.inputs.preprocess import Preprocess as OfImages
from jtl.weights.contract import TensorFile
from jtl.weights.hub import beside, text_files
from tests.goldens import mixed_lines

TOKENIZERS = Path(__file__).parents[1] / "goldens" / "tokens"
PARTS = {"words": ("vocab.txt",), "pairs": ("vocab.json", "merges.txt")}
BERT = {"model_type": "bert", "max_position_embeddings": 64}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": 8}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder_of(
    tmp_path: Path, files: dict[str, Any], *, of: str = "words", names: tuple[str, ...] = ()
) -> Path:
    """Write a folder with a tokenizer (its named parts, else the tokenizer.json) and JSON files."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in names or ("tokenizer.json",):
        shutil.copy(TOKENIZERS / of / name, folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def described(folder: Path) -> Any:
    return beside.describe(TensorFile(folder, "none", {}), folder).preprocess


def ids(preprocess: tokens.Preprocess) -> list[list[int]]:
    read = tokens.transform(preprocess, None)
    return [read(line, None)["ids"].tolist() for line in mixed_lines.lines(100)]


@pytest.mark.parametrize(
    ("config", "settings", "sentences", "expected"),
    [
        ({}, {}, {}, 512),
        (BERT, {}, {}, 64),
        ({**BERT, "model_type": "roberta"}, {}, {}, 62),
        ({**BERT, "model_type": "xlm-roberta"}, {"model_max_length": 64}, {}, 62),
        (BERT, {"model_max_length": 32}, {}, 32),
        (BERT, {"model_max_length": 1e30}, {}, 64),
        (BERT, {"model_max_length": 32}, {"max_seq_length": 48}, 48),
        (BERT, {}, {"max_seq_length": 256}, 64),
        (BERT, {"model_max_length": "long"}, {"max_seq_length": None}, 64),
        ({"max_position_embeddings": -1}, {}, {}, 512),
    ],
)
def test_texts_are_as_long_as_the_files_say_and_the_model_can_read(
    tmp_path: Path, config: Any, settings: Any, sentences: Any, expected: int
) -> None:
    files = {"tokenizer_config.json": settings, "sentence_bert_config.json": sentences}
    found = text_files.of_folder(config, folder_of(tmp_path, files))
    assert found == tokens.of_file(tmp_path / "weights" / "tokenizer.json", max_tokens=expected)


@pytest.mark.parametrize("of", PARTS)
def test_parts_of_a_tokenizer_are_made_one(tmp_path: Path, cache: Path, of: str) -> None:
    found = text_files.of_folder({}, folder_of(tmp_path, {}, of=of, names=PARTS[of]))
    expected = tokens.of_file(TOKENIZERS / of / "tokenizer.json", max_tokens=512)
    assert found is not None
    assert ids(found) == ids(expected)
    assert (found.vocabulary, found.special_ids, found.mask_id) == (
        expected.vocabulary,
        expected.special_ids,
        expected.mask_id,
    )
    assert Path(found.tokenizer) == cache / "tokenizers" / found.sha256 / "tokenizer.json"


def test_words_with_line_ends_of_another_system_are_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {}, names=PARTS["words"])
    plain = text_files.of_folder({}, folder)
    path = folder / "vocab.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert text_files.of_folder({}, folder) == plain


def test_settings_of_words_are_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"tokenizer_config.json": {"do_lower_case": False}}, names=PARTS["words"])
    found = text_files.of_folder({}, folder)
    assert found is not None
    read = tokens.transform(found, None)
    assert read("the", None)["ids"].tolist() != read("The", None)["ids"].tolist()


def test_tokenizer_that_was_kept_is_mended(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {}, names=PARTS["words"])
    first = text_files.of_folder({}, folder)
    assert first is not None
    Path(first.tokenizer).write_text("{}")
    assert text_files.of_folder({}, folder) == first


def test_cache_that_cannot_be_written_is_told(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(UserError, match=r"cannot keep a tokenizer in .*set JTL_CACHE"):
        text_files.of_folder({}, folder_of(tmp_path, {}, names=PARTS["words"]))


@pytest.mark.parametrize("mask", ["[unused0]", {"content": "[unused0]", "lstrip": True}])
@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
def test_mask_token_is_the_one_that_is_named(tmp_path: Path, name: str, mask: Any) -> None:
    found = text_files.of_folder({}, folder_of(tmp_path, {name: {"mask_token": mask}}))
    assert found is not None
    assert found.mask_id == 1


@pytest.mark.parametrize(
    ("values", "prefix"),
    [
        ({"prompts": {"query": "query: "}, "default_prompt_name": "query"}, "query: "),
        ({"prompts": {"query": "query: "}, "default_prompt_name": None}, ""),
        ({"prompts": {}, "default_prompt_name": "query"}, ""),
        ({}, ""),
    ],
)
def test_default_prompt_is_the_prefix(tmp_path: Path, values: Any, prefix: str) -> None:
    found = text_files.of_folder({}, folder_of(tmp_path, {"config_sentence_transformers.json": values}))
    assert found is not None
    assert found.prefix == prefix


def test_folder_without_a_tokenizer_states_nothing(tmp_path: Path) -> None:
    assert text_files.of_folder(BERT, folder_of(tmp_path, {}, of="pairs", names=("merges.txt",))) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.txt": b"a\nb\n"}, r"vocab.txt': a vocabulary of 2 tokens has no \[UNK\] and no \[CLS\]"),
        ({"vocab.txt": b"\xff\n"}, "vocab.txt' cannot be read .*invalid start byte"),
        ({"vocab.json": b"{", "merges.txt": b""}, "vocab.json' cannot be understood"),
        ({"vocab.json": b'{"a": "b"}', "merges.txt": b""}, "vocab.json' cannot .*not all values are ids"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b""}, "vocab.json': a vocabulary of 1 tokens has no <s>"),
        ({"vocab.json": b'{"<s>": 0, "</s>": 1}', "merges.txt": b"a b\n"}, "is damaged"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json' is damaged"),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": b"["}, "tokenizer_config.json' cannot be under"),
    ],
)
def test_damaged_tokenizer_is_one_line(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        text_files.of_folder({}, tmp_path)
    assert "\n" not in str(caught.value)


def test_text_model_brings_its_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"config.json": BERT})
    assert described(folder) == tokens.of_file(folder / "tokenizer.json", max_tokens=64)


def test_image_processor_goes_before_a_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"config.json": {"model_type": "x"}, "preprocessor_config.json": PROCESSOR})
    assert isinstance(described(folder), OfImages)


def test_model_of_images_brings_no_tokenizer(tmp_path: Path) -> None:
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4}
    config = {"model_type": "vit", "image_size": 8, "intermediate_size": 32, **vision}
    assert described(folder_of(tmp_path, {"config.json": config})) is None


@pytest.mark.parametrize(
    "processor",
    [
        {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000},
        {"image_processor_type": "NewImageProcessor"},
    ],
)
def test_processor_of_an_unknown_kind_leaves_the_model_its_own(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert described(tmp_path) is None


def test_real_folders_are_read(real_path: Any) -> None:
    found = described(real_path("weights/minilm_l6_v2"))
    assert (found.vocabulary, found.max_tokens, found.mask_id, found.pad_id) == (30522, 512, 103, 0)
    found = described(real_path("weights/e5_small_zh_en"))
    assert (found.vocabulary, found.max_tokens, found.mask_id, found.pad_id) == (38014, 512, 38013, 1)


def test_real_words_give_the_ids_of_the_real_tokenizer(real_path: Any, tmp_path: Path) -> None:
    real = real_path("weights/minilm_l6_v2")
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(real / name, tmp_path)
    made = text_files.of_folder({}, tmp_path)
    assert made is not None
    assert ids(made) == ids(tokens.of_file(real / "tokenizer.json", max_tokens=512))


def test_fault_that_shows_only_with_a_text_is_one_line(tmp_path: Path) -> None:
    """The file opens; its unknown token is not in its vocabulary."""
    content = json.loads((TOKENIZERS / "words" / "tokenizer.json").read_text()) | {
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
    }
    content |= {"added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    content["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    preprocess = tokens.of_file(path, max_tokens=8)
    with pytest.raises(UserError, match=r"tokenizer '.*\.json' is damaged \(.*UNK.*\); get it again"):
        tokens.transform(preprocess, None)("b", None)
