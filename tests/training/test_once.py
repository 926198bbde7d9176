"""What no step moves, kept once a run: exact, whole before the first checkpoint, damage of it found."""

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.training import checkpoint as module
from jtl.training import checkpoint_files, config, once, sharding, step
from jtl.training import run as train
from jtl.training.checkpoint import FIRST_FIELDS, Checkpoints
from jtl.training.checkpoint_faults import Damage, Unsaved
from jtl.training.state import State
from jtl.verbs import checkpoint
from jtl.weights.open import open_path
from jtl.weights.run_folder import WEIGHTS_NAME
from tests import tiny

# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("collected"),
]

STILL = frozenset({"frozen/stem/kernel", "frozen/stem/flag", "frozen/table", "model_state/stats/stem/mean"})


def _state(number: int, frozen: int = 0) -> State:
    """Return a state of a step; what never moves hangs on `frozen` alone."""
    draw, still = np.random.default_rng(number), np.random.default_rng(frozen)
    kernel = jnp.asarray(draw.normal(size=(64, 48)), jnp.float32)
    stem = {
        "kernel": jnp.asarray(still.normal(size=(40, 8)), jnp.bfloat16),
        "flag": jnp.array([True, False, True]),
    }
    table = jnp.asarray(still.normal(size=(512, 64)), jnp.float32)
    stats = {"stem": {"mean": jnp.asarray(still.normal(size=8), jnp.float32)}, "top": {"mean": kernel[0]}}
    return State(
        jnp.array(number, jnp.int32),
        {"head": {"kernel": kernel}},
        {"stem": stem, "table": table},
        {"stats": stats},
        (jnp.zeros([], jnp.int32),),
        {},
    )


def _open(run: Path, still: frozenset[str] = STILL) -> Checkpoints:
    return Checkpoints(run / "checkpoints", metric="loss", is_maximized=False, still=still)


def _shapes(state: State, mesh: tuple[int, int, int] = (1, 1, 1), num_devices: int = 1) -> Any:
    settings = sharding.Config(devices=num_devices, mesh=mesh)
    places = sharding.of_state(state, settings, sharding.mesh(settings))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places
    )


def _bits(state: State) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def _restored(run: Path, like: Any, warn: Callable[[str], None] = pytest.fail) -> State:
    with closing(_open(run)) as checkpoints:
        found = checkpoints.restore(like, warn)
        assert found is not None
        return found.state


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sample")
    with closing(_open(run)) as checkpoints:
        for number in (10, 20):
            checkpoints.save(checkpoints.sound(_state(number)), [])
    return run


@pytest.fixture
def run(sample: Path, tmp_path: Path) -> Iterator[Path]:
    """A run folder with checkpoints of steps 10 and 20."""
    return Path(shutil.copytree(sample, tmp_path / "run"))


def _file(run: Path) -> Path:
    (found,) = once.files(run)
    return found


def test_what_never_moves_is_in_one_file_and_in_no_checkpoint(sample: Path) -> None:
    for number in (10, 20):
        names = (sample / f"checkpoints/{number}/state/_METADATA").read_text()
        assert "'table'" not in names
        assert "'top'" in names
        assert checkpoint_files.num_bytes(sample / f"checkpoints/{number}") < _file(sample).stat().st_size
    assert checkpoint_files.check(sample / "checkpoints/20")[once.ONCE]["file"] == _file(sample).name


@pytest.mark.parametrize(
    ("mesh", "num_devices"), [((1, 1, 1), 1), ((8, 1, 1), 8), ((1, 8, 1), 8), ((1, 4, 1), 4), ((2, 2, 2), 8)]
)
def test_state_is_bit_equal_on_every_mesh(sample: Path, mesh: Any, num_devices: int) -> None:
    found = _restored(sample, _shapes(_state(0), mesh, num_devices))
    assert _bits(found) == _bits(_state(20))
    assert found.frozen["table"].sharding.mesh.devices.size == num_devices


def test_eight_four_one_and_eight_devices_one_after_the_other_end_in_the_same_bits(tmp_path: Path) -> None:
    state = _state(10)
    with closing(_open(tmp_path)) as checkpoints:
        checkpoints.save(checkpoints.sound(state), [])
    for number, num_devices in ((11, 8), (12, 4), (13, 1), (14, 8)):
        like = _shapes(state, (1, num_devices, 1), num_devices)
        with closing(_open(tmp_path)) as checkpoints:
            found = checkpoints.restore(like, pytest.fail)
            assert found is not None
            moved = jnp.array(number, jnp.int32, device=found.state.step.sharding)
            checkpoints.save(checkpoints.sound(found.state._replace(step=moved)), [])
    assert _bits(_restored(tmp_path, _shapes(state))) == _bits(state._replace(step=jnp.array(14, jnp.int32)))
    assert len(once.files(tmp_path)) == 1


def test_what_the_weights_give_is_taken_as_it_is_and_what_they_give_otherwise_is_read(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other = _state(0), _state(0, frozen=7)
    mixed = same._replace(frozen={**same.frozen, "table": other.frozen["table"]})
    read: list[Any] = []
    really = once.read
    monkeypatch.setattr(
        once, "read", lambda run, meta, names: read.append(list(names)) or really(run, meta, names)
    )
    found = _restored(sample, mixed)
    assert read[0] == ["frozen/table"]
    assert _bits(found) == _bits(_state(20))
    assert found.frozen["stem"]["kernel"] is mixed.frozen["stem"]["kernel"]


def test_checkpoint_that_has_all_in_itself_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of earlier versions have, whose states had fewer fields."""
    with monkeypatch.context() as patch, closing(_open(tmp_path, frozenset())) as checkpoints:
        before = namedtuple("State", FIRST_FIELDS)
        patch.setattr(module, "State", before)
        state = _state(10)
        sound = checkpoints.sound(state)
        patch.setattr(State, "_asdict", lambda self: {name: getattr(self, name) for name in FIRST_FIELDS})
        checkpoints.save(sound, [])
        checkpoints.wait()
    assert once.files(tmp_path) == []
    assert "memory" not in (tmp_path / "checkpoints/10/state/_METADATA").read_text()
    meta = tmp_path / "checkpoints/10" / checkpoint_files.CHECKPOINT_META
    about = checkpoint_files.sound_meta(tmp_path / "checkpoints/10")
    del about[once.ONCE]
    del about["fields"]
    meta.write_text(json.dumps(checkpoint_files.sealed(about)))
    with closing(_open(tmp_path)) as checkpoints:
        found = checkpoints.restore(_state(0, frozen=7), pytest.fail)
        assert found is not None
        assert _bits(found.state) == _bits(_state(10))
        checkpoints.save(checkpoints.sound(_state(20)), [])
    assert _bits(_restored(tmp_path, _shapes(_state(0)))) == _bits(_state(20))
    assert _file(tmp_path).is_file()


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "values": lambda path: _flip(path, path.stat().st_size // 2),
    "last": lambda path: _flip(path, path.stat().st_size - 1),
    "length": lambda path: _flip(path, 1),
    "name": lambda path: _flip(path, path.read_bytes().index(b"table")),
    "dtype": lambda path: path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_written_again_of_the_weights_and_that_is_said(run: Path, damage: str) -> None:
    path = _file(run)
    before = path.read_bytes()
    DAMAGES[damage](path)
    said: list[str] = []
    assert _bits(_restored(run, _state(0), said.append)) == _bits(_state(20))
    assert path.read_bytes() == before
    assert len(said) == 1
    assert said[0].startswith(f"checkpoints: {path.name!r} was damaged (")
    assert said[0].endswith("); it was written again")


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "last"])
def test_damaged_file_that_is_needed_is_one_line_and_moves_nothing(run: Path, damage: str) -> None:
    DAMAGES[damage](_file(run))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with closing(_open(run)) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(_state(0, frozen=7), pytest.fail)
    assert "what never trains of every checkpoint, is damaged (" in str(caught.value)
    assert "the weights as they are now give other values; nothing was moved" in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_file_that_cannot_be_read_just_now_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, name = Path.open, _file(run).name

    def refuse(self: Path, *given: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return really(self, *given, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with closing(_open(run)) as checkpoints, pytest.raises(UserError, match=r"just now: .*Permission denied"):
        checkpoints.restore(_state(0, frozen=7), pytest.fail)


def test_killed_between_the_file_and_the_first_checkpoint_it_begins_anew(run: Path, tmp_path: Path) -> None:
    """The file may be whole, and of other weights as well; nothing that no checkpoint names is trusted."""
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / _file(run).name).write_bytes(b"a part")
    (begun / "frozen-0123456789ab.safetensors").write_bytes(b"of other weights")
    with closing(_open(begun)) as checkpoints:
        assert checkpoints.restore(_state(0), pytest.fail) is None
        checkpoints.save(checkpoints.sound(_state(20)), [])
        checkpoints.wait()
        checkpoints.tidy([])
    assert _file(begun).read_bytes() == _file(run).read_bytes()


def test_full_disk_leaves_neither_the_file_nor_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(leaves: Any) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with closing(_open(tmp_path)) as checkpoints:
        sound = checkpoints.sound(_state(10))
        with monkeypatch.context() as patch:
            patch.setattr(once, "_header", full)
            with pytest.raises(Unsaved, match=r"No space left on device; .* a checkpoint takes about 0.1 MB"):
                checkpoints.save(sound, [])
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
        assert checkpoints.steps() == []
        checkpoints.save(sound, [])
    assert _bits(_restored(tmp_path, _shapes(_state(0)))) == _bits(_state(10))


def test_leaf_that_moves_all_the_same_is_kept_anew_and_both_files_stay_as_long_as_they_are_named(
    run: Path,
) -> None:
    first = _file(run)
    with closing(_open(run)) as checkpoints:
        for number in (30, 40):
            checkpoints.save(checkpoints.sound(_state(number, frozen=7)), [])
            checkpoints.wait()
            checkpoints.tidy([])
            assert first.exists() == (20 in checkpoints.steps())
    assert _bits(_restored(run, _shapes(_state(0)))) == _bits(_state(40, frozen=7))
    assert _file(run) != first


def test_damaged_checkpoint_keeps_all_files(run: Path) -> None:
    (run / "frozen-0123456789ab.safetensors").write_bytes(b"of nothing that is known")
    (run / "checkpoints/10" / checkpoint_files.CHECKPOINT_META).write_text("{}")
    checkpoint_files.remove_unneeded(run / "checkpoints")
    assert len(once.files(run)) == 2


def test_values_of_the_best_step_have_what_never_moves(run: Path) -> None:
    state = _state(10)
    like = {"trainable": state.trainable, "model_state": state.model_state}
    with closing(_open(run)) as checkpoints:
        found = checkpoints.restore_values(10, like)
        assert _bits(found) == _bits(like)  # pyright: ignore[reportArgumentType]
        DAMAGES["gone"](_file(run))
        with pytest.raises(Damage, match="No such file"):
            checkpoints.restore_values(10, like)


def test_checkpoint_is_opened_as_weights_with_what_it_shares(run: Path) -> None:
    file = open_path(run / "checkpoints/20")
    state = _state(20)
    np.testing.assert_array_equal(file.tensors["params/table"].read(), state.frozen["table"])
    np.testing.assert_array_equal(
        file.tensors["params/head/kernel"].read(), state.trainable["head"]["kernel"]
    )
    _file(run).unlink()
    with pytest.raises(UserError, match=r"is not there, where checkpoint .*20' has what never trains"):
        open_path(run / "checkpoints/20")


@pytest.mark.parametrize(("adapts", "is_kept"), [(False, True), (True, False)])
def test_statistics_of_frozen_layers_never_move_unless_they_adapt(adapts: bool, is_kept: bool) -> None:
    parts, params, model_state = tiny.make_parts("resnet", "probe", adapts_frozen_stats=adapts)
    state = tiny.make_state(parts, params, model_state)
    names = step.unmoved(parts, state)
    stats = [name for name in checkpoint_files.digests.names(state) if name.startswith("model_state/")]
    assert stats
    assert (set(stats) <= names) == is_kept
    assert not any(name.startswith(("trainable/", "opt_state/")) for name in names)


def test_statistics_of_layers_that_train_later_move() -> None:
    parts, params, model_state = tiny.make_parts("resnet", "gradual", num_stages=3)
    assert not step.unmoved(parts, tiny.make_state(parts, params, model_state))


SETTINGS = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    "strategy": {"name": "lora", "rank": 2},
    "train": {"steps": 6, "batch_size": 64, "eval_every": 2, "eval_batch_size": 200},
    "sharding": {"devices": 1},
}


@pytest.mark.usefixtures("without_pictures")
def test_run_that_goes_on_ends_in_the_same_bits_with_the_same_file(
    tmp_path: Path,
) -> None:
    settings, folder = config.from_dict(SETTINGS), tmp_path / "run"
    whole = train.run(settings, folder)
    path, content = _file(folder), _file(folder).read_bytes()
    assert set(checkpoint.verify(str(folder)).values()) == {""}
    for name in ("summary.json", WEIGHTS_NAME):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints/6")
    again = train.run(settings, folder)
    assert (again["digest"], again["model_sha256"]) == (whole["digest"], whole["model_sha256"])
    assert _file(folder) == path
    assert path.read_bytes() == content
