"""What a fault of reading or writing a checkpoint means: damage, or a machine that cannot do it just now.

Orbax and TensorStore wrap nearly everything in bare `Exception` and `ValueError`: a missing permission looks
like a tree of another structure. So the operating system is asked first, and errors are told by its numbers.
"""

import errno
import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jtl import __version__
from jtl.errors import UserError
from jtl.faults import CURES, NO_THREAD, causes
from jtl.training import digests

# A file that is gone, or something else in its place: that is damage. All other numbers are the machine's.
OF_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
OF_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT),
    *(errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT),
)
# How TensorStore 0.1 says the number, where it does.
OS_NUMBER = re.compile(r"os_error_code='(\d+)'")
OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory|bad_alloc")
ORBAX = "orbax-checkpoint"
READ_BYTES = 2**20
MAX_SHOWN = 160


class Damage(Exception):
    """A checkpoint is not what was saved: files of it are changed, cut or lost."""


class Diverged(UserError):
    """The numbers of a run are no longer finite: nothing of it is worth saving."""


class Unsaved(UserError):
    """A checkpoint could not be saved."""


def made_with() -> dict[str, str]:
    """Return the versions of what a checkpoint's files are made by."""
    return {"jtl": __version__, ORBAX: importlib.metadata.version(ORBAX)}


def check_readable(checkpoint: Path) -> None:
    """Raise UserError where this process may not open one of a checkpoint's files, and name it."""
    for path in _files(checkpoint):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            check_of_machine(checkpoint, error)


def read(checkpoint: Path, name: str) -> bytes:
    """Return the bytes of one file of a checkpoint.

    Raises:
        Damage: it is not there.
        UserError: it cannot be read just now.
    """
    try:
        return (checkpoint / name).read_bytes()
    except OSError as error:
        check_of_machine(checkpoint, error)
        raise Damage(f"{name}: {error.strerror}") from error


def check_kinds(checkpoint: Path, meta: Mapping[str, Any], like: Any) -> None:
    """Raise UserError where a checkpoint's sealed meta tells of another state than `like`, this program's."""
    found, expected = meta.get("kinds"), digests.kinds(like)
    if not isinstance(found, dict):
        found = {name: expected.get(name, "") for name in meta["digests"]}
    differing = [
        f"{name}: {found.get(name, 'nothing')}, now {expected.get(name, 'nothing')}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise UserError(
            f"checkpoint {str(checkpoint)!r} holds another state than this program makes ({differing[0]}"
            f"{more}); it was saved by {_versions(meta)}; nothing was moved: go on with the program that "
            f"saved it, or give another --workdir"
        )


def explained(error: Exception, checkpoint: Path, meta: Mapping[str, Any]) -> Exception:
    """Return what a failed restore is: Damage, or a UserError where the checkpoint may be sound.

    `meta` is the checkpoint's own, whose seal was found whole.
    """
    for each in causes(error):
        number = number_of(each)
        if number is not None and number not in OF_DAMAGE:
            return _unreadable(checkpoint, os.strerror(number), number)
        if is_of_memory(each):
            return UserError(
                f"the memory does not suffice to restore checkpoint {str(checkpoint)!r} ({_short(each)}); "
                f"nothing was moved: free some, or take a larger machine, and repeat the command"
            )
        if isinstance(each, jax.errors.JaxRuntimeError):
            return _unreadable(checkpoint, _short(each))
    try:
        _read_all(checkpoint)
    except OSError as fault:
        if fault.errno not in OF_DAMAGE:
            return _unreadable(checkpoint, f"{fault.filename}: {fault.strerror}", fault.errno)
    own, ours = meta.get("made_with", made_with()), made_with()
    if own.get(ORBAX) != ours[ORBAX]:
        return UserError(
            f"checkpoint {str(checkpoint)!r} was saved by {_versions(meta)} and cannot be read by {ORBAX} "
            f"{ours[ORBAX]} ({_short(error)}); nothing was moved: install {ORBAX}=={own.get(ORBAX)}, or "
            f"remove that checkpoint to go on from the one before"
        )
    return Damage(_short(error))


def unsaved(error: Exception, folder: Path, num_bytes: int) -> Unsaved:
    """Return what a failed save is, as one line: where, why, and what to change."""
    numbers = [number for each in causes(error) if (number := number_of(each)) is not None]
    named = [each.filename for each in causes(error) if isinstance(each, OSError) and each.filename]
    reason = os.strerror(numbers[0]) if numbers else _short(error)
    where = str(named[0]) if named else str(folder)
    cure = CURES.get(numbers[0], "mend that") if numbers else "mend that"
    if numbers and numbers[0] in (errno.ENOSPC, errno.EDQUOT) and folder.exists():
        free = shutil.disk_usage(folder).free
        cure = (
            f"{_megabytes(free)} are free there, and a checkpoint takes about {_megabytes(num_bytes)}; {cure}"
        )
    return Unsaved(
        f"a checkpoint could not be saved: {where!r}: {reason}; {cure}. The checkpoints before it are kept: "
        f"repeat the command to go on from the last"
    )


def number_of(error: BaseException) -> int | None:
    """Return the operating system's number of an error, also where a library has only put it into words.

    >>> number_of(ValueError("Failed to open: 'a': Permission denied")) == errno.EACCES
    True
    """
    if isinstance(error, OSError):
        return error.errno
    if NO_THREAD in str(error):
        return errno.EAGAIN
    found = OS_NUMBER.search(str(error))
    if found:
        return int(found.group(1))
    return next((number for number in OF_MACHINE if os.strerror(number) in str(error)), None)


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the host or of a device does not suffice."""
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


def check_of_machine(checkpoint: Path, error: OSError) -> None:
    """Raise UserError where an error of reading is the machine's, and no sign of damage."""
    if error.errno not in OF_DAMAGE:
        name = error.filename or checkpoint
        raise _unreadable(checkpoint, f"{str(name)!r}: {error.strerror}", error.errno) from error


def _unreadable(checkpoint: Path, reason: str, number: int | None = None) -> UserError:
    cure = CURES.get(number, "mend that") if number else "mend that"
    return UserError(
        f"checkpoint {str(checkpoint)!r} cannot be read just now: {reason}; it may be sound, and nothing was "
        f"moved: {cure}"
    )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder.

    Raises:
        UserError: a folder cannot be listed just now.
    """

    def check(error: OSError) -> None:
        check_of_machine(folder, error)

    for root, _, names in os.walk(folder, onerror=check):
        yield from (Path(root) / name for name in names)


def _read_all(folder: Path) -> None:
    """Read every byte: a failing disk says so only then."""
    for path in _files(folder):
        with path.open("rb") as file:
            while file.read(READ_BYTES):
                pass


def _versions(meta: Mapping[str, Any]) -> str:
    own = meta.get("made_with", {})
    return f"jtl {own.get('jtl', 'unknown')} with {ORBAX} {own.get(ORBAX, 'unknown')}"


def _short(error: BaseException) -> str:
    """Return an error's cause in few words: TensorStore adds its whole specification."""
    *_, cause = causes(error)
    text = re.split(r"\[tensorstore_spec|\[source locations", str(cause))[0]
    return " ".join(text.split())[:MAX_SHOWN] or type(cause).__name__
