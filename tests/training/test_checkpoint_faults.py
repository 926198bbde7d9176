"""What a fault means: damage alone moves a checkpoint; all else is told as what it is, and moves nothing."""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from jtl.errors import UserError
from jtl.training import checkpoint_faults, digests
from jtl.training.checkpoint import Checkpoints
from jtl.training.state import State

# A failed Orbax restore leaves coroutines of its own unawaited, which warn when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("collected"),
]


def _state(step: int, kernel: Any = None) -> State:
    kernel = jnp.arange(12.0).reshape(3, 4) + step if kernel is None else kernel
    return State(jnp.array(step, jnp.int32), {"head": {"kernel": kernel}}, {}, {}, (), {})


def _like(state: State) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of steps 10 and 20, for tests to copy."""
    folder = tmp_path_factory.mktemp("sample")
    with closing(Checkpoints(folder / "checkpoints", metric="loss", is_maximized=False)) as checkpoints:
        for step in (10, 20):
            checkpoints.save(checkpoints.sound(_state(step)), [])
    return folder


@pytest.fixture
def saved(sample: Path, tmp_path: Path) -> Iterator[Checkpoints]:
    """Checkpoints of steps 10 and 20."""
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    with closing(Checkpoints(tmp_path / "checkpoints", metric="loss", is_maximized=False)) as checkpoints:
        yield checkpoints


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _refused(saved: Checkpoints, folder: Path, like: Any = None) -> str:
    """Return why a restore is refused; nothing may have been moved, and nothing said of damage."""
    before = _files(folder)
    with pytest.raises(UserError) as caught:
        saved.restore(_like(_state(0)) if like is None else like, pytest.fail)
    assert _files(folder) == before
    return str(caught.value)


TENSORSTORE = "PERMISSION_DENIED: Error opening 'zarr': Permission denied [tensorstore_spec='{}']"
MACHINE = {
    "permission": OSError(errno.EACCES, os.strerror(errno.EACCES), "state/d/1"),
    "disk": OSError(errno.EIO, os.strerror(errno.EIO), "state/d/1"),
    "server": OSError(errno.ESTALE, os.strerror(errno.ESTALE), "state/d/1"),
    "files": OSError(errno.EMFILE, os.strerror(errno.EMFILE), "state/d/1"),
    "space": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state/d/1"),
    "in words": ValueError(TENSORSTORE),
    "by number": ValueError("UNKNOWN: Error reading 'a' [os_error_code='5']"),
}
MEMORY = {
    "host": MemoryError("cannot allocate 5 GB"),
    "device": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
}


def _raising(error: Exception, *, is_wrapped: bool) -> Callable[..., Any]:
    def restore(*_: Any, **__: Any) -> Any:
        if not is_wrapped:
            raise error
        try:
            raise error
        except Exception as cause:
            raise Exception("Encountered error while reading array index: (slice(0, 64, 1),).") from cause

    return restore


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("kind", MACHINE)
def test_fault_of_the_machine_is_told_and_moves_nothing(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_wrapped: bool
) -> None:
    monkeypatch.setattr(ocp.CheckpointManager, "restore", _raising(MACHINE[kind], is_wrapped=is_wrapped))
    shown = _refused(saved, tmp_path)
    number = checkpoint_faults.number_of(MACHINE[kind])
    assert number is not None
    assert "checkpoints/20' cannot be read just now" in shown
    assert os.strerror(number) in shown
    assert "nothing was moved" in shown


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("kind", MEMORY)
def test_lack_of_memory_is_told_and_moves_nothing(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_wrapped: bool
) -> None:
    monkeypatch.setattr(ocp.CheckpointManager, "restore", _raising(MEMORY[kind], is_wrapped=is_wrapped))
    shown = _refused(saved, tmp_path)
    assert "the memory does not suffice to restore checkpoint" in shown
    assert "nothing was moved" in shown


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "metadata", "process_0"])
def test_file_that_may_not_be_read_is_named(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A missing permission to read `_METADATA` looks to Orbax like a state of another structure."""
    really = Path.open

    def refuse(self: Path, *given: Any, **options: Any) -> Any:
        if self.name == name and "20" in self.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return really(self, *given, **options)

    monkeypatch.setattr(Path, "open", refuse)
    shown = _refused(saved, tmp_path)
    assert f"{name}': Permission denied" in shown


def test_disk_that_fails_while_a_file_is_read_is_no_damage(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = OSError(errno.EIO, os.strerror(errno.EIO), "state/d/1")

    def fail(folder: Path) -> None:
        raise fault

    monkeypatch.setattr(ocp.CheckpointManager, "restore", _raising(ValueError("DATA_LOSS"), is_wrapped=False))
    monkeypatch.setattr(checkpoint_faults, "_read_all", fail)
    assert "state/d/1: Input/output error" in _refused(saved, tmp_path)


@pytest.mark.parametrize(
    ("kernel", "shown"),
    [
        (jnp.zeros((3, 5)), "trainable/head/kernel: float32[3,4], now float32[3,5]"),
        (jnp.zeros((3, 4), jnp.bfloat16), "trainable/head/kernel: float32[3,4], now bfloat16[3,4]"),
    ],
)
def test_state_of_another_program_is_told_and_moves_nothing(
    saved: Checkpoints, tmp_path: Path, kernel: Any, shown: str
) -> None:
    assert shown in _refused(saved, tmp_path, _like(_state(0, kernel)))


def test_leaves_that_only_one_of_program_and_checkpoint_has_are_told(
    saved: Checkpoints, tmp_path: Path
) -> None:
    other = _state(0)._replace(trainable={"head": {"bias": jnp.zeros(3)}})
    shown = _refused(saved, tmp_path, _like(other))
    assert "trainable/head/bias: nothing, now float32[3] and 1 more" in shown
    assert f"was saved by jtl {checkpoint_faults.made_with()['jtl']} with orbax-checkpoint " in shown


def test_checkpoint_of_another_orbax_that_cannot_be_read_is_told_and_moves_nothing(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"jtl": "9.9", "orbax-checkpoint": "9.9.9"}
    before = checkpoint_faults.made_with()["orbax-checkpoint"]
    monkeypatch.setattr(checkpoint_faults, "made_with", lambda: now)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", _raising(KeyError("ocdbt"), is_wrapped=False))
    shown = _refused(saved, tmp_path)
    assert "cannot be read by orbax-checkpoint 9.9.9 ('ocdbt'); nothing was moved" in shown
    assert f"install orbax-checkpoint=={before}" in shown


def test_damage_that_cannot_be_moved_says_so(
    saved: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints" / "20" / "meta" / "metadata").write_text("{}")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self), None, str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        UserError, match=r"20' is damaged \(its meta .*\) and cannot be moved to .*damaged': Perm"
    ):
        saved.restore(_like(_state(0)), lambda text: None)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, "No space"), "No space left on device; 3.0 MB are free there, and a"),
        (ValueError("RESOURCE_EXHAUSTED: 'a' [os_error_code='28']"), "3.0 MB are free there"),
        (OSError(errno.EACCES, "Denied", "run/checkpoints/3"), "'run/checkpoints/3': Permission denied"),
        (ValueError("OUT_OF_RANGE: Failed to write [os_error_code='27']"), "File too large"),
        (
            RuntimeError("can't start new thread"),
            "no more threads or processes may be started; lower inputs.",
        ),
        (ValueError("something else [tensorstore_spec='{}']"), "something else; mend that"),
    ],
)
def test_save_that_failed_is_one_line_with_the_cause_and_the_cure(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch, error: Exception, shown: str
) -> None:
    monkeypatch.setattr(
        checkpoint_faults.shutil, "disk_usage", lambda path: os.times_result if False else _Usage(3_000_000)
    )
    monkeypatch.setattr(ocp.CheckpointManager, "save", _raising(error, is_wrapped=True))
    with pytest.raises(UserError) as caught:
        saved.save(saved.sound(_state(30)), [])
    assert str(caught.value).startswith("a checkpoint could not be saved: ")
    assert shown in str(caught.value)
    assert "repeat the command to go on from the last" in str(caught.value)


class _Usage:
    """What `shutil.disk_usage` gives."""

    def __init__(self, free: int) -> None:
        self.free = free


def test_folder_that_cannot_be_written_leaves_no_thread_waiting(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax's writing threads would wait 20 minutes for a folder that another of them could not make."""
    really, before = os.mkdir, set(threading.enumerate())

    def refuse(path: Any, *given: Any, **options: Any) -> None:
        if "30.orbax" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        really(path, *given, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    sound = saved.sound(_state(30))
    with pytest.raises(UserError, match=r"checkpoints/30.orbax-checkpoint-tmp': Permission denied"):
        saved.save(sound, [])
    waiting = [each for each in threading.enumerate() if each not in before and not each.daemon]
    for each in waiting:
        each.join(10)
    assert not [each.name for each in waiting if each.is_alive()]
    assert saved.steps() == [10, 20]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8", "float16"])
@pytest.mark.parametrize("shape", [(), (7,), (33, 65), (0, 4)])
def test_digest_on_the_host_is_that_on_the_devices(
    dtype: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "CHUNK_WORDS", 100)
    leaf = jax.random.uniform(jax.random.key(0), shape, minval=-9, maxval=9).astype(dtype)
    state = {"head": leaf}
    assert digests.on_host(jax.device_get(state)) == digests.as_text(state, jax.jit(digests.on_device)(state))
