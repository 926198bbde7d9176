"""Domain adaptation: each penalty against its paper's formula in numpy or PyTorch, gradients and masks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import Outputs
from jtl.strategies import STRATEGIES, cdan, dan, mcc, mdd
from jtl.strategies.contract import TARGET, TRAIN, Moment, plain_forward
from jtl.strategies.shared import adversarial
from jtl.training import config, step
from tests import tiny

NUM_STEPS = 20
ADAPTING = ("dann", "cdan", "mcc", "mdd", "dan")


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _streams(size: int = 6, dim: int = 16, num_classes: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and logits of both streams."""
    return {
        name: (_draw(size, dim, seed=seed) + seed, _draw(size, num_classes, seed=seed + 2))
        for seed, name in enumerate((TRAIN, TARGET))
    }


def _penalty(parts: step.Parts, params: Any, at_step: int = 10, masks: Any = None) -> Any:
    """The penalty as a function of (extra, {stream: (features, logits)})."""

    def run(extra: Any, streams: Any) -> tuple[Any, dict[str, Any]]:
        outputs = {name: Outputs(*map(jnp.asarray, each), {}, {}) for name, each in streams.items()}
        batch = {
            name: {"mask": jnp.ones(len(each[0]), bool) if masks is None else jnp.asarray(masks[name])}
            for name, each in streams.items()
        }
        whole = {**params, **({"extra": extra} if extra else {})}
        assert parts.strategy.penalty is not None
        moment = Moment(plain_forward, whole, batch, outputs, jnp.asarray(at_step), jax.random.key(0))
        return parts.strategy.penalty(moment)

    return run


def _made(strategy: str, **fields: Any) -> tuple[step.Parts, Any, Any]:
    parts, params, _ = tiny.make_parts("vit", strategy, num_steps=NUM_STEPS, **fields)
    return parts, params, jax.tree.map(jnp.asarray, params.get("extra", {}))


def _softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(1, keepdims=True)


def _network(params: Any, x: Any) -> Any:
    """The same ReLU network, layer by layer."""
    *hidden, _ = params
    for name in hidden:
        x = jnp.maximum(x @ params[name]["kernel"] + params[name]["bias"][None], 0)
    return x @ params["out"]["kernel"] + params["out"]["bias"][None]


def _plain_domain_gradients(extra: Any, streams: Any) -> tuple[float, list[np.ndarray]]:
    """The plain discriminator's binary cross-entropy, and its gradients with respect to the features."""

    def loss(features: list[Any]) -> Any:
        source, target = (jax.nn.sigmoid(_network(extra["discriminator"], each)[:, 0]) for each in features)
        return -jnp.mean(jnp.log(1 - source)) - jnp.mean(jnp.log(target))

    value, grads = jax.value_and_grad(loss)([jnp.asarray(streams[name][0]) for name in (TRAIN, TARGET)])
    return float(value), [np.asarray(each) for each in grads]


def test_dann_gradient_of_features_is_minus_lambda_times_the_plain_one() -> None:
    parts, params, extra = _made("dann", hidden_widths=(8,), gamma=3.0, max_lambda=0.7)
    streams = _streams()
    found, plain = _plain_domain_gradients(extra, streams)
    for at_step in (0, 10):
        value, reported = _penalty(parts, params, at_step)(extra, streams)
        assert float(value) == pytest.approx(found, rel=1e-6)
        expected = 0.7 * (2 / (1 + np.exp(-3.0 * at_step / NUM_STEPS)) - 1)
        assert float(reported["lambda"]) == pytest.approx(expected, rel=1e-6)
        run = _penalty(parts, params, at_step)
        grads = jax.grad(lambda each, run=run: run(extra, each)[0])(streams)
        for name, gradient in zip((TRAIN, TARGET), plain, strict=True):
            np.testing.assert_allclose(grads[name][0], -expected * gradient, rtol=1e-5, atol=1e-8)


def test_reversed_gradient_is_exactly_minus_lambda_times_the_other_and_leaves_the_value() -> None:
    x, strength = jnp.asarray(_draw(4, 3)), jnp.asarray(0.3)
    weight = jnp.asarray(_draw(4, 3, seed=1))
    plain = jax.grad(lambda y: jnp.sum(jnp.sin(y) * weight))(x)
    found = jax.grad(lambda y: jnp.sum(jnp.sin(adversarial.reversed_gradient(y, strength)) * weight))(x)
    np.testing.assert_array_equal(found, -strength * plain)
    np.testing.assert_array_equal(adversarial.reversed_gradient(x, strength), x)


def test_discriminators_own_gradient_is_not_reversed() -> None:
    parts, params, extra = _made("dann", hidden_widths=(8,))
    streams = _streams()
    for at_step in (0, 10):
        run = _penalty(parts, params, at_step)
        grads = jax.grad(lambda each, run=run: run(each, streams)[0])(extra)
        lower = jax.tree.map(lambda leaf, gradient: leaf - 0.05 * gradient, extra, grads)
        assert float(run(lower, streams)[0]) < float(run(extra, streams)[0])


def test_strength_is_zero_at_the_first_step_and_the_papers_schedule_after() -> None:
    steps = np.arange(0, 101, 10)
    found = [float(adversarial.strength(jnp.asarray(each), 100, 2.0, 10.0)) for each in steps]
    np.testing.assert_allclose(found, 2.0 * np.tanh(5.0 * steps / 100), rtol=1e-5)
    assert found[0] == 0.0


def test_cdan_with_one_class_is_dann() -> None:
    for is_weighted in (False, True):
        dann_parts, dann_params, extra = _made("dann")
        cdan_parts, cdan_params, _ = _made("cdan", has_entropy_weights=is_weighted)
        streams = _streams(num_classes=1)
        expected = _penalty(dann_parts, dann_params)(extra, streams)
        found = _penalty(cdan_parts, cdan_params)(extra, streams)
        assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)


def test_cdan_sees_every_product_and_counts_certain_examples_more() -> None:
    parts, params, extra = _made("cdan", hidden_widths=())
    streams = _streams()
    kernel, bias = (np.asarray(extra["discriminator"]["out"][name]) for name in ("kernel", "bias"))
    expected = 0.0
    for name, sign in ((TRAIN, 1.0), (TARGET, -1.0)):
        features, logits = streams[name]
        probabilities = _softmax(logits)
        weights = 1 + np.exp(np.sum(probabilities * np.log(probabilities), axis=1))
        scores = [
            np.outer(f, p).ravel() @ kernel[:, 0] + bias[0]
            for f, p in zip(features, probabilities, strict=True)
        ]
        losses = np.log1p(np.exp(sign * np.array(scores)))
        expected += np.sum(weights * losses) / np.sum(weights)
    assert float(_penalty(parts, params)(extra, streams)[0]) == pytest.approx(expected, rel=1e-5)


def test_cdan_projection_keeps_inner_products_on_average() -> None:
    """What random products are for: they stand for the inner products of all of them (Long et al. 2018)."""
    features, probabilities = jnp.asarray(_draw(2, 16)), jnp.asarray(_softmax(_draw(2, 5)), jnp.float32)
    matrices = cdan.draw_projections(jax.random.key(0), (16, 5), 200_000)
    whole, projected = (cdan.joint(features, probabilities, each) for each in ({}, matrices))
    np.testing.assert_allclose(projected @ projected.T, whole @ whole.T, atol=0.2)
    assert float(jnp.max(jnp.abs(whole @ whole.T))) > 2.0


def test_cdan_projects_where_products_are_many_and_never_trains_the_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cdan, "MAX_JOINT", 20)
    parts, params, extra = _made("cdan", projected_dim=12, hidden_widths=(4,))
    assert extra["projections"]["features"].shape == (16, 12)
    assert extra["projections"]["classes"].shape == (3, 12)
    assert extra["discriminator"]["hidden0"]["kernel"].shape == (12, 4)
    frozen = [name for name, group in parts.groups.items() if group.is_frozen]
    assert sorted(frozen) == ["extra/projections/classes", "extra/projections/features"]
    assert np.isfinite(float(_penalty(parts, params)(extra, _streams())[0]))


def test_mcc_is_the_papers_formula() -> None:
    """Jin et al. 2020, eq. 2 to 7, sum by sum."""
    logits, temperature = _draw(7, 4), 2.5
    y = _softmax(logits / temperature)
    entropies = -np.sum(y * np.log(y), axis=1)
    weights = 7 * (1 + np.exp(-entropies)) / np.sum(1 + np.exp(-entropies))
    total = 0.0
    for j in range(4):
        row = [sum(weights[i] * y[i, j] * y[i, k] for i in range(7)) for k in range(4)]
        total += sum(row[k] for k in range(4) if k != j) / sum(row)
    found = mcc.confusion(jnp.asarray(logits), jnp.ones(7, bool), temperature)
    assert float(found) == pytest.approx(total / 4, rel=1e-5)
    parts, params, extra = _made("mcc", weight=3.0)
    streams = {TRAIN: (logits, logits), TARGET: (logits, logits)}
    assert float(_penalty(parts, params)(extra, streams)[0]) == pytest.approx(3 * total / 4, rel=1e-5)


def test_mcc_gradient_takes_the_weights_as_given() -> None:
    fixed = _softmax(_draw(7, 4) / 2.5)
    weights = 1 + np.exp((fixed * np.log(fixed)).sum(1))

    def with_weights_given(logits: Any) -> Any:
        y = jnp.exp(logits / 2.5) / jnp.sum(jnp.exp(logits / 2.5), axis=1, keepdims=True)
        matrix = y.T @ (jnp.asarray(7 * weights / weights.sum(), jnp.float32)[:, None] * y)
        matrix = matrix / jnp.sum(matrix, axis=1, keepdims=True)
        return (jnp.sum(matrix) - jnp.trace(matrix)) / 4

    expected = jax.grad(with_weights_given)(jnp.asarray(_draw(7, 4)))
    found = jax.grad(lambda each: mcc.confusion(each, jnp.ones(7, bool), 2.5))(jnp.asarray(_draw(7, 4)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_mdd_is_the_papers_formula() -> None:
    """Zhang et al. 2019, eq. 28 and 29 (minus the discrepancy): margin times agreement, and disagreement."""
    parts, params, extra = _made("mdd", margin=4.0, hidden_widths=())
    streams = _streams()
    kernel, bias = (np.asarray(extra["adversary"]["out"][name], np.float64) for name in ("kernel", "bias"))
    chosen = {}
    for name, (features, logits) in streams.items():
        probabilities = _softmax(features @ kernel + bias)
        chosen[name] = probabilities[np.arange(len(features)), logits.argmax(1)]
    expected = -4.0 * np.mean(np.log(chosen[TRAIN])) - np.mean(np.log(1 - chosen[TARGET]))
    assert float(_penalty(parts, params)(extra, streams)[0]) == pytest.approx(expected, rel=1e-5)


def test_mdd_disagreement_is_finite_where_the_adversary_is_sure() -> None:
    adversary, logits = jnp.asarray([[60.0, 0.0, 0.0]]), jnp.asarray([[1.0, 0.0, 0.0]])
    loss, grad = jax.value_and_grad(lambda each: mdd.disagreement_loss(each, logits)[0])(adversary)
    assert float(loss) == pytest.approx(60.0 - np.log(2.0), rel=1e-6)
    np.testing.assert_allclose(grad, [[1.0, -0.5, -0.5]], atol=1e-6)


def test_mdd_reverses_what_reaches_the_features_and_not_the_classifier() -> None:
    parts, params, extra = _made("mdd", max_lambda=0.1)
    plain, reversed_ = (_penalty(parts, params, at_step) for at_step in (0, NUM_STEPS))
    streams = _streams()
    still, grads = (
        jax.grad(lambda each, run=run: run(extra, each)[0])(streams) for run in (plain, reversed_)
    )
    assert float(jnp.max(jnp.abs(still[TARGET][0]))) == 0.0
    assert float(jnp.max(jnp.abs(grads[TARGET][0]))) > 0.0
    assert float(jnp.max(jnp.abs(grads[TARGET][1]))) == 0.0


def _numpy_mmd(source: np.ndarray, target: np.ndarray, powers: tuple[int, ...], is_unbiased: bool) -> float:
    """Gretton et al. 2012, eq. 3 (unbiased) and 5 (biased), pair by pair."""
    both = np.concatenate([source, target]).astype(np.float64)
    pairs = [(i, j) for i in range(len(both)) for j in range(len(both)) if i != j]
    mean = np.mean([np.sum((both[i] - both[j]) ** 2) for i, j in pairs])

    def average(one: np.ndarray, other: np.ndarray, is_same: bool) -> float:
        values = [
            np.mean([np.exp(-np.sum((a - b) ** 2) / (mean * 2.0**power)) for power in powers])
            for i, a in enumerate(one.astype(np.float64))
            for j, b in enumerate(other.astype(np.float64))
            if not (is_same and is_unbiased and i == j)
        ]
        return float(np.mean(values))

    same = average(source, source, True) + average(target, target, True)
    return same - 2 * average(source, target, False)


@pytest.mark.parametrize("is_unbiased", [True, False])
def test_mmd_is_the_mean_over_pairs(is_unbiased: bool) -> None:
    source, target = _draw(5, 4), _draw(7, 4, seed=1) + 0.5
    found = dan.squared_mmd(
        *map(jnp.asarray, (source, target)),
        *(jnp.ones(size, bool) for size in (5, 7)),
        powers=(-1, 0, 1),
        is_unbiased=is_unbiased,
    )
    assert float(found) == pytest.approx(_numpy_mmd(source, target, (-1, 0, 1), is_unbiased), abs=2e-6)


def test_dan_of_the_published_protocol_adds_up_the_five_kernels_of_its_script() -> None:
    """exp(-d / (2 2^k mean)), k from -3 to 1, without the constant that the script adds."""
    source, target = _draw(6, 16), _draw(6, 16, seed=1) + 0.5
    both = np.concatenate([source, target]).astype(np.float64)
    distances = np.sum((both[:, None] - both[None]) ** 2, axis=-1)
    mean = np.sum(distances) / (12 * 11)
    kernel = np.zeros((12, 12))
    for k in range(-3, 2):
        kernel += np.exp(-distances / (2 * 2.0**k * mean))
    is_other = ~np.eye(6, dtype=bool)
    within = kernel[:6, :6][is_other].mean() + kernel[6:, 6:][is_other].mean()
    settings = config.read("configs/da.py:office31,dan").strategy
    parts, params, extra = _made("dan", **{**dataclasses.asdict(settings), "name": "dan"})
    streams = {TRAIN: (source, source[:, :3]), TARGET: (target, target[:, :3])}
    found = float(_penalty(parts, params)(extra, streams)[0])
    assert found == pytest.approx(within - 2 * kernel[:6, 6:].mean(), abs=1e-5)


def test_biased_mmd_is_zero_for_equal_samples_and_above_it_for_others() -> None:
    x, real = jnp.asarray(_draw(5, 4)), jnp.ones(5, bool)
    values = [
        float(dan.squared_mmd(x, x + shift, real, real, powers=(0,), is_unbiased=False)) for shift in (0, 1)
    ]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert values[1] > 0.1


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1)])
def test_unbiased_mmd_of_one_image_is_refused(sizes: tuple[int, int]) -> None:
    samples = [jnp.asarray(_draw(size, 4)) for size in sizes]
    masks = [jnp.ones(size, bool) for size in sizes]
    with pytest.raises(UserError, match=r"found 1 in a slice .*; expected 2 or more: raise train.batch_size"):
        dan.squared_mmd(*samples, *masks, powers=(0,), is_unbiased=True)
    assert np.isfinite(float(dan.squared_mmd(*samples, *masks, powers=(0,), is_unbiased=False)))


def test_dan_adds_up_its_layers_and_is_finite_where_all_logits_are_equal() -> None:
    parts, params, extra = _made("dan", weight=2.0)
    streams = _streams()
    value, reported = _penalty(parts, params)(extra, streams)
    assert float(value) == pytest.approx(2 * sum(float(each) for each in reported.values()), rel=1e-6)
    flat = {name: (features, np.zeros_like(logits)) for name, (features, logits) in streams.items()}
    value, grads = jax.value_and_grad(lambda each: _penalty(parts, params)(extra, each)[0])(flat)
    assert np.isfinite(float(value))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("strategy", ADAPTING)
def test_padded_examples_of_either_stream_change_nothing(strategy: str) -> None:
    parts, params, extra = _made(strategy)
    streams = _streams(size=6)
    cut = {name: (features[:4], logits[:4]) for name, (features, logits) in streams.items()}
    expected, _ = _penalty(parts, params)(extra, cut)
    masks = dict.fromkeys(streams, np.arange(6) < 4)
    run = _penalty(parts, params, masks=masks)
    found, grads = jax.value_and_grad(lambda each: run(extra, each)[0])(streams)
    assert float(found) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.asarray(leaf)[4:] == 0.0)


def test_batch_statistics_are_those_of_both_streams_in_one_pass() -> None:
    parts, params, model_state = tiny.make_parts("resnet", "mcc")
    batch = tiny.make_batch(parts)
    state, _ = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), [batch])
    streams = [batch[name]["inputs"] for name in (TRAIN, TARGET)]
    mean, std = (np.asarray(each, np.float32) for each in (parts.preprocess.mean, parts.preprocess.std))
    apply = jax.jit(lambda x: parts.model.apply(params, model_state, x, train=True, key=jax.random.key(0)))

    def statistics(*images: np.ndarray) -> list[Any]:
        inputs = (np.concatenate(images) / np.float32(255) - mean) / std
        return jax.tree.leaves(apply(jnp.asarray(inputs)).model_state)

    found = jax.tree.leaves(state.model_state)
    for one, other in zip(found, statistics(*streams), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    of_source = statistics(streams[0], streams[0])
    assert max(np.abs(np.asarray(a) - b).max() for a, b in zip(found, of_source, strict=True)) > 1e-3


def test_every_adapting_strategy_reads_the_target_and_no_other_strategy_does() -> None:
    made = {name: tiny.make_parts("vit", name)[0] for name in STRATEGIES}
    read = {name: {each.of for each in parts.strategy.streams.values()} for name, parts in made.items()}
    assert {name for name, found in read.items() if TARGET in found} == set(ADAPTING)
    assert all(tuple(made[name].strategy.streams) == (TARGET,) for name in ADAPTING)


@pytest.mark.parametrize("strategy", ["dann", "cdan", "mdd"])
def test_what_stands_in_a_padded_row_does_not_reach_the_loss(strategy: str) -> None:
    parts, params, extra = _made(strategy)
    streams = _streams(size=6)
    masks = dict.fromkeys(streams, np.arange(6) < 4)
    expected, _ = _penalty(parts, params, masks=masks)(extra, streams)
    for features, logits in streams.values():
        features[4:], logits[4:] = np.nan, np.nan
    found, reported = _penalty(parts, params, masks=masks)(extra, streams)
    assert float(found) == float(expected)
    assert all(np.isfinite(float(value)) for value in reported.values())


@pytest.mark.parametrize("strategy", ["cdan", "mcc", "mdd"])
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_methods_that_need_classes_refuse_other_tasks(strategy: str, task: str) -> None:
    with pytest.raises(UserError, match=rf"'{strategy}' needs probabilities of classes .* kind '{task}'"):
        tiny.make_parts("vit", strategy, task=task)


@pytest.mark.parametrize(
    ("strategy", "fields", "message"),
    [
        ("dann", {"max_lambda": -1.0}, "strategy.max_lambda is -1.0"),
        ("dann", {"hidden_widths": (0,)}, r"strategy.hidden_widths is \(0,\)"),
        ("cdan", {"gamma": 0.0}, "strategy.gamma is 0.0"),
        ("cdan", {"projected_dim": 0}, "strategy.projected_dim is 0"),
        ("mcc", {"temperature": 0.0}, "strategy.temperature is 0.0"),
        ("mdd", {"margin": 0.0}, "strategy.margin is 0.0"),
        ("dan", {"weight": -1.0}, "strategy.weight is -1.0"),
        ("dan", {"layers": ("feature",)}, "strategy.layers names 'feature'; expected of 'features'"),
        ("dan", {"bandwidth_powers": ()}, "expected at least one of each"),
    ],
)
def test_settings_out_of_range_are_refused(strategy: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", strategy, **fields)
