"""DELTA: its distance by hand, where it is zero, which layers it takes, and what it leaves behind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.strategies import delta
from tests import tiny


def _batch(parts: Any, mask: tuple[bool, ...] = (True, True, True)) -> dict[str, Any]:
    shape = (len(mask), *parts.preprocess.image_px, parts.preprocess.num_channels)
    return {"train": {"inputs": jax.random.normal(jax.random.key(3), shape), "mask": jnp.asarray(mask)}}


def _moved(params: Any, scale: float) -> Any:
    """Return the parameters with the model's own moved, and the copy of the start as it was."""
    random = np.random.default_rng(0)

    def change(name: str, leaf: Any) -> Any:
        is_own = not name.startswith("extra/")
        return leaf + scale * random.normal(size=leaf.shape).astype(np.float32) if is_own else leaf

    return tree.map_named(change, params)


def test_distance_is_zero_at_the_start_where_no_layer_looks_at_the_batch() -> None:
    parts, params, model_state = tiny.make_parts("vit", "delta", beta=0.0)
    found = tiny.penalty_of(parts, params, model_state, _batch(parts), train=True)
    assert found == (0.0, {"layer_distance": 0.0})


def test_distance_at_the_start_is_that_of_the_batchs_statistics_from_the_running_ones() -> None:
    """The step's forward pass normalises by the batch, the copy's as the model does when it is served."""
    parts, params, model_state = tiny.make_parts("resnet", "delta", beta=0.0, layers=("stage1",))
    batch = _batch(parts)
    assert tiny.penalty_of(parts, params, model_state, batch)[0] == 0.0
    value, _ = tiny.penalty_of(parts, params, model_state, batch, train=True)
    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    now, was = (
        np.asarray(
            parts.model.apply(
                own, model_state, batch["train"]["inputs"], train=train, key=jax.random.key(0)
            ).intermediates["stage1"],
            np.float64,
        )
        for train in (True, False)
    )
    assert value == pytest.approx(np.square(now - was).sum() / np.square(was).sum(), rel=1e-4)
    assert value > 0.01


@pytest.mark.parametrize(
    ("model", "layers"), [("vit", ("block0", "encoder_norm")), ("resnet", ("stage1", "block2/unit1"))]
)
def test_penalty_is_the_mean_relative_distance_of_layers_and_the_heads_norm(
    model: str, layers: tuple[str, ...]
) -> None:
    """The copy runs with its own statistics, though those of the model have moved; padding does not count."""
    parts, params, model_state = tiny.make_parts(model, "delta", alpha=3.0, beta=0.5, layers=layers)
    moved = _moved(params, 0.05)
    later = jax.tree.map(lambda leaf: leaf + 0.25, model_state)
    batch = _batch(parts, (True, True, False))
    value, reported = tiny.penalty_of(parts, moved, later, batch)

    real, apply = batch["train"]["inputs"][:2], jax.jit(parts.model.apply)
    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    was = apply(own, model_state, real).intermediates
    own = {name: leaf for name, leaf in moved.items() if name != "extra"}
    now = apply(own, later, real).intermediates
    ratios = []
    for name in layers:
        one, other = (np.asarray(each[name], np.float64) for each in (now, was))
        ratios.append(np.linalg.norm(one - other) ** 2 / np.linalg.norm(other) ** 2)
    norm = sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(moved["head"]))
    assert np.mean(ratios) > 0.01
    assert reported["layer_distance"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert value == pytest.approx(3.0 * np.mean(ratios) + 0.25 * norm, rel=1e-4)


def test_padding_of_texts_changes_no_distance() -> None:
    parts, params, model_state = tiny.make_parts("bert", "delta")
    inputs, moved = tiny.inputs_of(parts.model, 3), _moved(params, 0.05)
    longer = {name: jnp.pad(leaf, ((0, 0), (0, 5))) for name, leaf in inputs.items()}
    distances = []
    for each in (inputs, longer):
        batch = {"train": {"inputs": each, "mask": jnp.ones(3, bool)}}
        distances.append(tiny.penalty_of(parts, moved, model_state, batch)[1]["layer_distance"])
    assert distances[0] > 0.01
    assert distances[1] == pytest.approx(distances[0], rel=1e-5)


def test_the_copy_is_frozen_and_not_written() -> None:
    parts, params, _ = tiny.make_parts("resnet", "delta")
    assert "extra/start/model_state/batch_stats/bn_root/mean" in parts.groups
    frozen = {name for name, group in parts.groups.items() if group.is_frozen}
    assert frozen == {name for name in tree.flatten(params) if name.startswith("extra/")}
    own = {name: leaf for name, leaf in tree.flatten(params).items() if name not in frozen}
    assert tree.flatten(parts.strategy.merged(params)) == own


@pytest.mark.parametrize("model", MODELS)
def test_default_layers_are_the_models(model: str) -> None:
    parts, params, model_state = tiny.make_parts(model)
    context = tiny.make_context(parts.model, params, model_state, 1)
    chosen = delta.spread(context.outputs().intermediates)
    assert 1 < len(chosen) <= 4
    assert set(chosen) <= set(context.outputs().intermediates)


def test_default_layers_of_twelve_blocks_are_every_third() -> None:
    names = sorted(f"block{index}" for index in range(12))
    assert delta.spread(["embedding", *names]) == ("block2", "block5", "block8", "block11")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -1.0}, "strategy.alpha is -1.0"),
        ({"layers": ("block7",)}, "strategy.layers names 'block7', which is no layer; nearest: 'block"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", "delta", **fields)
