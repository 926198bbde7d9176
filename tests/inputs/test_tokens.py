import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs import tokens, vocabulary
from jtl.inputs.contract import Unreadable
from jtl.inputs.raw_text import texts_of
from jtl.inputs.tokens import Augment, Changes, Preprocess
from tests.goldens import mixed_lines

GOLDENS = Path(__file__).parents[1] / "goldens"
WORDS, PAIRS = (GOLDENS / "tokens" / name / "tokenizer.json" for name in ("words", "pairs"))
START, END, MASK, PAD = 3, 4, 5, 0


def by_words(**fields: Any) -> Preprocess:
    return tokens.of_file(WORDS, **{"max_tokens": 16, **fields})


def ids_of(preprocess: Preprocess, raw: Any) -> list[int]:
    return tokens.transform(preprocess, None)(raw, None)["ids"].tolist()


def example(length: int, first: int = 10) -> dict[str, np.ndarray]:
    return {
        "ids": np.arange(first, first + length, dtype=np.int32),
        "segments": np.ones(length, np.int32),
        "mask": np.ones(length, bool),
    }


def checksums(preprocess: Preprocess, examples: list[Any]) -> np.ndarray:
    read = tokens.transform(preprocess, None)
    found = [read(each, None) for each in examples]
    return np.array([mixed_lines.digest(each["ids"].tolist(), each["segments"].tolist()) for each in found])


def assert_equals_transformers(path: Path, name: str) -> None:
    expected, lines = np.load(GOLDENS / "tokens.npz"), mixed_lines.lines()
    single = checksums(tokens.of_file(path, max_tokens=mixed_lines.MAX_TOKENS), lines)
    np.testing.assert_array_equal(single, expected[f"{name}/lines"])
    pairs = list(zip(lines, lines[1:] + lines[:1], strict=True))
    pair = checksums(tokens.of_file(path, max_tokens=mixed_lines.MAX_PAIR_TOKENS), pairs)
    np.testing.assert_array_equal(pair, expected[f"{name}/pairs"])


@pytest.mark.parametrize(("path", "name"), [(WORDS, "words"), (PAIRS, "pairs")])
def test_ids_of_small_tokenizers_equal_transformers(path: Path, name: str) -> None:
    assert_equals_transformers(path, name)


@pytest.mark.parametrize("name", ["minilm_l6_v2", "e5_small_zh_en"])
def test_ids_of_real_tokenizers_equal_transformers(name: str, real_path: Any) -> None:
    assert_equals_transformers(real_path(f"weights/{name}/tokenizer.json"), name)


@pytest.mark.slow
def test_tokenizer_of_a_list_of_words_equals_transformers(tmp_path: Path) -> None:
    words = (WORDS.parent / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "tokenizer.json").write_text(vocabulary.of_words(words), encoding="utf-8")
    assert_equals_transformers(tmp_path / "tokenizer.json", "words")


@pytest.mark.slow
def test_tokenizer_of_byte_pairs_equals_transformers(tmp_path: Path) -> None:
    ids = json.loads((PAIRS.parent / "vocab.json").read_text(encoding="utf-8"))
    merges = (PAIRS.parent / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    (tmp_path / "tokenizer.json").write_text(vocabulary.of_pairs(ids, merges), encoding="utf-8")
    assert_equals_transformers(tmp_path / "tokenizer.json", "pairs")


def test_words_keep_capitals_and_accents_where_told(tmp_path: Path) -> None:
    words = [*(vocabulary.UNKNOWN, vocabulary.START, vocabulary.END), "Café", "cafe"]
    path = tmp_path / "tokenizer.json"
    for lowers, expected in ((False, 3), (True, 4)):
        path.write_text(vocabulary.of_words(words, lowers=lowers), encoding="utf-8")
        assert ids_of(tokens.of_file(path, max_tokens=9), "Café") == [1, expected, 2]


@pytest.mark.parametrize(
    "make",
    [lambda: vocabulary.of_words(["[UNK]", "[CLS]", "a"]), lambda: vocabulary.of_pairs({"<s>": 0}, [])],
)
def test_vocabulary_without_its_special_tokens_is_refused(make: Any) -> None:
    with pytest.raises(UserError, match=r"has no (\[SEP\]|</s>), which every text needs"):
        make()


def test_pre_processing_knows_what_the_tokenizer_is() -> None:
    words, pairs = by_words(), tokens.of_file(PAIRS, max_tokens=16)
    assert (words.vocabulary, words.mask_id, words.pad_id) == (158, MASK, PAD)
    assert words.special_ids == (0, 2, 3, 4, 5)
    assert (pairs.vocabulary, pairs.mask_id, pairs.pad_id) == (278, 277, 1)
    assert pairs.special_ids == (0, 1, 2, 3, 277)


def test_mask_token_can_be_named() -> None:
    assert by_words(mask_token="[unused0]").mask_id == 1
    assert 1 in by_words(mask_token="[unused0]").special_ids
    assert by_words(mask_token="[gone]").mask_id == -1


def test_text_is_cut_and_its_special_tokens_are_kept() -> None:
    found = ids_of(by_words(max_tokens=5), "the film is an good story")
    assert (len(found), found[0], found[-1]) == (5, START, END)


def test_longer_text_of_a_pair_is_cut() -> None:
    inputs = tokens.transform(by_words(max_tokens=8), None)(("the film", "the film is good bad worse"), None)
    assert inputs["segments"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert inputs["ids"][3] == inputs["ids"][7] == END


def test_prefix_stands_in_front_of_every_text() -> None:
    plain, prefixed = by_words(), by_words(prefix="good ")
    assert ids_of(prefixed, "film") == ids_of(plain, "good film")
    assert ids_of(prefixed, ("film", "bad")) == ids_of(plain, ("good film", "good bad"))


def test_empty_text_is_its_special_tokens() -> None:
    assert ids_of(by_words(), "") == [START, END]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_bytes_of_a_file_read_as_their_text(ending: str) -> None:
    data = f"\ufeffgood café{ending}".encode()
    assert texts_of(data) == ("good café",)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"good \xff", r"no UTF-8 \(byte 5 is 0xff\)"),
        ("a\ud800", "character 1 is half of a surrogate pair"),
        (3, "found a int"),
        (("a", 3), "found a tuple of 2"),
        (("a", "b", "c"), "found a tuple of 3"),
        (np.zeros((4, 4, 3), np.uint8), r"an array uint8 \(4, 4, 3\): is this an image set"),
    ],
)
def test_what_is_no_text_is_unreadable(raw: Any, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        tokens.transform(by_words(), None)(raw, None)
    with pytest.raises(Unreadable, match=reason):
        tokens.check(raw)


def test_text_without_any_token_is_unreadable(tmp_path: Path) -> None:
    content = json.loads(WORDS.read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**content, "post_processor": None}), encoding="utf-8")
    with pytest.raises(Unreadable, match="it has no tokens"):
        ids_of(tokens.of_file(path, max_tokens=4), " ")


def test_transform_is_the_same_in_another_process_and_in_many_threads() -> None:
    read = pickle.loads(pickle.dumps(tokens.transform(by_words(), Augment())))
    lines = mixed_lines.lines(200)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda line: read(line, None)["ids"].tolist(), lines))
    assert found == [ids_of(by_words(), line) for line in lines]


def test_example_is_int32_and_bool() -> None:
    inputs = tokens.transform(by_words(), None)("good film", None)
    assert {name: str(values.dtype) for name, values in inputs.items()} == {
        "ids": "int32",
        "segments": "int32",
        "mask": "bool",
    }
    assert {name: each.dtype for name, each in tokens.spec(by_words()).items()} == {
        name: values.dtype for name, values in inputs.items()
    }
    assert {each.shape for each in tokens.spec(by_words()).values()} == {(8,)}
    assert tokens.spec(by_words(max_tokens=5))["ids"].shape == (5,)


@pytest.mark.parametrize(
    ("longest", "buckets", "length"),
    [
        (3, (8, 4, 12), 4),
        (4, (8, 4, 12), 4),
        (5, (8, 4, 12), 8),
        (13, (8, 4, 12), 16),
        (3, (), 16),
        (13, (64,), 16),
    ],
)
def test_batch_is_as_long_as_the_smallest_bucket_that_holds_it(
    longest: int, buckets: tuple[int, ...], length: int
) -> None:
    batch = tokens.collate([example(2), example(longest)], buckets, by_words())
    assert {values.shape for values in batch.values()} == {(2, length)}
    assert batch["mask"].sum(axis=1).tolist() == [2, longest]


def test_what_fills_a_batch_up_is_padding() -> None:
    batch = tokens.collate([example(2)], (4,), tokens.of_file(PAIRS, max_tokens=16))
    assert batch["ids"].tolist() == [[10, 11, 1, 1]]
    assert batch["segments"].tolist() == [[1, 1, 0, 0]]
    assert batch["mask"].tolist() == [[True, True, False, False]]


def test_joined_batches_are_as_long_as_the_longest() -> None:
    short, long = (tokens.collate([example(2)], (length,), by_words()) for length in (4, 6))
    joined = tokens.join([short, long])
    assert joined["ids"].shape == (2, 6)
    assert joined["mask"].tolist() == [[True, True, False, False, False, False]] * 2
    assert joined["segments"].tolist() == [[1, 1, 0, 0, 0, 0]] * 2


def hidden_batch(key: int, probability: float, num_rows: int = 64) -> tuple[Any, Any]:
    preprocess = by_words(max_tokens=32)
    read = tokens.transform(preprocess, Augment(mask_tokens=probability))
    inputs = tokens.collate([read("the film is an good story", None)] * num_rows, (16,), preprocess)
    settings = Augment(mask_tokens=probability)
    streams, targets = tokens.augment(
        jax.random.key(key), {"train": inputs}, "labels", {"train": settings}, preprocess
    )
    assert targets == "labels"
    return inputs, streams["train"]


def test_tokens_are_hidden_with_their_probability_and_special_ones_never() -> None:
    before, after = hidden_batch(0, 0.25, num_rows=512)
    is_hidden = np.asarray(after["ids"] != before["ids"])
    assert set(np.asarray(after["ids"])[is_hidden].tolist()) == {MASK}
    is_text = before["mask"] & ~np.isin(before["ids"], (START, END))
    assert not is_hidden[~is_text].any()
    # Five deviations of a share of 3,072 draws.
    assert abs(is_hidden[is_text].mean() - 0.25) < 5 * (0.25 * 0.75 / is_text.sum()) ** 0.5


def test_hidden_tokens_are_a_function_of_the_key() -> None:
    first, same, other = (hidden_batch(key, 0.5)[1]["ids"] for key in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()


def test_streams_hide_different_tokens() -> None:
    preprocess = by_words()
    batch = tokens.collate([example(12)] * 8, (16,), preprocess)
    both = {"train": batch, "target": batch}
    settings = dict.fromkeys(both, Augment(mask_tokens=0.5))
    streams, _ = tokens.augment(jax.random.key(0), both, None, settings, preprocess)
    assert (streams["train"]["ids"] != streams["target"]["ids"]).any()


def test_nothing_is_hidden_by_default() -> None:
    batch = {"train": tokens.collate([example(3)], (), by_words())}
    assert tokens.augment(jax.random.key(0), batch, None, {"train": Augment()}, by_words())[0] is batch


def test_hiding_needs_a_mask_token() -> None:
    with pytest.raises(UserError, match=r"augment.mask_tokens .* is 0.1, and tokenizer .* has no mask token"):
        tokens.transform(by_words(mask_token="[gone]"), Augment(mask_tokens=0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(mask_tokens=1), "augment.mask_tokens is 1; expected 0"),
        (lambda: Changes(max_tokens=-1), "preprocess.max_tokens is -1; expected 0"),
        (
            lambda: by_words(max_tokens=4),
            "preprocess.max_tokens is 4, expected at least 5: .* adds 3",
        ),
        (
            lambda: ids_of(Preprocess(), "a"),
            "came without a tokenizer: .*; give one by .*tokenizer=PATH",
        ),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_another_tokenizer_than_the_models_is_refused() -> None:
    preprocess = replace(by_words(), tokenizer=str(PAIRS))
    with pytest.raises(UserError, match=f"has sha256 [0-9a-f]{{64}}, expected {preprocess.sha256}"):
        ids_of(preprocess, "good")


def model(vocabulary: int = 158, max_tokens: int = 32) -> Preprocess:
    return Preprocess(vocabulary=vocabulary, max_tokens=max_tokens)


def test_changes_are_made_and_the_rest_is_the_weights() -> None:
    brought = by_words(prefix="query: ")
    assert tokens.settled(model(), brought, Changes()) == brought
    assert tokens.settled(model(), brought, Changes(max_tokens=8)) == replace(brought, max_tokens=8)
    assert tokens.settled(model(), brought, Changes(prefix="")).prefix == ""
    assert tokens.settled(model(), brought, Changes(prefix="a ")).prefix == "a "
    for path in (PAIRS, PAIRS.parent):
        other = tokens.settled(model(vocabulary=278), brought, Changes(tokenizer=str(path)))
        assert other == tokens.of_file(PAIRS, max_tokens=16, prefix="query: ")


def test_without_weights_the_model_says_how_long_texts_are() -> None:
    assert tokens.settled(model(), None, Changes()) == model()
    found = tokens.settled(model(), None, Changes(tokenizer=str(WORDS)))
    assert found == tokens.of_file(WORDS, max_tokens=32)


def test_tokenizer_must_fit_the_model() -> None:
    with pytest.raises(UserError, match="has 158 ids and the model 157; give the model's own"):
        tokens.settled(model(vocabulary=157), by_words(), Changes())
    assert tokens.settled(model(vocabulary=169), by_words(), Changes()) == by_words()


def test_ids_that_the_tokenizer_never_gives_are_told() -> None:
    assert tokens.remarks(model(), by_words()) == []
    assert tokens.remarks(model(), Preprocess()) == []
    told = ["the tokenizer gives 158 ids, 11 fewer than the model has"]
    assert tokens.remarks(model(vocabulary=169), by_words()) == told


@pytest.mark.parametrize("changes", [Changes(), Changes(max_tokens=16)])
def test_texts_longer_than_the_models_positions_are_refused(changes: Changes) -> None:
    with pytest.raises(UserError, match=r"max_tokens is 16 and the model has 15 positions; .*max_tokens=15"):
        tokens.settled(model(max_tokens=15), by_words(), changes)


def test_models_of_one_tokenizer_read_the_same_inputs() -> None:
    inputs = tokens.collate([example(2)], (), by_words())
    assert tokens.converter(by_words(max_tokens=8), by_words())(inputs) is inputs


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (tokens.of_file(PAIRS, max_tokens=16), "expected the same sha256"),
        (
            tokens.of_file(WORDS, max_tokens=16, prefix="a "),
            r"prefix ''.*prefix 'a '.*expected the same prefix",
        ),
        (tokens.of_file(WORDS, max_tokens=8), "up to 16 tokens and the other 8; set preprocess.max_tokens=8"),
    ],
)
def test_models_that_read_different_tokens_are_refused(other: Preprocess, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokens.converter(by_words(), other)


def test_tokenizer_travels_with_the_pre_processing(tmp_path: Path) -> None:
    own = by_words()
    for name, path in tokens.files(own).items():
        (tmp_path / name).write_bytes(path.read_bytes())
    moved = tokens.placed(own, tmp_path)
    assert moved == replace(own, tokenizer=str(tmp_path / "tokenizer.json"))
    assert ids_of(moved, "good film") == ids_of(own, "good film")


def test_without_a_tokenizer_nothing_travels(tmp_path: Path) -> None:
    assert tokens.files(Preprocess()) == {}
    assert tokens.placed(Preprocess(), tmp_path) == Preprocess()


def test_survey_says_how_long_texts_are_and_how_many_are_cut() -> None:
    raws = ["good " * count for count in range(1, 21)] + ["", "  ", b"\xff"]
    (line,) = tokens.survey(iter(raws), by_words(max_tokens=16))
    assert line == (
        "tokens a text: p50 11, p95 21, most 22; 6 of 22 texts (27.3%) are cut to max_tokens 16; 2 are empty"
    )


def test_survey_counts_the_prefix_and_both_texts() -> None:
    (line,) = tokens.survey([("good", "bad film")], by_words(prefix="the "))
    assert line.startswith("tokens a text: p50 8, p95 8, most 8; 0 of 1 texts (0.0%) are cut")


def test_survey_of_nothing_readable_is_empty() -> None:
    assert tokens.survey([b"\xff"], by_words()) == []
