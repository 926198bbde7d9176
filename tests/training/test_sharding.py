"""The mesh, and what lies where on it: sizes, rules, bytes a device, losses, and what is exchanged."""

import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jtl import memory
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.training import config, optim, sharding, step
from jtl.training.sharding import Config
from tests import tiny

COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
KINDS = ("vit", "bert")


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ((0, 0, 1), (8, 1, 1)),
        ((1, 0, 1), (1, 8, 1)),
        ((0, 4, 1), (2, 4, 1)),
        ((0, 0, 2), (4, 1, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, 1, 0), (1, 1, 8)),
    ],
)
def test_devices_stand_along_the_axes_as_set(asked: Any, sizes: tuple[int, ...]) -> None:
    found = sharding.mesh(Config(mesh=asked))
    assert tuple(found.shape.values()) == sizes
    assert [each.id for each in found.devices.flat] == list(range(8))
    assert sharding.num_shards(found) == sizes[0] * sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mesh": (3, 0, 1)},
            r"sharding.mesh is \(3, 0, 1\) .* expected sizes whose product is 8",
        ),
        ({"mesh": (2, 2, 1)}, r"there are 8 devices; expected sizes whose product is 8"),
        ({"mesh": (16, 0, 1)}, r"expected sizes whose product is 8"),
        ({"devices": 9}, r"sharding.devices is 9; this machine has 8"),
    ],
)
def test_mesh_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sharding.mesh(Config(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ((".", "columns"),)}, r"placement 'columns'; expected one of .* or an axis a dimension"),
        ({"mesh": (0, 1, 0)}, r"expected a number for tensor, or for the others"),
    ],
)
def test_placement_that_is_none_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**settings)


def test_rules_come_before_the_axes_and_the_first_that_matches_counts() -> None:
    settings = Config(
        mesh=(1, 4, 2), rules=(("head", "replicate"), ("kernel", "none,tensor"), ("a/", "fsdp"))
    )
    leaf = jax.ShapeDtypeStruct((512, 256), np.float32)
    state = {"head": {"kernel": leaf}, "a": {"kernel": leaf, "table": leaf}, "b": {"table": leaf}}
    places = sharding.of_state(state, settings, sharding.mesh(settings))
    assert places["head"]["kernel"].spec == PartitionSpec()
    assert places["a"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert places["a"]["table"].spec == places["b"]["table"].spec == PartitionSpec("fsdp")


def _shapes(settings: Config, **changes: Any) -> tuple[Any, Any, Mesh]:
    """Return the shapes of a ViT-S's state with an average, its placement and its mesh."""
    from dataclasses import replace

    from jtl.verbs.bench import subject

    values = config.read("configs/vit_ft.py:s16", [("optim.ema", "0.999"), ("model.weights", "none")])
    found = subject.subject(replace(values, sharding=settings), has_values=False)
    return *subject.state_shapes(found), found.mesh


def test_parameters_optimizer_and_average_take_an_eighth_of_each_of_eight_devices() -> None:
    shapes, places, mesh = _shapes(Config(mesh=(1, 0, 1)))
    whole = sharding.bytes_a_device(shapes, jax.tree.map(lambda _: sharding.whole(mesh), shapes))
    # Parameters, two moments and the average of 22 million values.
    assert whole > 4 * 4 * 21e6
    assert whole / sharding.bytes_a_device(shapes, places) >= 7.5
    cut = [each for each in jax.tree.leaves(places) if not each.is_fully_replicated]
    assert len(cut) > 4 * 12 * 6


def test_heads_and_mlps_are_cut_along_tensor_and_what_is_left_along_fsdp() -> None:
    _, places, _ = _shapes(Config(mesh=(1, 4, 2)))
    block = places.trainable["Transformer"]["encoderblock_0"]
    attention, mlp = block["MultiHeadDotProductAttention_1"], block["MlpBlock_3"]
    assert attention["query"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert attention["query"]["bias"].spec == PartitionSpec("tensor")
    assert attention["out"]["kernel"].spec == PartitionSpec("tensor", None, "fsdp")
    assert mlp["Dense_0"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert mlp["Dense_1"]["kernel"].spec == PartitionSpec("tensor", "fsdp")
    moments = [each for each in jax.tree.leaves(places.opt_state) if "tensor" in each.spec]
    # Query, key, value, out, two dense layers, and the biases of four of them: two moments of each.
    assert len(moments) == 2 * 12 * (6 + 4)


def test_heads_that_cannot_be_cut_evenly_are_refused() -> None:
    with pytest.raises(UserError, match=r"4 devices along tensor, and '.*/key/bias' has 6 heads"):
        _shapes(Config(mesh=(0, 1, 4)))


def test_state_that_does_not_fit_on_a_device_is_cut_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a": jax.ShapeDtypeStruct((1024, 1024), np.float32)}
    monkeypatch.setattr(memory, "device_bytes", lambda: 8 * 16 * 2**20)
    mesh, lines = sharding.chosen(Config(), shapes, shapes)
    assert mesh.shape["data"] == 8
    size = "parameters, gradients and optimizer take 8.0 MiB"
    assert lines == [f"sharding.mesh: data 8 ({size}, which each device has whole)"]
    monkeypatch.setattr(memory, "device_bytes", lambda: 8 * 12 * 2**20)
    mesh, lines = sharding.chosen(Config(), shapes, shapes)
    assert mesh.shape["fsdp"] == 8
    assert (
        "fsdp 8 (parameters, gradients and optimizer take 8.0 MiB, over 60% of a device's memory" in lines[0]
    )
    mesh, lines = sharding.chosen(Config(mesh=(0, 1, 1)), shapes, shapes)
    assert (mesh.shape["data"], lines) == (8, [])


def test_single_process_has_all_rows_of_a_batch() -> None:
    mesh = sharding.mesh(Config(mesh=(2, 2, 2)))
    assert sharding.rows_of(mesh) == sharding.Rows(0, 1)
    rows = np.arange(8)
    assert sharding.gathered(rows, mesh) is rows
    placed = sharding.put_batch(rows, mesh)
    assert placed.sharding.is_equivalent_to(sharding.of_batch(mesh), 1)
    np.testing.assert_array_equal(sharding.fetched(placed), rows)


def _wide(model: str) -> Any:
    from dataclasses import replace

    return replace(MODELS[model].tiny(), dim=128, heads=4, mlp_dim=256)


def _trained(parts: Any, start: Any, settings: Config) -> tuple[list[float], Counter[str]]:
    """Return the losses of two steps on such a mesh, and how often its program exchanges what."""
    mesh = sharding.mesh(settings)
    places = sharding.of_state(start, settings, mesh)
    state = jax.device_put(jax.tree.map(np.array, start), places)
    batches = [sharding.put_batch(tiny.make_batch(parts, size=16, seed=seed), mesh) for seed in range(2)]
    program = (
        step.make_train_step(parts, 0, places, sharding.of_batch(mesh)).lower(state, batches[0]).compile()
    )
    losses = []
    for batch in batches:
        state, found = program(state, batch)
        losses.append(float(found["loss"]))
    return losses, Counter(COLLECTIVE.findall(program.as_text()))


@pytest.mark.slow
@pytest.mark.parametrize("model", KINDS)
def test_losses_are_equal_on_every_mesh_and_what_is_exchanged_is_what_the_axes_ask_for(model: str) -> None:
    parts, params, model_state = tiny.make_parts(
        model, num_steps=2, optimizer=optim.Config(name="sgd"), model_config=_wide(model)
    )
    start = tiny.make_state(parts, params, model_state)
    one, exchanged = _trained(parts, start, Config(devices=1))
    assert not exchanged
    meshes = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (4, 1, 2), "all": (2, 2, 2)}
    found = {name: _trained(parts, start, Config(mesh=mesh)) for name, mesh in meshes.items()}
    for losses, _ in found.values():
        np.testing.assert_allclose(losses, one, rtol=1e-5)
    kinds = {name: set(counts) for name, (_, counts) in found.items()}
    # Gradients are added up, and nothing else.
    assert kinds["data"] == {"all-reduce"}
    # Parameters are gathered where they are used.
    assert found["fsdp"][1]["all-gather"] >= 2 * 6
    # Two sums of activations a block and direction, of attention and of the MLP, beside the gradients.
    assert found["tensor"][1]["all-reduce"] > found["data"][1]["all-reduce"]
