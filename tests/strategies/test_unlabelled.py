"""Learning from examples without labels: each loss against its paper's formula in numpy, and its memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import Outputs
from jtl.strategies import STRATEGIES, flex_match, free_match
from jtl.strategies.contract import UNLABELLED, Moment, plain_forward
from jtl.strategies.shared.unlabelled import STRONG, WEAK
from jtl.training import optim
from tests import tiny

NUM_STEPS = 20
LEARNING = ("fix_match", "flex_match", "free_match", "pseudo_label", "mean_teacher")
WITH_MEMORY = ("flex_match", "free_match")


def _softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(1, keepdims=True)


def _logits(size: int = 8, num_classes: int = 3, seed: int = 0) -> np.ndarray:
    """Logits of which some are sure and others are not."""
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(size, num_classes)) * np.where(np.arange(size) % 2, 6.0, 0.5)[:, None]
    return drawn.astype(np.float32)


def _moment(
    logits: dict[str, Any], *, memory: Any = (), at_step: int = 10, ids: Any = None, mask: Any = None
) -> Moment:
    size = len(next(iter(logits.values())))
    stream = {
        "mask": jnp.ones(size, bool) if mask is None else jnp.asarray(mask),
        "id": jnp.arange(size) if ids is None else jnp.asarray(ids),
    }
    outputs = {
        name: Outputs(jnp.zeros((size, 1)), jnp.asarray(each), {}, {}) for name, each in logits.items()
    }
    batch = dict.fromkeys(logits, stream)
    memory = jax.tree.map(jnp.asarray, memory)
    return Moment(plain_forward, {}, batch, outputs, jnp.asarray(at_step), jax.random.key(0), memory)


def _strategy(name: str, **fields: Any) -> Any:
    kind = STRATEGIES[name]
    context = tiny.Context((("stem",), ("head",)), NUM_STEPS, label_names=tuple("abc"), num_unlabelled=20)
    return kind.build(kind.Config(name=name, **fields), context)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(_softmax(logits)[np.arange(len(labels)), labels])


def test_fix_match_is_the_papers_formula() -> None:
    """Sohn et al. 2020, eq. 4: of what is not sure the loss is 0, and it counts in the mean."""
    weak, strong = _logits(), _logits(seed=1)
    probabilities = _softmax(weak)
    is_sure = probabilities.max(1) >= 0.9
    expected = np.sum(is_sure * _cross_entropy(strong, probabilities.argmax(1))) / len(weak)
    strategy = _strategy("fix_match", threshold=0.9, weight=2.0)
    loss, told = strategy.penalty(_moment({WEAK: weak, STRONG: strong}))
    assert float(loss) == pytest.approx(2 * expected, rel=1e-5)
    assert float(told["unlabelled_used"]) == pytest.approx(is_sure.mean())
    assert 0 < is_sure.mean() < 1


def test_padding_does_not_reach_the_loss_or_the_share() -> None:
    weak, strong, mask = _logits(), _logits(seed=1), np.arange(8) < 5
    for name in ("fix_match", "flex_match", "free_match"):
        strategy = _strategy(name)
        memory = strategy.memory()
        found = strategy.penalty(_moment({WEAK: weak, STRONG: strong}, mask=mask, memory=memory))
        other = {
            each: np.where(mask[:, None], logits, 77.0) for each, logits in ((WEAK, weak), (STRONG, strong))
        }
        same = strategy.penalty(_moment(other, mask=mask, memory=memory))
        np.testing.assert_allclose(
            *(jax.tree.leaves(each) for each in (found, same)), rtol=1e-6, err_msg=name
        )


def test_flex_match_thresholds_are_the_papers() -> None:
    """Zhang et al. 2021, eq. 7, 11 and 12, by counting."""
    last = np.array([0] * 6 + [1] * 3 + [2] + [flex_match.NONE] * 2)
    found = flex_match.thresholds(jnp.asarray(last), 3, 0.95)
    expected = [0.95 * share / (2 - share) for share in (6 / 6, 3 / 6, 1 / 6)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    at_first = np.array([0, 1] + [flex_match.NONE] * 8)
    share = 1 / 8
    expected = [0.95 * share / (2 - share)] * 2 + [0.0]
    np.testing.assert_allclose(flex_match.thresholds(jnp.asarray(at_first), 3, 0.95), expected, rtol=1e-6)


def test_flex_match_remembers_what_is_sure_and_of_an_example_that_is_there_twice_the_first() -> None:
    sure = 9.0 * np.eye(3, dtype=np.float32)
    weak = np.stack([sure[1], np.zeros(3, np.float32), sure[2], sure[0], sure[2]])
    strategy, before = _strategy("flex_match"), np.full(20, flex_match.NONE, np.int32)
    before[7] = 2
    ids = np.array([4, 7, 4, 9, 11])
    mask = np.array([True, True, True, True, False])
    moment = _moment({WEAK: weak, STRONG: weak}, memory={"last": before}, ids=ids, mask=mask)
    after = np.asarray(strategy.remember(moment)["last"])
    assert {place: int(after[place]) for place in (4, 7, 9, 11)} == {4: 1, 7: 2, 9: 0, 11: flex_match.NONE}
    assert (np.delete(after, [4, 7, 9]) == flex_match.NONE).all()


def test_free_match_memory_is_a_moving_average_that_begins_at_chance() -> None:
    """Wang et al. 2023, eq. 6 and 7."""
    weak, strategy = _logits(), _strategy("free_match", decay=0.8)
    memory = strategy.memory()
    np.testing.assert_allclose(memory["sure"], 1 / 3, rtol=1e-6)
    after = strategy.remember(_moment({WEAK: weak, STRONG: weak}, memory=memory))
    probabilities = _softmax(weak)
    np.testing.assert_allclose(after["sure"], 0.8 / 3 + 0.2 * probabilities.max(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(after["probabilities"], 0.8 / 3 + 0.2 * probabilities.mean(0), rtol=1e-5)
    counts = np.bincount(probabilities.argmax(1), minlength=3) / len(weak)
    np.testing.assert_allclose(after["labels"], 0.8 / 3 + 0.2 * counts, rtol=1e-5)


def test_free_match_thresholds_and_fairness_are_the_papers() -> None:
    """Wang et al. 2023, eq. 8 and 10 to 12, sum by sum."""
    found = free_match.thresholds(jnp.asarray(0.6), jnp.asarray([0.5, 0.25, 0.25]))
    np.testing.assert_allclose(found, [0.6, 0.3, 0.3], rtol=1e-6)
    strong, is_used = _logits(seed=1), np.arange(8) < 6
    expected_shares = np.array([0.2, 0.3, 0.5], np.float32)
    probabilities = _softmax(strong)[:6]
    share = np.bincount(probabilities.argmax(1), minlength=3) / 6
    scaled = np.divide(probabilities.mean(0), share, out=np.zeros(3), where=share > 0)
    expected = np.sum(expected_shares * np.log(scaled / scaled.sum() + free_match.TINY))
    value = free_match.fairness(jnp.asarray(strong), jnp.asarray(is_used), jnp.asarray(expected_shares))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    nothing = free_match.fairness(jnp.asarray(strong), jnp.zeros(8, bool), jnp.asarray(expected_shares))
    assert float(nothing) == 0.0


@pytest.mark.parametrize("name", ["fix_match", "flex_match", "free_match"])
def test_no_gradient_reaches_what_gave_the_labels(name: str) -> None:
    strategy = _strategy(name)

    def penalty(weak: Any, strong: Any) -> Any:
        weak = jax.lax.stop_gradient(weak) if strategy.streams[WEAK].has_gradient else weak
        return strategy.penalty(_moment({WEAK: weak, STRONG: strong}, memory=strategy.memory()))[0]

    of_weak, of_strong = jax.grad(penalty, (0, 1))(jnp.asarray(_logits()), jnp.asarray(_logits(seed=1)))
    assert float(jnp.abs(of_weak).max()) == 0.0
    assert float(jnp.abs(of_strong).max()) > 0.0


@pytest.mark.parametrize(("at_step", "part"), [(0, 0.0), (2, 0.0), (7, 0.5), (12, 1.0), (19, 1.0)])
def test_pseudo_label_counts_more_and_more(at_step: int, part: float) -> None:
    logits = _logits()
    loss, told = _strategy("pseudo_label").penalty(_moment({WEAK: logits}, at_step=at_step))
    expected = _cross_entropy(logits, logits.argmax(1)).mean()
    assert float(told["unlabelled_weight"]) == pytest.approx(3 * part, abs=1e-6)
    assert float(loss) == pytest.approx(3 * part * expected, rel=1e-5, abs=1e-6)


def test_mean_teacher_asks_for_nothing_where_both_are_the_same_and_moves_the_student_alone() -> None:
    strategy, apart = _strategy("mean_teacher", weight=6.0), 0.3
    logits = _logits()

    def penalty(student: Any, average: Any) -> Any:
        moment = _moment({"student": student, "teacher": logits}, at_step=NUM_STEPS)
        moment.batch["teacher"]["inputs"] = jnp.asarray(logits)

        def forward(params: Any, inputs: Any, *, key: Any) -> Outputs:
            del key
            return Outputs(inputs, inputs + params[None], {}, {})

        return strategy.penalty(moment._replace(forward=forward, average=average))[0]

    shift = jnp.asarray([apart, 0.0, 0.0])
    assert float(penalty(jnp.asarray(logits), jnp.zeros(3))) == 0.0
    expected = np.mean(np.square(_softmax(logits) - _softmax(logits + np.array([apart, 0, 0]))))
    assert float(penalty(jnp.asarray(logits), shift)) == pytest.approx(6 * expected, rel=1e-4)
    of_student, of_teacher = jax.grad(penalty, (0, 1))(jnp.asarray(logits), shift)
    assert float(jnp.abs(of_student).max()) > 0.0
    assert float(jnp.abs(of_teacher).max()) == 0.0


def test_streams_of_every_strategy_that_learns_from_unlabelled_examples() -> None:
    made = {name: tiny.make_parts("vit", name)[0].strategy for name in STRATEGIES}
    of = {name: {each.of for each in strategy.streams.values()} for name, strategy in made.items()}
    assert {name for name, found in of.items() if UNLABELLED in found} == set(LEARNING)
    assert {name for name, strategy in made.items() if jax.tree.leaves(strategy.memory())} == set(WITH_MEMORY)
    assert all(made[name].shown for name in LEARNING)


@pytest.mark.slow
def test_memory_goes_from_slice_to_slice_and_stays_where_the_loss_is_not_finite() -> None:
    settings = optim.Config(learning_rate=1e-2, accumulate=2)
    parts, params, model_state = tiny.make_parts(
        "vit", "flex_match", optimizer=settings, threshold=0.0, times=1
    )
    before = tiny.make_state(parts, params, model_state)
    batch, trainer = tiny.make_batch(parts), tiny.Trainer(parts)
    batch[WEAK]["id"] = np.zeros(8, np.int64)
    after, _ = trainer.train(before, [batch])
    assert int(after.memory["last"][0]) != flex_match.NONE
    broken = jax.tree.map(lambda leaf: leaf, batch)
    broken["train"]["mask"] = np.full(8, np.nan)
    kept, reported = trainer.train(before, [broken])
    assert not np.isfinite(reported[0]["loss"])
    assert int(kept.memory["last"][0]) == flex_match.NONE


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_step_over_eight_devices_is_that_of_one(name: str) -> None:
    # Adam makes a whole step of the rounding of a gradient that is zero, as those of the keys' biases are.
    parts, params, model_state = tiny.make_parts("vit", name, optimizer=optim.Config(name="sgd"))
    state, batches = tiny.make_state(parts, params, model_state), [tiny.make_batch(parts)]
    one, other = (tiny.Trainer(parts, count).train(state, batches) for count in (1, 8))
    for found, expected in zip(jax.tree.leaves(other[0]), jax.tree.leaves(one[0]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert other[1][0] == pytest.approx(one[1][0], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_tasks_without_one_class_an_example_are_refused(name: str, task: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' needs probabilities of classes .* kind '{task}'"):
        tiny.make_parts("vit", name, task=task)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("fix_match", {"times": 0}, "strategy.times is 0; expected 1 or more"),
        ("fix_match", {"threshold": 1.5}, "strategy.threshold is 1.5"),
        ("free_match", {"decay": 1.0}, "strategy.decay is 1.0"),
        ("pseudo_label", {"rise": (0.6, 0.1)}, "strategy.rise is .*; expected the earlier part"),
        ("mean_teacher", {"weight": -1.0}, "strategy.weight is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        STRATEGIES[name].Config(name=name, **fields)


@pytest.mark.slow
def test_streams_without_gradient_run_apart_to_the_same_outputs() -> None:
    """Without batch normalisation it is the same whether the weak view runs with the others or by itself."""
    parts, params, model_state = tiny.make_parts("vit", "fix_match", threshold=0.0, times=1)
    together = parts.strategy._replace(
        streams={name: each._replace(has_gradient=True) for name, each in parts.strategy.streams.items()}
    )
    batch = tiny.make_batch(parts)
    found = []
    for strategy in (parts.strategy, together):
        own = parts._replace(strategy=strategy)
        state, reported = tiny.Trainer(own).train(tiny.make_state(own, params, model_state), [batch])
        found.append((jax.device_get(state.trainable), reported[0]["loss"]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    for one, other in zip(*(jax.tree.leaves(each[0]) for each in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
