"""Objects under a URL (s3://, gs://, file://, or a plain path), put and fetched with patience.

fsspec reaches the stores; the packages of most are extras. What may pass (a connection, a server that is
busy) is tried again; what will not (no bucket, no permission, no credentials) is one line at once.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jtl.errors import UserError, shortened, shown

Value = TypeVar("Value")

# How long to wait before each repetition.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
CHUNK_BYTES = 2**22
# What a protocol's file system is opened with, where that is not its default.
OPTIONS: dict[str, dict[str, Any]] = {"file": {"auto_mkdir": True}, "local": {"auto_mkdir": True}}
FINAL_CODES = (401, 403, 404)
# Libraries of the stores have classes of their own for credentials that are not there.
FINAL_WORDS = ("Credential", "Forbidden", "RefreshError", "TokenRetrieval", "ParamValidation")


class Unreachable(Exception):
    """A store could not do what it was asked, also not when asked again; `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Store(NamedTuple):
    """A folder of an object store: its URL, fsspec's file system, and the path of the folder there."""

    url: str
    system: Any
    root: str
    sleep: Callable[[float], None] = time.sleep

    def write(self, name: str, content: bytes) -> None:
        """Put an object, which a reader finds whole or not at all.

        Raises:
            Unreachable: it cannot be.
        """
        path = f"{self.root}/{name}"

        def put() -> None:
            if self._is_local():
                # A file that is written is there before it is whole.
                self.system.pipe_file(f"{path}.part", content)
                self.system.mv(f"{path}.part", path)
            else:
                self.system.pipe_file(path, content)

        self._patiently(put)

    def upload(self, name: str, path: Path, sha256: str) -> None:
        """Put a file as an object, and read it back: it has to have this sha256.

        Raises:
            FileNotFoundError: the file is gone.
            Unreachable: it cannot be put, or what is read back is something else.
        """

        def put() -> None:
            path.stat()
            self.system.put_file(str(path), f"{self.root}/{name}")
            self._check(name, sha256)

        self._patiently(put, gone=path)

    def put(self, name: str, content: bytes, sha256: str) -> None:
        """Put bytes as an object, and read it back.

        Raises:
            Unreachable: it cannot be put, or what is read back is something else.
        """

        def put() -> None:
            self.write(name, content)
            self._check(name, sha256)

        self._patiently(put)

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes, None where there is none.

        Raises:
            Unreachable: that cannot be told.
        """

        def get() -> bytes | None:
            try:
                return self.system.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None

        return self._patiently(get)

    def download(self, name: str, path: Path, sha256: str) -> None:
        """Write an object to a file; it has to have this sha256.

        Raises:
            Unreachable: it cannot be had, or is something else.
        """

        def get() -> None:
            self.system.get_file(f"{self.root}/{name}", str(path))
            found = digest_of(path.open("rb"))
            if found != sha256:
                raise OSError(f"object {name} has sha256 {found[:12]}…; expected {sha256[:12]}…")

        self._patiently(get)

    def listed(self, folder: str) -> set[str]:
        """Return the names of the objects in a folder.

        Raises:
            Unreachable: that cannot be told.
        """

        def names() -> set[str]:
            try:
                found = self.system.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return set()
            return {f"{folder}/{path.rstrip('/').rsplit('/', 1)[-1]}" for path in found}

        return self._patiently(names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; what is gone already is no fault.

        Raises:
            Unreachable: one cannot be removed.
        """

        def drop(name: str) -> None:
            try:
                self.system.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

        for name in names:
            self._patiently(lambda name=name: drop(name))

    def _check(self, name: str, sha256: str) -> None:
        found = digest_of(self.system.open(f"{self.root}/{name}", "rb"))
        if found != sha256:
            raise OSError(f"object {name} reads back with sha256 {found[:12]}…; expected {sha256[:12]}…")

    def _is_local(self) -> bool:
        return "file" in (
            (self.system.protocol,) if isinstance(self.system.protocol, str) else self.system.protocol
        )

    def _patiently(self, act: Callable[[], Value], gone: Path | None = None) -> Value:
        for wait in (*WAITS, None):
            try:
                return act()
            except Exception as error:  # each store's library raises its own
                if gone is not None and not gone.exists():
                    raise FileNotFoundError(str(gone)) from error
                if isinstance(error, Unreachable):
                    raise
                if wait is None or _is_final(error):
                    raise Unreachable(_words(error)) from error
                self.sleep(wait)
        raise AssertionError("the last repetition returns or raises")


def opened(url: str, *, sleep: Callable[[float], None] = time.sleep) -> Store:
    """Return the store of a URL; nothing is asked of it yet.

    Raises:
        UserError: there is no such kind of store, or its package is missing.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0] if "://" in url else "file"
    options = OPTIONS.get(protocol, {})
    try:
        # Another process may change what is there: nothing of it is remembered.
        system, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError as error:
        raise UserError(
            f"{shown(url)} needs a package that is missing ({shortened(str(error))}); install: pip install "
            f"'jtl[cloud]'"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{shown(url)} is no place for a mirror ({shortened(str(error))}); expected a URL such as "
            f"s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, or a folder"
        ) from error
    return Store(url, system, root.rstrip("/"), sleep)


def digest_of(stream: Any) -> str:
    """Return the sha256 of what a stream holds, and close it."""
    digest = hashlib.sha256()
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _is_final(error: Exception) -> bool:
    """Return whether an error stays the same however often one asks."""
    if isinstance(
        error, PermissionError | FileNotFoundError | NotADirectoryError | IsADirectoryError | ImportError
    ):
        return True
    names = (type(error).__name__, str(error))
    return getattr(error, "code", None) in FINAL_CODES or any(
        word in each for word in FINAL_WORDS for each in names
    )


def _words(error: Exception) -> str:
    text = shortened(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
