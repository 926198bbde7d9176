from typing import Any

import jax
import numpy as np
import pytest

from jtl import rng, tree
from jtl.inputs.image import Augment
from jtl.models import MODELS
from jtl.strategies.contract import TRAIN
from jtl.training import optim, step
from tests import tiny

LAST_TWO = (("encoderblock_1[01]/|encoder_norm|^head/", 1.0),)


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[float, float]]:
    """FLOPs and temporary bytes of the compiled ViT-Ti/16 train step on 8 images of 224 px."""
    found = {}
    for name, strategy, fields in (
        ("full", "full", {}),
        ("last2", "partial", {"rules": LAST_TWO}),
        ("probe", "probe", {}),
    ):
        config = MODELS["vit"].Config(size="ti16")
        parts, params, model_state = tiny.make_parts("vit", strategy, model_config=config, **fields)
        program = tiny.compiled(parts, tiny.make_batch(parts), params, model_state)
        found[name] = (program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes)
    return found


@pytest.mark.slow
def test_probe_costs_a_third_of_the_flops_of_full_fine_tuning(costs: dict) -> None:
    assert costs["probe"][0] <= 0.36 * costs["full"][0]


@pytest.mark.slow
def test_last_two_of_twelve_blocks_cost_half_the_flops_of_full_fine_tuning(costs: dict) -> None:
    assert costs["last2"][0] <= 0.50 * costs["full"][0]


@pytest.mark.slow
def test_memory_falls_as_leaves_freeze(costs: dict) -> None:
    assert costs["last2"][1] <= 0.25 * costs["full"][1]
    assert costs["probe"][1] <= 0.05 * costs["full"][1]


@pytest.mark.slow
def test_first_phase_of_gradual_unfreezing_costs_what_a_probe_costs(costs: dict) -> None:
    config = MODELS["vit"].Config(size="ti16")
    parts, params, model_state = tiny.make_parts("vit", "gradual", model_config=config)
    program = tiny.compiled(parts, tiny.make_batch(parts), params, model_state)
    assert program.cost_analysis()["flops"] <= 0.36 * costs["full"][0]


@pytest.mark.slow
def test_a_probe_of_a_text_encoder_costs_its_forward_pass_and_full_fine_tuning_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiny, "NUM_TOKENS", 32)
    settings = {"vocabulary": 100, "num_positions": 34, "dropout": 0.0, "attention_dropout": 0.0}
    config = MODELS["bert"].Config(size="bert_tiny", **settings)
    flops: dict[str, float] = {}
    for strategy in ("full", "probe"):
        parts, params, model_state = tiny.make_parts("bert", strategy, model_config=config)
        batch = tiny.make_batch(parts)
        program = tiny.compiled(parts, batch, params, model_state)
        flops[strategy] = program.cost_analysis()["flops"]
    forward = jax.jit(lambda params, inputs: parts.model.apply(params, model_state, inputs).logits)
    flops["forward"] = forward.lower(params, batch[TRAIN]["inputs"]).compile().cost_analysis()["flops"]
    # Two layers of four projections and an MLP of 4 times the width, and scores and mixtures of all tokens.
    num_tokens, dim = tiny.NUM_TOKENS, 128
    products = 8 * 2 * (2 * num_tokens * 12 * dim**2 + 4 * num_tokens**2 * dim)
    assert flops["forward"] == pytest.approx(products, rel=0.03)
    assert flops["probe"] == pytest.approx(flops["forward"], rel=1e-3)
    assert flops["full"] == pytest.approx(3 * products, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_eight_devices_give_the_loss_curve_of_one(model: str) -> None:
    augment = Augment(mixup_alpha=0.4, cutmix_alpha=1.0, erase_probability=0.5)
    config = optim.Config(name="sgd", learning_rate=1e-2)
    parts, params, model_state = tiny.make_parts(model, augment=augment, num_steps=5, optimizer=config)
    batches = [tiny.make_batch(parts, size=16, seed=seed) for seed in range(5)]
    start = tiny.make_state(parts, params, model_state)
    curves = [
        [values["loss"] for values in tiny.Trainer(parts, num_devices).train(start, batches)[1]]
        for num_devices in (1, 8)
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


# The loss is a mean over examples, or over hidden tokens, of which slices have different numbers.
@pytest.mark.parametrize(
    ("model", "task"), [("vit", "multiclass"), pytest.param("bert", "masked_tokens", marks=pytest.mark.slow)]
)
def test_slices_one_after_another_give_loss_and_gradient_of_the_whole_batch(
    model: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "NUM_TOKENS", 16)
    losses, ends = [], []
    for num_slices in (1, 4):
        config = optim.Config(name="sgd", learning_rate=0.1, accumulate=num_slices)
        parts, params, model_state = tiny.make_parts(model, task=task, optimizer=config)
        batch = tiny.make_batch(parts, task=task)
        batch[TRAIN]["mask"][5:] = False
        state, reported = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), [batch])
        losses.append(reported[0]["loss"])
        ends.append(tree.flatten(state.trainable))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name, leaf in ends[0].items():
        np.testing.assert_allclose(leaf, ends[1][name], atol=2e-6, err_msg=name)


def test_loss_of_masked_tokens_is_their_mean_over_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Σ loss / Σ weights, of the program that trains and by hand: not a mean of the examples' means."""
    monkeypatch.setattr(tiny, "NUM_TOKENS", 16)
    parts, params, model_state = tiny.make_parts("bert", task="masked_tokens")
    batch = tiny.make_batch(parts, task="masked_tokens")
    batch[TRAIN]["inputs"]["mask"][1:, 3:] = False
    batch[TRAIN]["mask"][5:] = False
    _, reported = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), [batch])

    @jax.jit
    def by_hand(params: Any, stream: Any) -> tuple[Any, Any]:
        inputs = parts.input.normalise(stream["inputs"], parts.preprocess)
        targets = parts.task.targets({**stream, "inputs": inputs}, rng.key(parts.seed, "targets", 0))
        outputs = parts.model.apply(params, model_state, parts.task.shown(inputs, targets))
        return parts.task.loss(outputs.logits, targets), parts.task.weights(targets)

    loss, weights = (np.asarray(each)[:5] for each in by_hand(params, batch[TRAIN]))
    assert len(set(weights.tolist())) > 1
    assert reported[0]["loss"] == pytest.approx(loss.sum() / weights.sum(), rel=1e-5)
    assert reported[0]["loss"] != pytest.approx(np.mean(loss / np.maximum(weights, 1.0)), rel=1e-3)


def test_masked_examples_have_no_part_in_the_gradient() -> None:
    parts, params, model_state = tiny.make_parts("vit", optimizer=optim.Config(name="sgd", learning_rate=0.1))
    batch = tiny.make_batch(parts)
    batch[TRAIN]["mask"][5:] = False
    other = {TRAIN: {**batch[TRAIN], "inputs": batch[TRAIN]["inputs"].copy()}}
    other[TRAIN]["inputs"][5:] = 7
    start = tiny.make_state(parts, params, model_state)
    ends = [tiny.Trainer(parts).train(start, [each])[0] for each in (batch, other)]
    for one, two in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_array_equal(one, two)


def _batch_norm_parts(**fields: Any) -> tuple[step.Parts, Any, Any]:
    return tiny.make_parts("resnet", "partial", rules=(("^block4/|^head/", 1.0),), **fields)


def test_statistics_of_frozen_layers_keep_their_bits_and_others_move() -> None:
    parts, params, model_state = _batch_norm_parts()
    state, _ = tiny.Trainer(parts).train(
        tiny.make_state(parts, params, model_state), [tiny.make_batch(parts)]
    )
    before, after = tree.flatten(model_state), tree.flatten(state.model_state)
    moved = {name for name, leaf in after.items() if not np.array_equal(leaf, before[name])}
    assert moved == {name for name in before if "block4/" in name}


def test_statistics_of_frozen_layers_move_when_they_may_adapt() -> None:
    parts, params, model_state = _batch_norm_parts(adapts_frozen_stats=True)
    state, _ = tiny.Trainer(parts).train(
        tiny.make_state(parts, params, model_state), [tiny.make_batch(parts)]
    )
    before, after = tree.flatten(model_state), tree.flatten(state.model_state)
    assert all(not np.array_equal(leaf, before[name]) for name, leaf in after.items())


def test_non_finite_loss_leaves_everything_but_the_step_as_it_was() -> None:
    parts, params, model_state = tiny.make_parts("vit", optimizer=optim.Config(ema=0.9))
    params["head"]["bias"] = np.full_like(params["head"]["bias"], np.nan)
    start = tiny.make_state(parts, params, model_state)
    state, reported = tiny.Trainer(parts).train(start, [tiny.make_batch(parts)])
    assert np.isnan(reported[0]["loss"])
    assert int(state.step) == 1
    for one, two in zip(
        jax.tree.leaves(state._replace(step=start.step)), jax.tree.leaves(start), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_average_follows_the_trainable_parameters_and_is_what_evaluation_sees() -> None:
    parts, params, model_state = tiny.make_parts("vit", optimizer=optim.Config(ema=0.5, learning_rate=0.1))
    start = tiny.make_state(parts, params, model_state)
    state, _ = tiny.Trainer(parts).train(start, [tiny.make_batch(parts)])
    name, rate = "head/kernel", 1.0 / 10.0
    first, last = (np.asarray(tree.flatten(each.trainable)[name]) for each in (start, state))
    np.testing.assert_allclose(tree.flatten(state.ema)[name], rate * first + (1 - rate) * last, rtol=1e-6)
    sums = step.make_eval_step(parts)(state, tiny.make_batch(parts)[TRAIN])
    averaged = state._replace(trainable=state.ema, ema={})
    expected = step.make_eval_step(parts)(averaged, tiny.make_batch(parts)[TRAIN])
    assert float(sums["loss"]) == float(expected["loss"])


@pytest.mark.slow
def test_fully_sharded_state_gives_the_loss_curve_of_a_replicated_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jtl.training import sharding

    monkeypatch.setattr(sharding, "FSDP_MIN_BYTES", 0)
    parts, params, model_state = tiny.make_parts("vit", num_steps=3, optimizer=optim.Config(name="sgd"))
    batches = [tiny.make_batch(parts, size=16, seed=seed) for seed in range(3)]
    start = tiny.make_state(parts, params, model_state)
    _, expected = tiny.Trainer(parts, 8).train(start, batches)
    settings = sharding.Config(mesh=(1, 0, 1))
    mesh = sharding.mesh(settings)
    place = sharding.of_state(start, settings, mesh)
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(place))
    train_step = step.make_train_step(parts, 0, place, sharding.of_batch(mesh))
    state = jax.device_put(jax.tree.map(np.array, start), place)
    for batch, values in zip(batches, expected, strict=True):
        state, found = train_step(state, sharding.put_batch(batch, mesh))
        assert float(found["loss"]) == pytest.approx(values["loss"], rel=1e-5)
