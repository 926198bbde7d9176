"""Downloads into a cache: resumed where they were cut, complete or not there, verified at every use.

In the cache a file `NAME` lies beside `NAME.sha256`; an unfinished one is `NAME.part`, beside
`NAME.part.tag`, the server's mark of the version it belongs to.
"""

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from jtl import __version__
from jtl.errors import UserError

CHUNK_BYTES = 1 << 20
MAX_ATTEMPTS = 3
TIMEOUT_SECONDS = 60
MAX_NAME_CHARS = 100
MAX_REMEMBERED = 4096
TOO_LONG, LOCKED = 416, (401, 403)


class Cached(NamedTuple):
    """A file on this machine and the sha256 of its bytes."""

    path: Path
    sha256: str


class _Cut(Exception):
    """The connection ended before the file did; another attempt resumes."""


def download(url: str, folder: Path, expected_sha256: str = "") -> Cached:
    """Return the cached file of a URL, downloading it first where it is not there.

    Raises:
        UserError: it cannot be had, or is not the one expected, or the cached file is damaged.
    """
    path = cache_path(url, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            _fetch(url, path)
            found = sha256_of(_part(path))
            if expected_sha256 and found != expected_sha256.lower():
                _forget(path)
                raise UserError(
                    f"{url} has sha256 {found}; weights.sha256 expects {expected_sha256}; nothing was kept"
                )
            _checksum(path).write_text(found + "\n", encoding="utf-8")
            _part(path).replace(path)
            _tag(path).unlink(missing_ok=True)
        return Cached(path, _verified(path, url))


def cache_path(url: str, folder: Path) -> Path:
    """Return where the file of a URL lies in the cache: its own name behind a digest of the whole URL."""
    name = "".join(
        each if each.isalnum() or each in "._-" else "_" for each in url.partition("?")[0].rpartition("/")[2]
    )
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name[-MAX_NAME_CHARS:]}"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, read once while the file stays as it is."""
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


# One command resolves its weights up to four times, and gigabytes take seconds each; the file's marks are
# part of the key, so that one that changed is read again.
@lru_cache(MAX_REMEMBERED)
def _sha256_of(path: Path, *marks: int) -> str:
    del marks
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verified(path: Path, url: str) -> str:
    """Return a cached file's sha256, which must be the recorded one; a file put there by hand has none."""
    found = sha256_of(path)
    if not _checksum(path).exists():
        _checksum(path).write_text(found + "\n", encoding="utf-8")
    expected = _checksum(path).read_text(encoding="utf-8").strip()
    if found != expected:
        raise UserError(
            f"cached file {str(path)!r} of {url} is damaged (sha256 {found}, was {expected}); delete it and "
            f"repeat"
        )
    return found


def _fetch(url: str, path: Path) -> None:
    """Download into the `.part` file, resuming what is there."""
    faults = []
    for _ in range(MAX_ATTEMPTS):
        try:
            return _attempt(url, path)
        except urllib.error.HTTPError as error:
            error.close()
            _raise_refused(url, path, error)
            faults.append(str(error))
        except (_Cut, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            faults.append(str(error) or type(error).__name__)
        except urllib.error.URLError as error:
            raise UserError(
                f"{url} cannot be reached ({error.reason}); without network put the file at {str(path)!r}, "
                f"or give the path of a local file"
            ) from error
    raise UserError(
        f"download of {url} failed {MAX_ATTEMPTS} times ({faults[-1]}); repeat the command to go on with it"
    )


def _attempt(url: str, path: Path) -> None:
    part, tag = _part(path), _tag(path)
    # Without a mark of its version, what is there may be of another file.
    offset = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"User-Agent": f"jtl/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": tag.read_text(encoding="utf-8")}
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
    ) as response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(
                f"{url} is a web page, not a file of weights; give the address of the file itself"
            )
        is_resumed = response.status == http.client.PARTIAL_CONTENT
        start = offset if is_resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        _remember(tag, response.headers)
        sys.stderr.write(f"downloading {url} ({total or '?'} bytes, from {start}) to {path}\n")
        with part.open("ab" if is_resumed else "wb") as stream:
            while chunk := response.read(CHUNK_BYTES):
                stream.write(chunk)
    found = part.stat().st_size
    if total is not None and found != total:
        raise _Cut(f"cut at {found} of {total} bytes")


def _remember(tag: Path, headers: http.client.HTTPMessage) -> None:
    """Keep the server's mark of this version of the file; a weak one cannot be resumed from."""
    mark = headers.get("ETag", "")
    mark = headers.get("Last-Modified", "") if mark.startswith("W/") or not mark else mark
    if mark:
        tag.write_text(mark, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


def _raise_refused(url: str, path: Path, error: urllib.error.HTTPError) -> None:
    """Raise UserError for an answer that another attempt would not change."""
    if error.code == TOO_LONG:
        _forget(path)
    elif error.code in LOCKED:
        raise UserError(
            f"{url} asks for a login (HTTP {error.code}); download it yourself and give its path"
        ) from error
    elif error.code < http.client.INTERNAL_SERVER_ERROR:
        raise UserError(
            f"{url} is not there (HTTP {error.code} {error.reason}); check the address"
        ) from error


def _forget(path: Path) -> None:
    for each in (_part(path), _tag(path)):
        each.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _tag(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.tag")


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
