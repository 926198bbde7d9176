"""What went wrong on this machine, in one line that says what to change."""

import errno
import os

import pytest

from jtl import faults, memory
from jtl.errors import UserError


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "No space left on device; make room on that disk"),
        (errno.EMFILE, "Too many open files; .* raise `ulimit -n`"),
        (errno.EACCES, "Permission denied; check its owner and permissions"),
        (errno.EROFS, "Read-only file system; the file system is read-only"),
    ],
)
def test_errors_of_the_system_name_the_file_and_what_to_change(number: int, cure: str) -> None:
    found = faults.explained(OSError(number, os.strerror(number), "runs/a"))
    assert found is not None
    with pytest.raises(UserError, match=f"'runs/a': {cure}"):
        raise UserError(found)


def test_error_that_a_library_wrapped_is_found() -> None:
    wrapped = ValueError("could not save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "checkpoints/3")
    assert "'checkpoints/3': No space left on device" in (faults.explained(wrapped) or "")


def test_file_that_is_missing_behind_a_bug_is_no_excuse_for_it() -> None:
    bug = AssertionError("update comes first")
    bug.__context__ = FileNotFoundError(errno.ENOENT, "No such file or directory", "a")
    assert faults.explained(bug) is None


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")],
)
def test_memory_that_does_not_suffice_says_what_to_lower(error: Exception) -> None:
    assert "the memory does not suffice; lower train.batch_size" in (faults.explained(error) or "")


def test_threads_that_cannot_be_started_are_no_bug() -> None:
    found = faults.explained(RuntimeError("can't start new thread"))
    assert (found or "").startswith("no more threads or processes may be started; lower inputs.threads, or")


@pytest.mark.parametrize(
    "text",
    [
        "libjax_common.so: failed to map segment from shared object",
        "a.so: cannot create shared object descriptor: Cannot allocate memory",
    ],
)
def test_library_for_which_there_is_no_memory_is_no_bug(text: str) -> None:
    found = faults.explained(ImportError(text)) or ""
    assert found.startswith("the memory does not suffice to load a library (")
    assert found.endswith("; raise `ulimit -v`")
    for other in ("cannot import name 'x'", "libgomp.so.1: cannot allocate memory in static TLS block"):
        assert faults.explained(ImportError(other)) is None


def test_address_space_in_which_libraries_crash_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.check_room()
    monkeypatch.setattr(memory, "_address_bytes", lambda: 900_000 * 1024)
    with pytest.raises(UserError, match=r"`ulimit -v` leaves 878.9 MiB and the libraries alone take 1.2 GiB"):
        memory.check_room()


def test_code_in_c_that_fails_without_a_word_lacks_memory_where_it_is_nearly_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = SystemError("error return without exception set")
    assert faults.explained(error) is None
    for limit, is_memory in ((1 << 30, True), (1 << 60, False)):
        monkeypatch.setattr(memory, "_address_bytes", lambda limit=limit: limit)
        monkeypatch.setattr(memory, "_peak_address_bytes", lambda: 700 << 20)
        found = faults.explained(error)
        assert (found is not None) == is_memory
    monkeypatch.setattr(memory, "_address_bytes", lambda: 1 << 30)
    assert faults.explained(error) == (
        "a library failed as without memory (error return without exception set): `ulimit -v` leaves "
        "1.0 GiB; raise it"
    )


def test_processes_that_did_not_find_each_other_in_time_are_no_bug() -> None:
    text = (
        "UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue() timed out with key: c"
    )
    found = faults.explained(RuntimeError(text)) or ""
    assert found.startswith("the processes did not find each other within the 30 s that they have for it on")
    assert found.endswith(
        "one is much slower than the others, or the machine is overloaded; repeat the command"
    )


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError(), TypeError("x"), RuntimeError("x")])
def test_bugs_are_bugs(error: Exception) -> None:
    assert faults.explained(error) is None
