import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.errors import UserError
from jtl.strategies.contract import FROZEN, Context, Group
from jtl.training import optim

CONTEXT = Context(layers=(("stem",), ("block",), ("head",)), num_steps=20)
NAMES = ("stem/kernel", "stem/bias", "block/kernel", "block/bias", "head/kernel", "head/bias")


def _params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=(4, 3) if "kernel" in name else (3,)), jnp.float32)
        for name in NAMES
    }


def _run(
    config: optim.Config, groups: dict[str, Group], gradient: float | None = None, num_steps: int = 20
) -> list[dict[str, jax.Array]]:
    """Return the updates of each step, for constant gradients or those of half the squared norm."""
    params = {name: leaf for name, leaf in _params().items() if not groups[name].is_frozen}
    optimizer = optim.make(config, groups, num_steps)
    state = optimizer.init(params)
    history = []
    for _ in range(num_steps):
        grads = (
            params if gradient is None else jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
        )
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append(updates)
    return history


def test_adamw_equals_optax_with_the_same_schedule() -> None:
    config = optim.Config(learning_rate=0.1, weight_decay=0.3, decay_on="all", clip_norm=0.0)
    found = _run(config, dict.fromkeys(NAMES, Group()))
    params = _params()
    reference = optax.adamw(optim.schedule(config, 20), weight_decay=0.3)
    state = reference.init(params)
    for updates in found:
        expected, state = reference.update(params, state, params)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5), updates, expected
        )
        params = optax.apply_updates(params, expected)


def test_sgd_adds_weight_decay_to_the_gradient_before_the_momentum() -> None:
    config = optim.Config(
        name="sgd",
        learning_rate=0.1,
        weight_decay=0.5,
        decay_on="all",
        clip_norm=0.0,
        schedule="constant",
        warmup=0.0,
    )
    found = _run(config, dict.fromkeys(NAMES, Group()), gradient=0.2, num_steps=3)
    param, momentum = _params()["block/kernel"], 0.0
    for updates in found:
        momentum = 0.9 * momentum + (0.2 + 0.5 * param)
        np.testing.assert_allclose(updates["block/kernel"], -0.1 * momentum, rtol=1e-5)
        param = param - 0.1 * momentum


# Muon's iteration of matrix products compiles for long.
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name == "muon" else []) for name in optim.OPTIMIZERS]


@pytest.mark.parametrize("name", EACH)
def test_every_optimizer_brings_a_quadratic_down(name: str) -> None:
    rate = 0.01 if name != "sgd" else 0.05
    updates = _run(optim.Config(name=name, learning_rate=rate), dict.fromkeys(NAMES, Group()), num_steps=60)
    params = _params()
    before = optax.tree.norm(params)
    for update in updates:
        params = optax.apply_updates(params, update)
    assert optax.tree.norm(params) < 0.9 * before


@pytest.mark.parametrize("schedule", optim.SCHEDULES)
def test_schedule_warms_up_to_the_peak_and_first_rate_is_not_zero(schedule: str) -> None:
    rate = optim.schedule(optim.Config(schedule=schedule, learning_rate=2.0, warmup=0.1, end_factor=0.1), 100)
    assert float(rate(jnp.array(0))) == pytest.approx(0.2)
    assert float(rate(jnp.array(9))) == pytest.approx(2.0)
    assert all(float(rate(jnp.array(step))) <= 2.0 for step in range(100))


def test_cosine_and_linear_schedules_end_at_the_end_factor_and_halve_midway() -> None:
    for name in ("cosine", "linear"):
        rate = optim.schedule(optim.Config(schedule=name, learning_rate=1.0, warmup=0.0, end_factor=0.1), 100)
        assert float(rate(jnp.array(100))) == pytest.approx(0.1)
        assert float(rate(jnp.array(50))) == pytest.approx(0.55)


def test_inverse_schedule_is_that_of_the_papers_on_adaptation() -> None:
    """0.01 (1 + 0.001 step) to the power -0.75, over 20,000 steps."""
    config = optim.Config(schedule="inverse", learning_rate=0.01, warmup=0.0, inverse_scale=20.0)
    rate = optim.schedule(config, 20_000)
    for at_step in (0, 1, 1000, 19_999):
        found, expected = float(rate(jnp.asarray(at_step))), 0.01 * (1 + 0.001 * at_step) ** -0.75
        assert found == pytest.approx(expected, rel=1e-5)


def test_nesterov_looks_ahead_along_its_own_trace() -> None:
    """As PyTorch 2.13.0, SGD with nesterov: the gradient with decay, plus momentum times the new buffer."""
    config = optim.Config(
        name="nesterov", learning_rate=0.1, schedule="constant", warmup=0.0, clip_norm=0.0, weight_decay=0.3
    )
    updates = _run(config, {name: Group() for name in NAMES})
    leaf = np.asarray(_params()["stem/kernel"], np.float64)
    buffer = np.zeros_like(leaf)
    for _ in updates:
        gradient = leaf + 0.3 * leaf
        buffer = 0.9 * buffer + gradient
        leaf = leaf - 0.1 * (gradient + 0.9 * buffer)
    ended = _params()["stem/kernel"] + sum(each["stem/kernel"] for each in updates)
    np.testing.assert_allclose(ended, leaf, rtol=1e-4, atol=1e-5)


def test_step_schedule_multiplies_at_its_fractions() -> None:
    config = optim.Config(
        schedule="step", learning_rate=1.0, warmup=0.0, decay_at=(0.5, 0.75), decay_factor=0.1
    )
    rate = optim.schedule(config, 100)
    found = [float(rate(jnp.array(step))) for step in (49, 50, 74, 75)]
    assert found == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_clip_bounds_the_global_norm_over_all_groups_together() -> None:
    config = optim.Config(name="sgd", clip_norm=1.0, learning_rate=1.0, schedule="constant", warmup=0.0)
    groups = dict.fromkeys(NAMES, Group()) | {"head/kernel": Group(start_step=0, multiplier=1.0)}
    first = _run(config, groups, gradient=3.0, num_steps=1)[0]
    assert float(optax.tree.norm(first)) == pytest.approx(1.0, rel=1e-5)


def test_clip_sees_leaves_that_start_later_and_leaves_that_train_as_one() -> None:
    config = optim.Config(name="sgd", clip_norm=1.0, learning_rate=1.0, schedule="constant", warmup=0.0)
    groups = dict.fromkeys(NAMES, Group()) | {
        "stem/kernel": Group(start_step=1),
        "stem/bias": Group(start_step=1),
    }
    second = _run(config, groups, gradient=3.0, num_steps=2)[1]
    one = 1.0 / np.sqrt(3 * 12 + 3 * 3)
    np.testing.assert_allclose(second["stem/kernel"], -one, rtol=1e-5)
    np.testing.assert_allclose(second["head/kernel"], -1.9 * one, rtol=1e-5)


def test_frozen_leaves_have_no_optimizer_state() -> None:
    groups = dict.fromkeys(NAMES, FROZEN) | {"head/kernel": Group(), "head/bias": Group()}
    params = {name: leaf for name, leaf in _params().items() if "head" in name}
    state = optim.make(optim.Config(), groups, 10).init(params)
    num_values = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert num_values <= 2 * (12 + 3) + 5


def test_leaf_that_starts_later_does_not_move_before_and_then_takes_a_fresh_first_step() -> None:
    config = optim.Config(learning_rate=1e-2, schedule="constant", warmup=0.0, clip_norm=0.0)
    groups = dict.fromkeys(NAMES, Group()) | {"block/kernel": Group(start_step=5)}
    found = _run(config, groups, gradient=0.7)
    assert not any(np.any(updates["block/kernel"]) for updates in found[:5])
    # Adam's first step is the learning rate; a clock that had run before would give about three times that.
    np.testing.assert_allclose(found[5]["block/kernel"], -1e-2, rtol=1e-4)
    np.testing.assert_allclose(
        found[5]["block/kernel"], found[0]["head/kernel"][:1, :1] * np.ones((4, 3)), rtol=1e-4
    )


def test_leaf_ramps_up_to_its_rate_after_its_start() -> None:
    config = optim.Config(
        name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warmup=0.0, clip_norm=0.0
    )
    groups = dict.fromkeys(NAMES, Group()) | {"block/kernel": Group(start_step=2, ramp_steps=4)}
    found = [
        float(updates["block/kernel"][0, 0]) for updates in _run(config, groups, gradient=1.0, num_steps=8)
    ]
    assert found == pytest.approx([0, 0, -0.25, -0.5, -0.75, -1, -1, -1])


def test_multiplier_scales_the_update() -> None:
    config = optim.Config(learning_rate=1e-2, clip_norm=0.0)
    groups = dict.fromkeys(NAMES, Group()) | {"block/kernel": Group(multiplier=0.25)}
    first = _run(config, groups, gradient=1.0, num_steps=1)[0]
    np.testing.assert_allclose(first["block/kernel"], 0.25 * first["head/kernel"], rtol=1e-6)


def test_weight_decay_leaves_biases_norms_and_tokens_alone_by_default() -> None:
    for name in (
        "head/bias",
        "norm/scale",
        "cls",
        "Transformer/posembed_input/pos_embedding",
        "attention/query/bias",
    ):
        assert not optim.is_decayed(name, "kernels")
        assert optim.is_decayed(name, "all")
    assert optim.is_decayed("attention/query/kernel", "kernels")


def test_weight_decay_moves_kernels_without_a_gradient_and_no_bias() -> None:
    config = optim.Config(weight_decay=0.5, learning_rate=1e-2, schedule="constant", warmup=0.0)
    first = _run(config, dict.fromkeys(NAMES, Group()), gradient=0.0, num_steps=1)[0]
    np.testing.assert_allclose(first["head/kernel"], -1e-2 * 0.5 * _params()["head/kernel"], rtol=1e-5)
    assert not np.any(first["head/bias"])


def test_phases_are_the_distinct_starts() -> None:
    groups = {"a": Group(start_step=4), "b": Group(start_step=2), "c": Group(start_step=4), "d": FROZEN}
    assert optim.phases(groups) == [0, 2, 4]


def test_muon_orthogonalises_kernels_of_attention_over_all_heads() -> None:
    params = {"block/query/kernel": jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 4)), jnp.float32)}
    config = optim.Config(name="muon", learning_rate=1.0, schedule="constant", warmup=0.0, clip_norm=0.0)
    optimizer = optim.make(config, {"block/query/kernel": Group()}, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["block/query/kernel"]).reshape(8, 8), compute_uv=False)
    assert singular.max() / singular.min() < 2.0
    assert singular.mean() == pytest.approx(0.2 * np.sqrt(8), rel=0.2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "adamv", "optim.name is 'adamv'; expected one of 'adam'"),
        ("schedule", "cosin", "optim.schedule is 'cosin'; expected one of 'cosine'"),
        ("learning_rate", 0.0, "optim.learning_rate is 0.0; expected a positive number"),
        ("weight_decay", -1.0, "optim.weight_decay is -1.0; expected 0 or more"),
        ("ema", 1.0, "optim.ema is 1.0; expected 0 <= value < 1"),
        ("accumulate", 0, "optim.accumulate is 0; expected 1 or more"),
    ],
)
def test_setting_out_of_range_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        optim.Config(**{field: value})
