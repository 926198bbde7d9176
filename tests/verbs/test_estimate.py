"""`jtl estimate`: what a program needs is what its compiler says, and nothing is read or held for it."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from jtl import cli
from jtl.errors import UserError
from jtl.training import build, config, sharding, step
from jtl.verbs import estimate
from jtl.verbs.bench import program, subject

SETTINGS = [
    *(("model.image_px", "8"), ("model.dim", "16"), ("model.depth", "1"), ("model.mlp_dim", "16")),
    *(("train.batch_size", "4"), ("sharding.devices", "1")),
]


def test_estimate_is_what_the_compiled_step_of_drawn_values_needs() -> None:
    found = estimate.run(config="configs/smoke.py", searches=False, overrides=SETTINGS)
    drawn = subject.subject(config.read("configs/smoke.py", SETTINGS))
    state, place = build.initial_state(drawn.built, drawn.settings, drawn.mesh)
    batch = sharding.put_batch(subject.batch(drawn), drawn.mesh)
    lowered = step.make_train_step(drawn.parts, 0, place, sharding.of_batch(drawn.mesh)).lower(state, batch)
    compiled = lowered.compile()
    assert found["memory"] == program.memory_of(compiled)
    assert found["flops"]["step_compiled"] == compiled.cost_analysis()["flops"]
    assert found["state_bytes"] == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert found["fits"]
    assert found["exchanged"] == {}
    assert (found["parameters"]["total"], found["num_outputs"]) == (
        sum(leaf.size for leaf in jax.tree.leaves(drawn.built.params)),
        10,
    )


def test_leaves_of_a_model_without_values_take_no_memory() -> None:
    settings = config.read("configs/vit_ft.py:l16", [("model.weights", "none"), ("train.batch_size", "8")])
    found = subject.subject(settings, has_values=False)
    leaves = jax.tree.leaves(found.built.params)
    assert sum(leaf.size for leaf in leaves) > 300e6
    assert all(not any(leaf.strides) for leaf in leaves if isinstance(leaf, np.ndarray))


def test_batch_shapes_are_those_of_a_batch() -> None:
    found = subject.subject(config.read("configs/smoke.py", SETTINGS), has_values=False)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), subject.batch_shapes(found))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), subject.batch(found))


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (lambda size: 100 + 10 * size, 88),
        (lambda size: 100 + 10 * size + size**2, 24),
        (lambda size: 100 + (10 if size < 32 else 14) * size, 64),
        (lambda size: 10_000, 0),
        (lambda size: 2000 - size if size < 16 else 2000, 0),
    ],
)
def test_largest_batch_is_found_with_few_programs(needed: Any, expected: int) -> None:
    asked = []

    def bytes_of(size: int) -> int:
        asked.append(size)
        return needed(size)

    found = estimate.largest_batch(bytes_of, {8: needed(8)}, 1000, multiple=8)
    assert found == expected
    assert len(asked) == len(set(asked)) <= estimate.MAX_COMPILED
    assert not found or needed(found) <= 1000


def test_estimate_of_what_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match="--memory is -1; expected GiB"):
        estimate.run(config="configs/smoke.py", memory_gib=-1.0)


@pytest.mark.slow
def test_largest_batch_of_a_small_memory_fits_and_twice_of_it_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [f"--config.{name}={value}" for name, value in SETTINGS]
    with pytest.raises(SystemExit) as stop:
        cli.main(["estimate", "--config", "configs/smoke.py", "--memory", "0.001", "--json", *words])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    size = found["largest_batch_size"]
    needs = [
        estimate.run(
            config="configs/smoke.py",
            searches=False,
            overrides=[*SETTINGS, ("train.batch_size", str(each))],
        )["memory"]["total"]
        for each in (size, 2 * size)
    ]
    assert needs[0] <= found["device_bytes"] < needs[1]
