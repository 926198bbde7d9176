import gc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.training import progress, sharding
from jtl.training.checkpoint import Checkpoints
from jtl.training.state import State

# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"
)


@pytest.fixture(autouse=True)
def _collect_unawaited_coroutines() -> Iterator[None]:
    yield
    gc.collect()


def _state(step: int) -> State:
    rng = np.random.default_rng(step)
    trainable = {"head": {"kernel": jnp.asarray(rng.normal(size=(64, 48)), jnp.float32)}}
    frozen = {
        "stem": {
            "kernel": jnp.asarray(rng.normal(size=(40, 8)), jnp.bfloat16),
            "flag": jnp.array([True, False]),
        }
    }
    return State(jnp.array(step, jnp.int32), trainable, frozen, {}, (jnp.zeros([], jnp.int32),), {})


def _like(state: State, num_devices: int = 1) -> State:
    mesh = sharding.mesh(sharding.Config(devices=num_devices))
    places = sharding.of_state(state, sharding.Config(), mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places
    )


def _bits(state: State) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def saved(folder: Path) -> Iterator[Checkpoints]:
    """Checkpoints of steps 10 and 20."""
    with closing(Checkpoints(folder, is_maximized=True)) as checkpoints:
        for step in (10, 20):
            checkpoints.save(
                step, _state(step), {"history": [{"step": step, "accuracy": 0.5}]}, {"value": 0.5}
            )
        checkpoints.wait()
        yield checkpoints


def _data_files(folder: Path, step: int) -> list[Path]:
    files = [
        path for path in (folder / str(step) / "state").rglob("*") if path.is_file() and "/d/" in str(path)
    ]
    assert files
    return sorted(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_restored_state_is_bit_equal_on_any_number_of_devices(saved: Checkpoints, num_devices: int) -> None:
    restored = saved.restore(_like(_state(0), num_devices), pytest.fail)
    assert restored is not None
    assert restored.step == 20
    assert _bits(restored.state) == _bits(_state(20))
    assert restored.meta["history"] == [{"step": 20, "accuracy": 0.5}]


def test_no_checkpoint_restores_as_none(folder: Path) -> None:
    with closing(Checkpoints(folder, is_maximized=True)) as checkpoints:
        assert checkpoints.restore(_like(_state(0)), pytest.fail) is None


def test_best_and_the_newest_two_are_kept(folder: Path) -> None:
    values = {1: 0.1, 2: 0.9, 3: 0.3, 4: None, 5: 0.2}
    with closing(Checkpoints(folder, is_maximized=True)) as checkpoints:
        for step, value in values.items():
            checkpoints.save(step, _state(step), {"history": []}, None if value is None else {"value": value})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]


@pytest.mark.parametrize("is_maximized", [True, False])
def test_best_of_equals_is_the_one_that_the_history_names(folder: Path, is_maximized: bool) -> None:
    with closing(Checkpoints(folder, is_maximized=is_maximized)) as checkpoints:
        history = [{"step": step, "value": 0.5} for step in range(1, 6)]
        for entry in history:
            checkpoints.save(entry["step"], _state(entry["step"]), {"history": []}, {"value": entry["value"]})
        checkpoints.wait()
        best = progress.best(history, "value", is_maximized=is_maximized)
        assert best is not None
        assert checkpoints.steps() == [best["step"], 4, 5]


def test_best_is_kept_by_a_run_that_was_started_again(folder: Path) -> None:
    for steps in ({1: 0.9, 2: 0.1}, {3: 0.2, 4: 0.3, 5: 0.4}):
        with closing(Checkpoints(folder, is_maximized=True)) as checkpoints:
            for step, value in steps.items():
                checkpoints.save(step, _state(step), {"history": []}, {"value": value})
            checkpoints.wait()
            found = checkpoints.steps()
    assert found == [1, 4, 5]


def test_best_is_the_smallest_where_the_metric_is_minimized(folder: Path) -> None:
    with closing(Checkpoints(folder, is_maximized=False)) as checkpoints:
        for step, value in {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.5}.items():
            checkpoints.save(step, _state(step), {"history": []}, None if value is None else {"value": value})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3, 4]


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bit_is_found_named_and_the_checkpoint_before_is_used(
    saved: Checkpoints, folder: Path, seed: int
) -> None:
    path = _data_files(folder, 20)[-1]
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content) // 4, 3 * len(content) // 4)] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    warnings: list[str] = []
    restored = saved.restore(_like(_state(0)), warnings.append)
    assert restored is not None
    assert restored.step == 10
    assert _bits(restored.state) == _bits(_state(10))
    assert len(warnings) == 1
    assert warnings[0].startswith("checkpoint 20 is damaged (")
    assert warnings[0].endswith("using step 10")
    assert (folder.parent / "damaged" / "20.0").is_dir()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b""])
def test_truncated_data_is_found_and_the_checkpoint_before_is_used(
    saved: Checkpoints, folder: Path, damage: object
) -> None:
    path = _data_files(folder, 20)[-1]
    path.write_bytes(damage(path.read_bytes()))
    warnings: list[str] = []
    restored = saved.restore(_like(_state(0)), warnings.append)
    assert restored is not None
    assert restored.step == 10
    assert "checkpoint 20 is damaged" in warnings[0]


def test_changed_meta_is_found(saved: Checkpoints, folder: Path) -> None:
    path = next(
        path
        for path in (folder / "20" / "meta").rglob("*")
        if path.is_file() and b"accuracy" in path.read_bytes()
    )
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))
    warnings: list[str] = []
    restored = saved.restore(_like(_state(0)), warnings.append)
    assert restored is not None
    assert restored.step == 10
    assert "its meta does not match its own digest" in warnings[0]


def test_damaged_step_can_be_saved_again(saved: Checkpoints, folder: Path) -> None:
    _data_files(folder, 20)[-1].write_bytes(b"")
    saved.restore(_like(_state(0)), lambda text: None)
    saved.save(20, _state(20), {"history": []}, {"value": 0.5})
    saved.wait()
    restored = saved.restore(_like(_state(0)), pytest.fail)
    assert restored is not None
    assert restored.step == 20


def test_all_checkpoints_damaged_is_an_error_that_says_where_they_went(
    saved: Checkpoints, folder: Path
) -> None:
    for step in (10, 20):
        _data_files(folder, step)[-1].write_bytes(b"")
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged; they were moved to .*damaged"):
        saved.restore(_like(_state(0)), lambda text: None)


def test_state_of_another_shape_is_not_restored(saved: Checkpoints) -> None:
    other = _state(0)._replace(trainable={"head": {"kernel": jnp.zeros((64, 49))}})
    with pytest.raises(UserError, match="another step is needed"):
        saved.restore_step(20, _like(other))


def test_missing_step_names_those_there_are(saved: Checkpoints) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint of step 15; found \[10, 20\]"):
        saved.restore_step(15, _like(_state(0)))
