import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.training import progress, sharding
from jtl.training.checkpoint import Checkpoints
from jtl.training.checkpoint_faults import Damage
from jtl.training.checkpoint_files import set_aside
from jtl.training.state import State

# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("collected"),
]


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


def _open(folder: Path, *, is_maximized: bool = True) -> Checkpoints:
    return Checkpoints(folder, metric="accuracy", is_maximized=is_maximized)


def _history(step: int, values: Mapping[int, float | None]) -> progress.History:
    """The evaluations up to a step; where the value is None, there was none."""
    known = {each: value for each, value in values.items() if each <= step and value is not None}
    return [{"step": each, "accuracy": value} for each, value in known.items()]


def _save(checkpoints: Checkpoints, step: int, values: Mapping[int, float | None]) -> None:
    checkpoints.save(checkpoints.sound(_state(step)), _history(step, values))


def _bits(state: State) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def saved(folder: Path) -> Iterator[Checkpoints]:
    """Checkpoints of steps 10 and 20."""
    with closing(_open(folder)) as checkpoints:
        for step in (10, 20):
            _save(checkpoints, step, {10: 0.5, 20: 0.5})
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
    assert restored.meta["history"] == [{"step": 10, "accuracy": 0.5}, {"step": 20, "accuracy": 0.5}]


def test_no_checkpoint_restores_as_none(folder: Path) -> None:
    with closing(_open(folder)) as checkpoints:
        assert checkpoints.restore(_like(_state(0)), pytest.fail) is None


def test_what_a_killed_process_had_no_time_to_remove_is_removed(folder: Path) -> None:
    values = {1: 0.9, 2: 0.5, 3: 0.1, 4: 0.7, 5: 0.2}
    with closing(_open(folder)) as checkpoints:
        for step in (1, 4, 5):
            _save(checkpoints, step, values)
        checkpoints.wait()
    shutil.copytree(folder / "4", folder / "2")
    shutil.copytree(folder / "4", folder / "3")
    with closing(_open(folder)) as checkpoints:
        checkpoints.tidy(_history(5, values))
        assert checkpoints.steps() == [1, 4, 5]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "4", "5"]


def test_best_and_the_newest_two_are_kept(folder: Path) -> None:
    values = {1: 0.1, 2: 0.9, 3: 0.3, 4: None, 5: 0.2}
    with closing(_open(folder)) as checkpoints:
        for step in values:
            _save(checkpoints, step, values)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]


@pytest.mark.parametrize("is_maximized", [True, False])
def test_best_of_equals_is_the_one_that_the_history_names(folder: Path, is_maximized: bool) -> None:
    with closing(_open(folder, is_maximized=is_maximized)) as checkpoints:
        values = dict.fromkeys(range(1, 6), 0.5)
        for step in values:
            _save(checkpoints, step, values)
        checkpoints.wait()
        best = progress.best(_history(5, values), "accuracy", is_maximized=is_maximized)
        assert best is not None
        assert checkpoints.steps() == [best["step"], 4, 5]


def test_best_is_kept_by_a_run_that_was_started_again(folder: Path) -> None:
    values = {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4}
    for steps in ((1, 2), (3, 4, 5)):
        with closing(_open(folder)) as checkpoints:
            for step in steps:
                _save(checkpoints, step, values)
            checkpoints.wait()
            found = checkpoints.steps()
    assert found == [1, 4, 5]


def test_best_is_the_smallest_where_the_metric_is_minimized(folder: Path) -> None:
    with closing(_open(folder, is_maximized=False)) as checkpoints:
        values = {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.5}
        for step in values:
            _save(checkpoints, step, values)
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
    saved: Checkpoints, folder: Path, damage: Callable[[bytes], bytes]
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
    _save(saved, 20, {20: 0.5})
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


def test_copy_of_a_step_under_another_number_is_damage(saved: Checkpoints, folder: Path) -> None:
    shutil.copytree(folder / "10", folder / "30")
    warnings: list[str] = []
    with closing(_open(folder)) as checkpoints:
        restored = checkpoints.restore(_like(_state(0)), warnings.append)
    assert restored is not None
    assert restored.step == 20
    assert warnings == ["checkpoint 30 is damaged (it is a copy of step 10); using step 20"]


@pytest.mark.parametrize("name", ["meta", "state", "step"])
def test_file_in_the_place_of_a_folder_is_damage(saved: Checkpoints, folder: Path, name: str) -> None:
    place = folder / "20" if name == "step" else folder / "20" / name
    shutil.rmtree(place)
    place.write_text("")
    restored = saved.restore(_like(_state(0)), lambda text: None)
    assert restored is not None
    assert restored.step == 10


@pytest.mark.parametrize("occupied", ["20.1", ".", "20.0/state", ""])
def test_damage_is_set_aside_under_a_name_that_is_free(
    saved: Checkpoints, folder: Path, occupied: str
) -> None:
    aside = folder.parent / "damaged"
    if occupied:
        (aside / occupied).mkdir(parents=True)
    else:
        aside.write_text("a file")
    _data_files(folder, 20)[-1].write_bytes(b"")
    restored = saved.restore(_like(_state(0)), lambda text: None)
    assert restored is not None
    assert restored.step == 10
    (moved,) = [each for each in set_aside(folder.parent) if (each / "meta").exists()]
    expected = {
        "20.1": "damaged/20.0",
        ".": "damaged/20.0",
        "20.0/state": "damaged/20.1",
        "": "damaged.1/20.0",
    }
    assert str(moved.relative_to(folder.parent)) == expected[occupied]


def test_repeat_with_nothing_left_but_damage_refuses(saved: Checkpoints, folder: Path) -> None:
    for step in (10, 20):
        _data_files(folder, step)[-1].write_bytes(b"")
    for _ in range(2):
        with closing(_open(folder)) as checkpoints, pytest.raises(UserError, match="they were moved to"):
            checkpoints.restore(_like(_state(0)), lambda text: None)
    assert not list(folder.iterdir())


def test_folder_of_checkpoints_that_is_a_file_is_one_line(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(UserError, match=r"checkpoints' is no folder; expected the folder of the run's"):
        _open(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"value": 99}', '{"value":', None])
def test_rank_that_orbax_kept_unsealed_decides_nothing(folder: Path, content: str | None) -> None:
    """Checkpoints of earlier releases have it; what is best is in the sealed history."""
    values = {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3}
    with closing(_open(folder)) as checkpoints:
        for step in (1, 2):
            _save(checkpoints, step, values)
    if content is not None:
        for step in (1, 2):
            (folder / str(step) / "metrics").mkdir()
            (folder / str(step) / "metrics" / "metrics").write_text(content)
    with closing(_open(folder)) as checkpoints:
        assert checkpoints.restore(_like(_state(0)), pytest.fail) is not None
        for step in (3, 4):
            _save(checkpoints, step, values)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3, 4]
    assert not list(folder.glob("4/metrics*"))


@pytest.mark.parametrize("field", ["trainable", "model_state", "ema"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_state_that_is_not_finite_is_named_and_not_saved(folder: Path, field: str, bad: float) -> None:
    leaf = jnp.asarray([1.0, bad, 2.0, bad])
    state = _state(30)._replace(**{field: {"head": {"bias": leaf, "kernel": leaf[:1]}}})
    with closing(_open(folder)) as checkpoints:
        with pytest.raises(
            UserError, match=rf"'{field}/head/bias' has 2 values that are not finite after step 30"
        ):
            checkpoints.sound(state)
        finite = state._replace(**{field: {"head": {"bias": leaf[::2]}}})
        unused = (jnp.asarray([jnp.inf]), jnp.asarray([3]))
        checkpoints.save(checkpoints.sound(finite._replace(opt_state=unused)), [])
        checkpoints.wait()
        assert checkpoints.steps() == [30]


def test_values_of_a_checkpoint_are_read_to_the_host_alone(saved: Checkpoints, folder: Path) -> None:
    state = _state(10)
    before = len(jax.live_arrays())
    found = saved.restore_values(10, {"trainable": state.trainable, "model_state": state.model_state})
    assert len(jax.live_arrays()) == before
    assert found.keys() == {"trainable", "model_state"}
    kernel = found["trainable"]["head"]["kernel"]
    assert type(kernel) is np.ndarray
    np.testing.assert_array_equal(kernel, state.trainable["head"]["kernel"])


def test_values_of_a_checkpoint_are_verified(saved: Checkpoints, folder: Path) -> None:
    path = _data_files(folder, 10)[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damage):
        saved.restore_values(10, {"trainable": _state(0).trainable})


def test_values_of_a_missing_step_name_those_there_are(saved: Checkpoints) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint of step 15; found \[10, 20\]"):
        saved.restore_values(15, {"trainable": _state(0).trainable})
