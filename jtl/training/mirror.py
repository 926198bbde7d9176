"""A copy of a run folder in an object store (`train.mirror`): kept beside training, gone on from elsewhere.

The run folder stays on this machine's disk. Behind every checkpoint that is whole there, a thread brings the
store up to it: every file is an object named by its sha256, read back after it was put, and a manifest, which
is replaced last, says which of them are the run folder. A process that dies in between leaves the manifest
before, all of whose objects are there. A store that fails ends no run: that is said, and tried again behind
the next checkpoint.
"""

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl import distributed, files, owner
from jtl.errors import UserError, shown
from jtl.object_store import Store, Unreachable, digest_of, opened
from jtl.training import checkpoint_files, config
from jtl.training.config import Config
from jtl.weights.run_folder import CHECKPOINTS_NAME, WEIGHTS_NAME

MANIFEST, OBJECTS, FORMAT = "mirror.json", "objects", 1
# A file up to this size is read once, digested and put: it may grow meanwhile.
SMALL_BYTES = 1 << 26
# How often to look whether a checkpoint is whole on the disk, which is done by threads of Orbax.
LOOK_SECONDS = 0.25
# Where a run folder has another run in it, as that of a baseline.
OWN_RUN = config.NAME


class Entry(NamedTuple):
    """A file of the run folder as it lies in the store."""

    sha256: str
    bytes: int


class Taken(Exception):
    """Another process writes to the mirror."""


class Mirror:
    """Keeps a store up to a run folder, in a thread of its own.

    `saved` and `close` are the calls of a run; `say` is told when the store cannot be reached, when it can be
    again, and at the end what is missing there.
    """

    def __init__(self, store: Store, folder: Path, say: Callable[[str], None]) -> None:
        self._store, self._folder, self._say = store, folder, say
        self._writer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._known: dict[str, tuple[Any, Entry]] = {}
        self._objects: set[str] = set()
        # What a process that died had put there without saying so.
        self._orphans: set[str] = set()
        self._fault = ""
        self._is_over = False
        self._step = -1
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        """Become the one who writes here; the others, if there are any, end their mirroring.

        Raises:
            UserError: the store cannot be written.
        """
        try:
            found = read(self._store) or {"files": {}, "checkpoints": {}}
            self._objects = set(_objects(found))
            self._write(found)
            self._orphans = self._store.listed(OBJECTS) - self._objects
        except Unreachable as error:
            raise UserError(
                f"train.mirror: {shown(self._store.url)} cannot be written ({error.reason}); mend that, or "
                f"train without it"
            ) from error

    def saved(self, step: int) -> None:
        """Bring the store up to the folder once the checkpoint of this step is whole there."""
        self._step = step
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="jtl-mirror", daemon=True)
            self._thread.start()
        self._changed.set()

    def close(self, *, is_done: bool) -> None:
        """Bring the store up to the folder as it is now, and say what could not be brought there.

        Where the run is not done, but was ended by an error, that is worth it if it saved anything.
        """
        self._closing.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
        if not self._is_over and (is_done or self._thread is not None):
            self._sync()
        if self._fault:
            self._say(
                f"train.mirror: {shown(self._store.url)} lacks what was written since ({self._fault}); the "
                f"run folder has all: repeat the command to bring it there"
            )

    def _follow(self) -> None:
        while not self._closing.is_set() and not self._is_over:
            self._changed.wait()
            self._changed.clear()
            step = self._folder / CHECKPOINTS_NAME / str(self._step)
            while not step.is_dir() and not self._closing.is_set():
                self._changed.wait(LOOK_SECONDS)
                self._changed.clear()
                step = self._folder / CHECKPOINTS_NAME / str(self._step)
            if not self._closing.is_set():
                self._sync()

    def _sync(self) -> None:
        try:
            self._bring()
        except Taken:
            self._is_over, self._fault = True, ""
            self._say(
                f"train.mirror: another process writes to {shown(self._store.url)} now; this one goes on "
                f"without"
            )
        except Unreachable as error:
            if not self._fault:
                self._say(
                    f"train.mirror: {shown(self._store.url)} cannot be written ({error.reason}); the run "
                    f"goes on, and it is tried again behind the next checkpoint"
                )
            self._fault = error.reason
        except Exception as error:  # a fault of the mirror is never one of the run
            self._fault = f"{type(error).__name__}: {error}"
            self._say(f"train.mirror: {self._fault}")
        else:
            if self._fault:
                self._say(f"train.mirror: {shown(self._store.url)} has everything again")
            self._fault = ""

    def _bring(self) -> None:
        self._check_ours()
        steps: dict[str, Any] = {}
        # The newest first: of the others one may be removed meanwhile.
        for step in reversed(checkpoint_files.steps(self._folder / CHECKPOINTS_NAME)):
            with suppress(FileNotFoundError):
                steps[str(step)] = self._brought(self._folder / CHECKPOINTS_NAME / str(step))
        found = {}
        for path in run_files(self._folder):
            with suppress(FileNotFoundError):
                found[str(path.relative_to(self._folder))] = self._entry(path)._asdict()
        self._check_ours()
        manifest = {"files": found, "checkpoints": steps}
        self._write(manifest)
        now = set(_objects(manifest))
        self._store.remove(sorted((self._objects | self._orphans) - now))
        self._objects, self._orphans = now, set()

    def _brought(self, checkpoint: Path) -> dict[str, Any]:
        """Return the entries of a checkpoint's files, which are in the store then.

        Raises:
            FileNotFoundError: it was removed meanwhile.
        """
        paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        found = {str(path.relative_to(checkpoint)): self._entry(path)._asdict() for path in paths}
        if not checkpoint.is_dir() or len(found) != sum(path.is_file() for path in checkpoint.rglob("*")):
            raise FileNotFoundError(str(checkpoint))
        return found

    def _entry(self, path: Path) -> Entry:
        """Return how a file lies in the store, where it is put unless it is there."""
        about = path.stat()
        mark = (about.st_size, about.st_mtime_ns, about.st_ino)
        known = self._known.get(str(path))
        if known is not None and known[0] == mark and f"{OBJECTS}/{known[1].sha256}" in self._objects:
            return known[1]
        content = path.read_bytes() if about.st_size <= SMALL_BYTES else None
        sha256 = digest_of(path.open("rb")) if content is None else hashlib.sha256(content).hexdigest()
        entry = Entry(sha256, about.st_size if content is None else len(content))
        name = f"{OBJECTS}/{sha256}"
        if name not in self._objects:
            if content is None:
                self._store.upload(name, path, sha256)
            else:
                self._store.put(name, content, sha256)
        self._known[str(path)] = (mark, entry)
        self._objects.add(name)
        return entry

    def _check_ours(self) -> None:
        found = read(self._store)
        if found is not None and found.get("writer") != self._writer:
            raise Taken

    def _write(self, manifest: Mapping[str, Any]) -> None:
        content = {
            **manifest,
            "format": FORMAT,
            "writer": self._writer,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        text = json.dumps(checkpoint_files.sealed(content), sort_keys=True)
        self._store.write(MANIFEST, text.encode())


@contextmanager
def kept(settings: Config, folder: Path, say: Callable[[str], None]) -> Iterator[Mirror | None]:
    """Fetch what the mirror of a run has beyond its folder, and keep it up to the folder inside the block.

    None where the run has no mirror, or another process has it.

    Raises:
        UserError: the mirror cannot be read, or has a run of another configuration.
    """
    if not settings.train.mirror:
        yield None
        return
    store = opened(settings.train.mirror)
    distributed.told(f"{folder} fetched", lambda: fetch(store, folder, settings, say))
    if not distributed.is_writer():
        yield None
        return
    mirror, is_done = Mirror(store, folder, say), False
    try:
        yield mirror
        is_done = True
    finally:
        mirror.close(is_done=is_done)


def below(settings: Config, name: str) -> Config:
    """Return the settings of a run inside of another's folder, or beside others: its mirror is its own."""
    url = settings.train.mirror
    return replace(settings, train=replace(settings.train, mirror=url and f"{url.rstrip('/')}/{name}"))


def read(store: Store) -> dict[str, Any] | None:
    """Return the manifest of a store, None where there is none.

    Raises:
        Unreachable: that cannot be told, or it is damaged.
    """
    content = store.read(MANIFEST)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"its {MANIFEST} is no JSON") from error
    if not isinstance(found, dict) or checkpoint_files.sealed(found)["seal"] != found.get("seal"):
        raise Unreachable(f"its {MANIFEST} does not match its own digest")
    return found


def fetch(store: Store, folder: Path, settings: Config | None, say: Callable[[str], None]) -> bool:
    """Bring a run folder up to what a store has of it, where that is further; return whether it was.

    `settings` are those of the run that is to go on, None where the folder is only to be had.

    Raises:
        UserError: the store cannot be read, or has a run of another configuration.
    """
    try:
        manifest = read(store)
        if manifest is None or not manifest["files"]:
            return False
        if settings is not None:
            _check_same(store, manifest, settings)
            if not _is_behind(folder, manifest, settings):
                return False
        _fetch(store, folder, manifest, say)
    except Unreachable as error:
        raise UserError(
            f"train.mirror: {shown(store.url)} cannot be read ({error.reason}); nothing is begun anew "
            f"unasked: mend that, or train without it"
        ) from error
    newest = max(map(int, manifest["checkpoints"]), default=0)
    say(f"run folder {str(folder)!r} fetched from {shown(store.url)}, up to step {newest}")
    return True


def run_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a run folder that its copy has, beside the checkpoints."""
    for root, folders, names in os.walk(folder):
        path = Path(root)
        is_top = path == folder
        folders[:] = sorted(
            each
            for each in folders
            if not (is_top and (each == CHECKPOINTS_NAME or each.startswith(checkpoint_files.DAMAGED)))
            and not (path / each / OWN_RUN).exists()
            and not files.is_part(each)
        )
        for name in sorted(names):
            each = path / name
            if name != owner.NAME and not files.is_part(name) and each.is_file() and not each.is_symlink():
                yield each


def _objects(manifest: Mapping[str, Any]) -> Iterator[str]:
    for entries in (manifest["files"], *manifest["checkpoints"].values()):
        yield from (f"{OBJECTS}/{entry['sha256']}" for entry in entries.values())


def _check_same(store: Store, manifest: Mapping[str, Any], settings: Config) -> None:
    sha256 = manifest["files"].get(config.NAME, {}).get("sha256", "")
    content = store.read(f"{OBJECTS}/{sha256}") or b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Unreachable(f"its {config.NAME} is damaged or gone")
    changed = config.conflicts(settings, json.loads(content))
    if changed:
        raise UserError(
            f"train.mirror: {shown(store.url)} belongs to another configuration ({'; '.join(changed[:4])}); "
            f"give another, or repeat the command it was made with"
        )


def _is_behind(folder: Path, manifest: Mapping[str, Any], settings: Config) -> bool:
    """Return whether the folder is of the same run, or empty, and has come less far."""
    if not (folder / config.NAME).exists():
        return not folder.exists() or (folder.is_dir() and owner.is_free(folder))
    if config.has_begun(folder) and config.conflicts(settings, config.saved(folder)):
        return False
    ours = max(checkpoint_files.steps(folder / CHECKPOINTS_NAME), default=-1)
    theirs = max(map(int, manifest["checkpoints"]), default=-1)
    is_finished = WEIGHTS_NAME in manifest["files"] and not (folder / WEIGHTS_NAME).exists()
    return theirs > ours or (theirs == ours and is_finished)


def _fetch(store: Store, folder: Path, manifest: Mapping[str, Any], say: Callable[[str], None]) -> None:
    for name, entry in manifest["files"].items():
        try:
            _download(store, entry, _inside(folder, name))
        except Unreachable as error:
            if name == config.NAME:
                raise
            say(f"train.mirror: {name} is left out: {error.reason}")
    kept, faults = 0, []
    # The newest last: until it is there the folder is behind, and a repeat fetches it.
    for step in sorted(manifest["checkpoints"], key=int):
        try:
            kept += _fetch_checkpoint(store, manifest["checkpoints"][step], folder / CHECKPOINTS_NAME / step)
        except Unreachable as error:
            faults.append(error)
            say(f"train.mirror: checkpoint {step} is left out: {error.reason}")
    if faults and not kept:
        raise faults[-1]


def _fetch_checkpoint(store: Store, entries: Mapping[str, Any], target: Path) -> bool:
    if target.exists():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(target) as part:
        part.unlink()
        for name, entry in entries.items():
            _download(store, entry, _inside(part, name))
    return True


def _download(store: Store, entry: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path) as part:
        store.download(f"{OBJECTS}/{entry['sha256']}", part, entry["sha256"])


def _inside(folder: Path, name: str) -> Path:
    """Return a path in a folder; a manifest is not to lead elsewhere."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise Unreachable(f"its {MANIFEST} names {name!r}")
    return path
