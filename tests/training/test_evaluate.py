"""Sums and outputs of evaluation batches: exact however many there are, and brought to the host once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import metrics
from jtl.tasks import TASKS
from jtl.training import evaluate, sharding
from jtl.training.state import State

NUM_BATCHES, BATCH = 7, 4
# Whose sum float32 cannot hold in any order.
LOSSES = [0.1, 3.3e7, 1e-3, 0.7, 2.5e6, 1e-5, 0.3]


def _batches(log: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for index in range(NUM_BATCHES):
        if log is not None:
            log.append(f"batch {index}")
        ids = np.arange(index * BATCH, (index + 1) * BATCH)
        yield {"inputs": np.full((BATCH, 2), index, np.float32), "mask": ids < 26, "id": ids}


def _measured(step: Callable[[Any, Any], metrics.Sums], count: int) -> metrics.Totals:
    """Return the totals that a task is asked to summarise."""
    kind, given = TASKS["multiclass"], []

    def summarize(totals: metrics.Totals) -> metrics.Summary:
        given.append(totals)
        return metrics.Summary({}, {}, None)

    task = kind.build(kind.Config(), kind.stats(np.arange(3), tuple("abc")), None)
    mesh = sharding.mesh(sharding.Config(devices=1))
    task = task._replace(summarize=summarize)
    evaluate.measure(step, None, _batches(), mesh=mesh, task=task, num_examples=count)
    return given[0]


def _step(state: Any, batch: Any) -> metrics.Sums:
    del state
    index = int(batch["inputs"][0, 0])
    matrix = np.arange(9, dtype=np.int32).reshape(3, 3) + 2**24 * index + 1
    return {
        "count": jnp.sum(batch["mask"].astype(jnp.int32)),
        "confusion": jnp.asarray(matrix),
        "loss": jnp.float32(LOSSES[index]),
    }


@pytest.mark.parametrize("every", [1, 3, NUM_BATCHES, 64])
def test_sums_are_those_of_the_host_to_the_bit_however_often_they_are_fetched(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "FETCH_EVERY", every)
    found = _measured(_step, 26)
    indices = np.arange(NUM_BATCHES, dtype=np.int64)[:, None, None]
    expected = (np.arange(9).reshape(3, 3) + 2**24 * indices + 1).sum(0)
    np.testing.assert_array_equal(found["confusion"], expected)
    loss = np.float64(0)
    for value in LOSSES:
        loss += np.float64(np.float32(value))
    assert found["loss"].tobytes() == loss.tobytes()
    assert {name: value.dtype for name, value in found.items()} == {
        "count": np.int64,
        "confusion": np.int64,
        "loss": np.float64,
    }


def test_counts_beyond_32_bits_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "FETCH_EVERY", 1)
    most = 2**31 - 1
    found = _measured(lambda state, batch: {"count": jnp.int32(most)}, NUM_BATCHES * most)
    assert int(found["count"]) == NUM_BATCHES * most


def test_matrix_of_classes_comes_to_the_host_once_not_with_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[tuple[int, ...]] = []
    get = jax.device_get

    def counted(values: Any) -> Any:
        fetched.extend(leaf.shape for leaf in jax.tree.leaves(values))
        return get(values)

    monkeypatch.setattr(jax, "device_get", counted)
    _measured(_step, 26)
    assert fetched.count((3, 3)) == 1
    assert len(fetched) == 2 + NUM_BATCHES


def test_steps_begin_before_the_results_of_earlier_ones_are_looked_at() -> None:
    log: list[str] = []

    def begin(batch: Any) -> int:
        return int(batch["id"][0])

    for batch, found in evaluate.ahead(begin, _batches(log), num_ahead=2):
        assert found == batch["id"][0]
        log.append(f"look {found // BATCH}")
    assert log == [f"batch {index}" for index in range(3)] + [
        line for index in range(3, NUM_BATCHES) for line in (f"look {index - 3}", f"batch {index}")
    ] + [f"look {index}" for index in range(NUM_BATCHES - 3, NUM_BATCHES)]


def test_only_the_outputs_that_are_asked_for_come_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda values: fetched.append(values) or get(values))

    def step(state: Any, batch: Any) -> dict[str, Any]:
        return {"features": batch["inputs"], "logits": state.step + batch["inputs"][:, :1]}

    mesh = sharding.mesh(sharding.Config(devices=1))
    state = State(jnp.ones([], jnp.int32), {}, {}, {}, (), {})
    outputs, labels = evaluate.collect(step, state, _batches(), ("logits",), mesh=mesh)
    assert [each.keys() for each in fetched] == [{"logits"}] * NUM_BATCHES
    np.testing.assert_array_equal(outputs["logits"][:, 0], 1 + np.arange(26) // BATCH)
    # Without labels, the examples' places stand in for them.
    np.testing.assert_array_equal(labels, np.arange(26))
