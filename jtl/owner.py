"""Who may write into a run folder: one process at a time, by a lock that the kernel gives back at its end."""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from jtl import files
from jtl.errors import UserError
from jtl.names import as_unicode, is_unicode

NAME = ".owner"
# Where processes that do not own the folder say what they do.
LOGS = "logs"
# A folder that nobody may write into needs no lock; one that is none is refused where it is opened.
NEEDLESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
# An owner writes its name right after it has the lock.
NAME_READS, NAME_SECONDS = 20, 0.05


@contextmanager
def owned(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Own a folder inside the `with` block; a process that owns it already simply goes on.

    The lock is `flock`, which Linux and macOS hand on to the server of a network folder. Where it is not
    supported, `say` is told and the block runs without. The folder is made, and gone again if it stays empty.

    Raises:
        UserError: another process owns it, or its name is one that checkpoints cannot have.
    """
    if not is_unicode(str(folder.absolute())):
        raise UserError(
            f"run folder {as_unicode(str(folder))!r} has bytes in its path that are no UTF-8, where "
            f"checkpoints cannot be saved; give another --workdir"
        )
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder, say)
    except OSError as error:
        if error.errno not in NEEDLESS:
            raise
        yield
        return
    try:
        if lock is not None:
            _remove_parts(folder)
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                (folder / NAME).unlink()
            lock.close()
        if lock is not None and is_new:
            with suppress(OSError):  # of a folder with something in it
                folder.rmdir()


def is_free(folder: Path) -> bool:
    """Return whether there is nothing in a folder but what `owned` left there."""
    return all(each.name in (NAME, LOGS) for each in folder.iterdir())


def _locked(folder: Path, say: Callable[[str], None]) -> IO[bytes] | None:
    """Take the lock and write our name; None where there is nothing to give back.

    Raises:
        UserError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        say(f"{str(folder)!r}: this system has no file locks; start no second run on this folder")
        return None
    while True:
        file = os.fdopen(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An owner removes it at its end: whoever comes next would lock another file of this name.
            if _is_there(file, folder / NAME):
                break
        except OSError as error:
            with file:
                if error.errno in UNSUPPORTED:
                    say(f"{str(folder)!r}: no file locks here ({error.strerror}); start no second run on it")
                    return None
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                _check_ours(file, folder)
                return None
        file.close()
    file.truncate(0)
    file.write(json.dumps(_ourselves()).encode())
    return file


def _remove_parts(folder: Path) -> None:
    """Remove what a killed owner was writing, into the folders of a run's splits too."""
    files.remove_parts(folder)
    for below in folder.iterdir():
        # One with an owner of its own, a run of a comparison, is for that owner.
        if below.is_dir() and not below.is_symlink() and not (below / NAME).exists():
            files.remove_parts(below)


def _check_ours(file: IO[bytes], folder: Path) -> None:
    """Raise UserError unless the owner is this very process."""
    found: Any = {}
    for _ in range(NAME_READS):
        file.seek(0)
        with suppress(ValueError, RecursionError):
            found = json.loads(file.read())
        if found:
            break
        time.sleep(NAME_SECONDS)
    named, ours = found if isinstance(found, dict) else {}, _ourselves()
    if all(named.get(name) == ours[name] for name in ("host", "pid")):
        return
    who = "another process"
    if named:
        who = f"process {named.get('pid')} on {named.get('host')} since {named.get('since')}"
    raise UserError(
        f"run folder {str(folder)!r} is in use by {who}; expected one process a folder: wait for its end, "
        f"stop it, or give another folder"
    )


def _is_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _ourselves() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
