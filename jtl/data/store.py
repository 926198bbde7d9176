"""Named arrays kept on disk between runs: whole or not there, verified when opened, bounded, shared.

An entry is written elsewhere and renamed, so that a killed writer leaves nothing that is believed; of two
processes that want the same one writes and the other waits. What is in use holds a shared lock on its header;
of the others the one unused for longest goes first. `entry` has the form of one.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from filelock import FileLock, Timeout

from jtl import memory
from jtl.data.entry import FORMAT, HEADER, Damaged, Entry, TooLarge, Writer, mapped, verify, write_header
from jtl.errors import shortened
from jtl.files import PART

WAIT_SECONDS = 1.0
Say = Callable[[str], None]


class Store(NamedTuple):
    """A folder of entries, which together take at most `max_bytes`; see `files.cache_folder`."""

    folder: Path
    max_bytes: int


def kept(
    store: Store,
    key: str,
    make: Callable[[Writer], None],
    *,
    num_bytes: int,
    about: str,
    say: Say,
) -> Entry | None:
    """Return the entry of a key, verified; `make` writes it where it is not there, or damaged.

    `key` must be a digest of all that decides its arrays, `num_bytes` about what they will take. None where
    it cannot be kept: the disk fails or is full, or the store is too small; `say` is told in one line what
    of (`about`, such as "decoded images").
    """
    try:
        _claim(store.folder)
        # What is damaged is told by the process that makes it anew.
        found = _sound(store, key, about, _say_nothing)
        if found is not None:
            return found
        with _alone(store, key, about, say):
            return _sound(store, key, about, say) or _made(store, key, make, num_bytes, about)
    except TooLarge:
        say(
            f"{about} are not kept: {memory.text(num_bytes)} or more of them are over what is free of the "
            f"{memory.text(store.max_bytes)} that {str(store.folder)!r} may take"
        )
    except (OSError, NotImplementedError, Damaged) as error:
        reason = getattr(error, "strerror", None) or shortened(str(error)) or type(error).__name__
        say(f"{about} are not kept: {str(store.folder)!r} fails ({reason})")
    return None


def is_there(store: Store, key: str) -> bool:
    """Return whether there is an entry of this key, sound or not."""
    return (store.folder / key / HEADER).is_file()


def opened(store: Store, key: str) -> Entry | None:
    """Return the entry of a key, verified, None where there is none.

    Raises:
        Damaged: it is not what was written.
        OSError: it cannot be read.
    """
    folder = store.folder / key
    try:
        held = (folder / HEADER).open("rb")
    except FileNotFoundError:
        return None
    with held:
        # It may be going, to make room.
        if not _lock(held, exclusive=False) or not _is_there(held, folder / HEADER):
            return None
        arrays = mapped(folder).arrays
        verify(folder)
        with suppress(OSError):  # of a cache that others own: it is as old as it is
            os.utime(folder / HEADER)
        # The lock is of the open file, whichever descriptor keeps it open.
        return Entry(folder, arrays, os.dup(held.fileno()))


def make_room(store: Store, num_bytes: int, key: str = "") -> bool:
    """Remove the entries unused for longest until so many bytes are free; return whether they are.

    What killed writers left goes first; what others write counts, but for what is written under `key`.
    """
    taken = 0
    for part in store.folder.glob(PART.format(name="*", mark="*")):
        owner = part.name[1:].partition(".")[0]
        lock = FileLock(_lock_path(store, owner))
        with suppress(Timeout, OSError), lock.acquire(blocking=False):
            shutil.rmtree(part, ignore_errors=True)
        taken += _size(part) if owner != key else 0
    headers = [each for each in store.folder.glob(f"*/{HEADER}") if not each.parent.name.startswith(".")]
    sizes = {header: _size(header.parent) for header in headers}
    taken += sum(sizes.values())
    for header in sorted(headers, key=_modified):
        if taken + num_bytes <= store.max_bytes:
            break
        if _remove_unused(header):
            taken -= sizes[header]
    return taken + num_bytes <= store.max_bytes


def _sound(store: Store, key: str, about: str, say: Say) -> Entry | None:
    """Return the entry where it is there and sound."""
    try:
        return opened(store, key)
    except Damaged as error:
        say(f"kept {about} are damaged ({error}) and are made anew")
    return None


def _say_nothing(line: str) -> None:
    del line


def _made(store: Store, key: str, make: Callable[[Writer], None], num_bytes: int, about: str) -> Entry | None:
    """Write the entry and return it; the lock of its key is ours."""
    _discard(store.folder / key)
    if not make_room(store, num_bytes, key):
        raise TooLarge
    part = store.folder / PART.format(name=key, mark=f"{os.getpid()}-{secrets.token_hex(4)}")
    part.mkdir(mode=0o700)
    try:
        writer = Writer(part, store.max_bytes)
        try:
            make(writer)
            header = {"format": FORMAT, "key": key, "about": about, "arrays": writer.finish()}
        finally:
            writer.close()
        write_header(part, header)
        if not make_room(store, _size(part), key):
            raise TooLarge
        part.replace(store.folder / key)
        _sync(store.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return opened(store, key)


@contextmanager
def _alone(store: Store, key: str, about: str, say: Say) -> Iterator[None]:
    """Hold the lock of a key; while another process does, say so once and wait."""
    lock = FileLock(_lock_path(store, key), mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"another process writes the {about}: waiting for it")
        lock.acquire(poll_interval=WAIT_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _claim(folder: Path) -> None:
    """Make the folder, for its user alone."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def _remove_unused(header: Path) -> bool:
    """Remove an entry unless some process has it open; return whether it is gone."""
    try:
        with header.open("r+b") as held:
            is_unused = _lock(held, exclusive=True)
            if is_unused:
                _discard(header.parent)
            return is_unused
    except OSError:
        return not header.exists()


def _discard(folder: Path) -> None:
    """Remove an entry: nothing believes it once its name is gone."""
    away = folder.with_name(PART.format(name=folder.name, mark=f"{os.getpid()}-{secrets.token_hex(4)}"))
    with suppress(FileNotFoundError):
        folder.replace(away)
        shutil.rmtree(away, ignore_errors=True)


def _lock(file: IO[bytes], *, exclusive: bool) -> bool:
    """Lock a file until it is closed; return whether no lock of another stands against that."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where files that are mapped cannot be removed anyway
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(each.stat().st_size for each in folder.iterdir())
    return 0


def _sync(folder: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock_path(store: Store, key: str) -> Path:
    return store.folder / f"{key}.lock"
