"""What a step does beside one loss and one gradient: second streams, frozen names, SAM, and averages."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.inputs.image import Augment
from jtl.strategies import Group, Strategy
from jtl.strategies.contract import OF_TARGET, TARGET, TRAIN, Moment
from jtl.training import optim, step
from tests import tiny

SGD = optim.Config(
    name="sgd", learning_rate=0.1, momentum=0.0, warmup=0.0, schedule="constant", clip_norm=0.0
)


def _with_target(parts: step.Parts, penalty: Any) -> step.Parts:
    strategy = Strategy(
        groups=lambda names: dict.fromkeys(names, Group()), streams=OF_TARGET, penalty=penalty
    )
    return parts._replace(strategy=strategy)


def _after(
    parts: step.Parts, params: Any, model_state: Any, batches: list[Any], trainer: Any = None
) -> tuple[Any, list[Any]]:
    state, reported = (trainer or tiny.Trainer(parts)).train(
        tiny.make_state(parts, params, model_state), batches
    )
    return jax.device_get(state), reported


def test_target_runs_beside_the_training_images_and_a_penalty_of_zero_changes_nothing() -> None:
    parts, params, model_state = tiny.make_parts("vit", optimizer=SGD)
    plain, _ = _after(parts, params, model_state, [tiny.make_batch(parts)])

    def penalty(moment: Moment) -> Any:
        outputs = moment.outputs
        again = moment.forward(moment.params, moment.batch[TARGET]["inputs"], key=None, train=False)
        shift = jnp.abs(outputs[TARGET].features - again.features).max()
        layer = jnp.abs(outputs[TARGET].intermediates["block0"] - again.intermediates["block0"]).max()
        differs = jnp.abs(outputs[TRAIN].features - again.features).max()
        return jnp.zeros([]), {"shift": shift, "layer": layer, "differs": differs}

    both = _with_target(parts, penalty)
    batch = {**tiny.make_batch(parts), **{TARGET: _images(parts, seed=5)}}
    found, reported = _after(both, params, model_state, [batch])
    assert reported[0]["shift"] < 1e-5
    assert reported[0]["layer"] < 1e-5
    assert reported[0]["differs"] > 1e-3
    for name, leaf in tree.flatten(plain.trainable).items():
        np.testing.assert_allclose(
            tree.flatten(found.trainable)[name], leaf, rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_both_streams_are_erased_alike_and_in_other_places() -> None:
    """A discriminator must not tell the domains apart by what augmentation did to one of them."""
    plain, params, model_state = tiny.make_parts("vit", optimizer=SGD, augment=Augment(erase_probability=1.0))
    is_erased: dict[str, np.ndarray] = {}

    def penalty(moment: Moment) -> Any:
        found = {name: jnp.all(moment.batch[name]["inputs"] == 0.0, axis=-1) for name in (TRAIN, TARGET)}
        jax.debug.callback(lambda each: is_erased.update(jax.device_get(each)), found)
        return jnp.zeros([]), {}

    train = tiny.make_batch(plain)[TRAIN]
    batch = {TRAIN: train, TARGET: {name: train[name] for name in ("inputs", "mask", "id")}}
    _after(_with_target(plain, penalty), params, model_state, [batch])
    jax.effects_barrier()
    for name in (TRAIN, TARGET):
        assert is_erased[name].any(axis=(1, 2)).all(), name
    assert (is_erased[TRAIN] != is_erased[TARGET]).any(axis=(1, 2)).mean() > 0.5


def test_statistics_are_of_both_streams() -> None:
    """One forward pass sees the images of both, so its batch statistics are those of one larger batch."""
    parts, params, model_state = tiny.make_parts("resnet", optimizer=SGD)
    both = _with_target(parts, lambda moment: (jnp.zeros([]), {}))
    train, target = tiny.make_batch(parts), _images(parts, seed=5)
    found, _ = _after(both, params, model_state, [{**train, TARGET: target}])
    images = np.concatenate([train[TRAIN]["inputs"], target["inputs"]])
    joined = {
        "inputs": images,
        "label": np.tile(train[TRAIN]["label"], 2),
        "mask": np.ones(len(images), bool),
        "id": np.arange(len(images)),
    }
    expected, _ = _after(parts, params, model_state, [{TRAIN: joined}])
    for name, leaf in tree.flatten(expected.model_state).items():
        np.testing.assert_allclose(
            tree.flatten(found.model_state)[name], leaf, rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_penalty_runs_the_model_with_the_statistics_it_is_given() -> None:
    parts, params, model_state = tiny.make_parts("resnet")
    other = jax.tree.map(lambda leaf: leaf + 0.5, model_state)
    batch = tiny.make_batch(parts)

    def penalty(moment: Moment) -> Any:
        forward, params, images = moment.forward, moment.params, moment.batch[TRAIN]["inputs"]
        found = forward(params, images, key=None, train=False, model_state=other).features
        expected = parts.model.apply(params, other, images, train=False, key=None).features
        same = forward(params, images, key=None, train=False).features
        values = {"shift": jnp.abs(found - expected).max(), "differs": jnp.abs(found - same).max()}
        return jnp.zeros([]), values

    strategy = parts.strategy._replace(penalty=penalty)
    _, reported = _after(parts._replace(strategy=strategy), params, model_state, [batch])
    assert reported[0]["shift"] == 0.0
    assert reported[0]["differs"] > 1e-3


def test_sam_takes_the_gradient_at_the_top_of_the_ball() -> None:
    """Foret et al. 2021, algorithm 1, from two plain steps of gradient descent."""
    radius, rate = 0.05, SGD.learning_rate
    parts, params, model_state = tiny.make_parts("vit", optimizer=SGD)
    batch = [tiny.make_batch(parts)]
    start = tree.flatten(jax.tree.map(np.asarray, params))
    trainer = tiny.Trainer(parts)

    def gradient(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        after, _ = _after(parts, tree.unflatten(at), model_state, batch, trainer)
        return {name: (at[name] - leaf) / rate for name, leaf in tree.flatten(after.trainable).items()}

    first = gradient(start)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in first.values()))
    second = gradient({name: leaf + radius * first[name] / norm for name, leaf in start.items()})
    sam = SGD.__class__(**{**SGD.__dict__, "sam_radius": radius})
    sharp, params, model_state = tiny.make_parts("vit", optimizer=sam)
    found, _ = _after(sharp, params, model_state, batch)
    for name, leaf in tree.flatten(found.trainable).items():
        np.testing.assert_allclose((start[name] - leaf) / rate, second[name], atol=2e-4, err_msg=name)
    assert max(np.abs(second[name] - first[name]).max() for name in first) > 1e-2


def test_swa_is_the_mean_of_the_steps_from_its_start_on() -> None:
    settings = optim.Config(learning_rate=1e-2, swa_start=0.5)
    parts, params, model_state = tiny.make_parts("vit", num_steps=6, optimizer=settings)
    batches = [tiny.make_batch(parts, seed=seed) for seed in range(6)]
    trainer = tiny.Trainer(parts)
    ends = [_after(parts, params, model_state, batches[:count], trainer)[0] for count in (1, 4, 5, 6)]
    visited = [tree.flatten(end.trainable) for end in ends]
    for name, leaf in tree.flatten(ends[-1].ema).items():
        mean = np.mean([each[name] for each in visited[1:]], axis=0)
        np.testing.assert_allclose(leaf, mean, rtol=1e-5, atol=1e-7, err_msg=name)
        np.testing.assert_array_equal(tree.flatten(ends[0].ema)[name], visited[0][name])


def test_frozen_names_rest_whatever_the_strategy_says() -> None:
    settings = optim.Config(learning_rate=1e-2, layer_decay=0.5, freeze=("^embedding", "encoderblock_0/"))
    parts, params, model_state = tiny.make_parts("vit", "l2_sp", optimizer=settings)
    after, _ = _after(parts, params, model_state, [tiny.make_batch(parts)])
    trained = tree.flatten(after.trainable)
    assert {name for name in tree.flatten(params) if name not in trained and "extra" not in name} == {
        name for name in tree.flatten(params) if name.startswith(("embedding", "Transformer/encoderblock_0/"))
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": ("blocks.0",)}, r"optim.freeze 'blocks.0' matches no parameter; nearest"),
        ({"freeze": (".",)}, "leaves nothing to train"),
        ({"freeze": ("",)}, "leaves nothing to train"),
        ({"ema": 0.9, "swa_start": 0.5}, "optim.ema is 0.9 and optim.swa_start 0.5; set one to 0"),
        ({"sam_radius": -0.1}, "optim.sam_radius is -0.1; expected 0 or more"),
        ({"swa_start": 1.0}, "optim.swa_start is 1.0; expected 0 <= value < 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", optimizer=optim.Config(**fields))


def _images(parts: step.Parts, seed: int) -> dict[str, np.ndarray]:
    batch = tiny.make_batch(parts, seed=seed)[TRAIN]
    return {name: batch[name] for name in ("inputs", "mask", "id")}
