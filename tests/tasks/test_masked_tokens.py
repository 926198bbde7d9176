"""What is hidden of texts, and what is counted of what the model says of it."""

import operator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from jtl import metrics
from jtl.errors import UserError
from jtl.inputs.tokens import Preprocess
from jtl.tasks import Task, masked_tokens

VOCABULARY, MASK, PAD, START, END = 1000, 4, 0, 2, 3
SPECIAL = (PAD, START, END, MASK)
PREPROCESS = Preprocess(vocabulary=VOCABULARY, mask_id=MASK, special_ids=SPECIAL)
# Words behind these ids, so that another word drawn in the place of one can be told from it.
FIRST_WORD = 500


def built(**settings: Any) -> Task:
    stats = masked_tokens.stats(np.zeros(1, np.int64), ())
    return masked_tokens.build(masked_tokens.Config(**settings), stats, PREPROCESS)


def batch_of(lengths: Any, num_tokens: int, ids: Any = None) -> dict[str, Any]:
    """Return texts of so many words between a start and an end, filled up; each is drawn by its id alone."""
    example = np.arange(len(lengths)) if ids is None else np.asarray(ids)
    words = np.zeros((len(lengths), num_tokens), np.int32)
    for row, (length, number) in enumerate(zip(lengths, example, strict=True)):
        text = np.random.default_rng(number).integers(FIRST_WORD, VOCABULARY, length)
        words[row, : length + 2] = [START, *text, END]
    mask = np.arange(num_tokens)[None] < np.asarray(lengths)[:, None] + 2
    return {"inputs": {"ids": words, "mask": mask}, "mask": np.ones(len(lengths), bool), "id": example}


@partial(jax.jit, static_argnums=0)
def _drawn(targets: Any, batch: dict[str, Any], key: Any) -> dict[str, Any]:
    return targets(batch, key)


def drawn(task: Task, batch: dict[str, Any], key: int = 0) -> dict[str, np.ndarray]:
    found = _drawn(task.targets, batch, jax.random.key(key))
    return {name: np.asarray(values) for name, values in found.items()}


def hidden_of(targets: dict[str, np.ndarray], row: int) -> dict[int, tuple[int, int]]:
    """Return of one example {place: (id that stands there, id that is shown)}."""
    columns = (targets[name][row][targets["is_hidden"][row]].tolist() for name in ("places", "ids", "given"))
    places, ids, given = columns
    return dict(zip(places, zip(ids, given, strict=True), strict=True))


@pytest.fixture(scope="module")
def task() -> Task:
    return built()


@pytest.fixture(scope="module")
def many(task: Task) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A batch of 2,000 texts of 40 words, and what is hidden of them: 12,000 words."""
    batch = batch_of([40] * 2000, 48)
    return batch, drawn(task, batch)


def test_the_share_of_a_texts_words_is_hidden_rounded_and_at_least_one(task: Task) -> None:
    expected = {0: 0, 1: 1, 3: 1, 9: 1, 12: 2, 40: 6, 46: 7}
    targets = drawn(task, batch_of(list(expected), 48))
    assert targets["is_hidden"].sum(axis=1).tolist() == list(expected.values())
    assert jax.jit(task.weights)(targets).tolist() == list(expected.values())


def test_every_word_is_equally_likely_to_be_hidden(many: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, targets = many
    counts = np.bincount(targets["places"][targets["is_hidden"]], minlength=48)
    assert counts.sum() == 12_000
    # 300 a place on average; five standard deviations of a draw of 15 % of 2,000.
    assert np.abs(counts[1:41] - 300).max() < 5 * (2000 * 0.15 * 0.85) ** 0.5


def test_special_and_padded_tokens_are_never_hidden(many: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, targets = many
    hidden = targets["places"][targets["is_hidden"]]
    assert hidden.min() == 1
    assert hidden.max() == 40


def test_a_special_token_within_a_text_is_never_hidden() -> None:
    batch = batch_of([8] * 200, 12)
    batch["inputs"]["ids"][:, 4] = MASK
    targets = drawn(built(fraction=1.0), batch)
    assert targets["is_hidden"].sum(axis=1).tolist() == [7] * 200
    assert 4 not in targets["places"][targets["is_hidden"]]


def test_no_place_is_hidden_twice(many: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, targets = many
    assert all(len(hidden_of(targets, row)) == 6 for row in range(2000))


@pytest.mark.parametrize(("masked", "random"), [(0.8, 0.1), (0.0, 0.3)])
def test_hidden_words_are_shown_as_mask_as_another_word_and_as_themselves_by_their_shares(
    many: tuple[dict[str, Any], dict[str, Any]], masked: float, random: float
) -> None:
    batch, _ = many
    targets = drawn(built(masked=masked, random=random), batch)
    ids, given = (targets[name][targets["is_hidden"]] for name in ("ids", "given"))
    is_masked, is_same = given == MASK, given == ids
    # One in a thousand of the other words is drawn as the mask, one as the word itself.
    shares = {"masked": masked, "random": random, "same": 1.0 - masked - random}
    found = {"masked": is_masked, "random": ~is_masked & ~is_same, "same": is_same}
    for name, share in shares.items():
        deviation = (share * (1.0 - share) / len(ids)) ** 0.5
        assert abs(found[name].mean() - share) <= 5 * deviation + 2 * random / VOCABULARY, name


def test_another_word_is_any_of_the_vocabulary(many: tuple[dict[str, Any], dict[str, Any]]) -> None:
    batch, _ = many
    targets = drawn(built(masked=0.0, random=1.0), batch)
    given = targets["given"][targets["is_hidden"]]
    assert (given.min(), given.max()) == (0, VOCABULARY - 1)
    # Half of the vocabulary lies below the first word: five standard deviations of 12,000 draws.
    assert abs((given < FIRST_WORD).mean() - 0.5) < 5 * 0.5 / 12_000**0.5


def test_targets_are_what_stood_there_and_what_is_not_hidden_is_shown_as_it_is(
    task: Task, many: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    batch, targets = many
    before = batch["inputs"]["ids"]
    shown = jax.jit(task.shown)(batch["inputs"], targets)
    after = np.asarray(shown["ids"])
    rows = np.arange(2000)[:, None]
    np.testing.assert_array_equal(before[rows, targets["places"]], targets["ids"])
    np.testing.assert_array_equal(after[rows, targets["places"]], targets["given"])
    is_hidden = np.zeros(before.shape, bool)
    is_hidden[rows, targets["places"]] = targets["is_hidden"]
    np.testing.assert_array_equal(after[~is_hidden], before[~is_hidden])
    np.testing.assert_array_equal(shown["places"], targets["places"])
    np.testing.assert_array_equal(shown["mask"], batch["inputs"]["mask"])


def test_equal_keys_hide_the_same_and_others_do_not(task: Task) -> None:
    batch = batch_of([30] * 4, 32)
    first, same, other = (drawn(task, batch, key) for key in (0, 0, 1))
    for name, values in first.items():
        np.testing.assert_array_equal(values, same[name])
    assert [hidden_of(first, row) for row in range(4)] != [hidden_of(other, row) for row in range(4)]


@pytest.mark.parametrize("num_tokens", [42, 128])
def test_what_is_hidden_hangs_neither_on_padding_nor_on_the_other_examples(
    task: Task, num_tokens: int
) -> None:
    lengths = [40, 7, 0, 23]
    whole = drawn(task, batch_of(lengths, 44))
    # Other company, another order, another length: the same ids.
    other = drawn(task, batch_of([11, 23, 40, 0, 7], num_tokens, ids=[9, 3, 0, 2, 1]))
    for row, other_row in {0: 2, 1: 4, 2: 3, 3: 1}.items():
        assert hidden_of(whole, row) == hidden_of(other, other_row)
    assert hidden_of(whole, 0)


def test_examples_of_the_same_text_hide_different_words(task: Task) -> None:
    batch = batch_of([40] * 2, 48)
    batch["inputs"]["ids"][1] = batch["inputs"]["ids"][0]
    targets = drawn(task, batch)
    assert hidden_of(targets, 0).keys() != hidden_of(targets, 1).keys()


@pytest.fixture(scope="module")
def answered(task: Task) -> tuple[dict[str, Any], np.ndarray]:
    """A batch with targets whose last example is masked, and what a model might say."""
    batch = batch_of([40, 12, 0, 3, 25], 44)
    batch = {**batch, "target": drawn(task, batch), "mask": np.array([True, True, True, True, False])}
    random = np.random.default_rng(0)
    logits = random.normal(size=(*batch["target"]["ids"].shape, VOCABULARY)).astype(np.float32)
    # Every second answer is right.
    np.put_along_axis(logits[:, ::2], batch["target"]["ids"][:, ::2, None], 9.0, axis=2)
    return batch, logits


def _nats(logits: np.ndarray, targets: dict[str, np.ndarray]) -> np.ndarray:
    """Return the nats [b, k] by the formula, in float64; 0 where nothing is hidden."""
    wide = logits.astype(np.float64)
    own = np.take_along_axis(wide, targets["ids"][..., None], axis=2)[..., 0]
    return np.where(targets["is_hidden"], np.log(np.exp(wide).sum(axis=2)) - own, 0.0)


def test_loss_is_the_cross_entropy_added_up_over_what_is_hidden(
    task: Task, answered: tuple[dict[str, Any], np.ndarray]
) -> None:
    batch, logits = answered
    found = np.asarray(jax.jit(task.loss)(logits, batch["target"]))
    np.testing.assert_allclose(found, _nats(logits, batch["target"]).sum(axis=1), rtol=1e-5)
    assert found[2] == 0.0


def test_metrics_are_means_over_hidden_tokens_of_examples_that_count(
    task: Task, answered: tuple[dict[str, Any], np.ndarray]
) -> None:
    batch, logits = answered
    sums = metrics.merge(None, jax.jit(task.metrics)(logits, batch))
    targets, is_right = batch["target"], logits.argmax(axis=2) == batch["target"]["ids"]
    counted = targets["is_hidden"] & batch["mask"][:, None]
    assert (int(sums["count"]), int(sums["tokens"])) == (4, int(counted.sum())) == (4, 9)
    found = task.summarize(sums).scalars
    loss = _nats(logits, targets)[counted].mean()
    expected = {"loss": loss, "perplexity": np.exp(loss), "accuracy": is_right[counted].mean()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0.0 < found["accuracy"] < 1.0


def test_sums_of_parts_add_up_to_the_whole(task: Task, answered: tuple[dict[str, Any], np.ndarray]) -> None:
    batch, logits = answered
    measure = jax.jit(task.metrics)
    totals = None
    for rows in (slice(0, 2), slice(2, 5)):
        part = jax.tree.map(operator.itemgetter(rows), batch)
        totals = metrics.merge(totals, measure(logits[rows], part))
    whole = metrics.merge(None, measure(logits, batch))
    assert totals is not None
    assert task.summarize(totals).scalars == pytest.approx(task.summarize(whole).scalars, rel=1e-6)


def test_texts_without_words_give_numbers_all_the_same(task: Task) -> None:
    batch = batch_of([0, 0], 4)
    batch = {**batch, "target": drawn(task, batch)}
    logits = np.zeros((*batch["target"]["ids"].shape, VOCABULARY), np.float32)
    scalars = task.summarize(metrics.merge(None, jax.jit(task.metrics)(logits, batch))).scalars
    assert scalars == {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0}


def test_perplexity_of_a_loss_beyond_floats_is_finite(task: Task) -> None:
    sums = {name: np.asarray(value) for name, value in {"tokens": 1, "nats": 1e6, "correct": 0}.items()}
    assert np.isfinite(task.summarize(sums).scalars["perplexity"])


def test_predictions_of_several_models_are_the_mean_of_theirs(task: Task) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 2, 4, 7)).astype(np.float32)
    expected = np.mean([task.predictions(each) for each in jax.numpy.asarray(logits)], axis=0)
    np.testing.assert_allclose(
        task.predictions(task.averaged(jax.numpy.asarray(logits))), expected, rtol=1e-5
    )


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"hides tokens behind .* mask token, and this one has none"):
        masked_tokens.build(masked_tokens.Config(), masked_tokens.stats(np.zeros(1), ()), Preprocess())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, r"task.fraction is 0.0; expected 0 < value <= 1"),
        ({"fraction": 1.1}, r"task.fraction is 1.1; expected 0 < value"),
        (
            {"masked": 0.8, "random": 0.3},
            "task.masked is 0.8 and task.random 0.3; expected shares of at most",
        ),
        ({"random": -0.1}, "task.random is -0.1; expected 0 <= value <= 1"),
    ],
)
def test_shares_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        masked_tokens.Config(**settings)
