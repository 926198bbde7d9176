"""Downloads into a cache: resumed where they were cut, complete or not there, verified at every use.

In the cache a file `NAME` lies beside `NAME.sha256`; an unfinished one is `NAME.part`, beside
`NAME.part.tag`, the server's mark of the version it belongs to.
"""

import hashlib
import http.client
import json
import re
import shlex
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from jtl import __version__
from jtl.errors import UserError
from jtl.weights.formats.archive import one_line
from jtl.weights.formats.files import FIRST_BYTES, is_web_page, open_file

CHUNK_BYTES = 1 << 20
MAX_ATTEMPTS = 3
TIMEOUT_SECONDS = 30
# A download slower than so many bytes in so many seconds is given up.
SLOW_SECONDS, SLOW_BYTES = 60, 32_768
CLOCK = time.monotonic
MAX_NAME_CHARS = 100
MAX_REMEMBERED = 4096
TOO_LONG, LOCKED, BUSY, REDIRECTS = 416, (401, 403), (429, 503), range(300, 400)
RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?P<total>\d{1,18})")
# The length of what comes in chunks, whose end is marked.
CHUNKED = -1
SHOWN_CHARS = 100
# What may stand in an address as it is.
PLAIN = "%/:=&?~#+!$,;'@()*[]"


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


def cure(path: Path) -> str:
    """Return how to clear a copy that was downloaded, or what the hub's cache keeps of its repository.

    "" for any other file or folder.
    """
    repository = next((each for each in path.absolute().parents if _is_of_hub(each)), None)
    if repository is None and not _checksum(path).is_file():
        return ""
    kept = repository if repository is not None and path.is_dir() else path.resolve()
    return f"it is the copy of a download: `rm -r {shlex.quote(str(kept))}` clears it, to get it again"


@contextmanager
def clearing(path: Path) -> Iterator[None]:
    """Say behind an error about a file or folder how to clear it, where it was downloaded.

    Raises:
        UserError: the block did.
    """
    try:
        yield
    except UserError as error:
        how = cure(path)
        if not how or how in str(error):
            raise
        raise UserError(f"{error}; {how}") from error


def _is_of_hub(folder: Path) -> bool:
    return (folder / "snapshots").is_dir() and (folder / "blobs").is_dir()


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
            f"cached file {str(path)!r} of {url} is damaged (sha256 {found}, was {expected}); {cure(path)}"
        )
    return found


def _fetch(url: str, path: Path) -> None:
    """Download into the `.part` file, resuming what is there.

    Raises:
        UserError: the file cannot be had, or whether it is whole cannot be told.
    """
    faults = []
    for _ in range(MAX_ATTEMPTS):
        try:
            return _attempt(url, path)
        except urllib.error.HTTPError as error:
            error.close()
            _raise_refused(url, path, error)
            faults.append(str(error))
        except http.client.InvalidURL as error:
            raise UserError(f"{url} is no address ({error}); check it") from error
        except (_Cut, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            faults.append(str(error) or type(error).__name__)
        except urllib.error.URLError as error:
            raise UserError(
                f"{url} cannot be reached ({error.reason}); without network put the file at {str(path)!r}, "
                f"or give the path of a local file"
            ) from error
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{url} is no address ({error}); check it") from error
    raise UserError(
        f"download of {url} failed {MAX_ATTEMPTS} times ({faults[-1]}); repeat the command to go on with it"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects over http and https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = newurl.partition(":")[0]
        if scheme not in ("http", "https"):
            fp.close()
            raise UserError(
                f"{req.full_url} leads to {scheme}://, which is not followed; give another address"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _attempt(url: str, path: Path) -> None:
    part, tag = _part(path), _tag(path)
    # Without a mark of its version, what is there may be of another file.
    offset = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"User-Agent": f"jtl/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": tag.read_text(encoding="utf-8")}
    request = urllib.request.Request(urllib.parse.quote(url, safe=PLAIN), headers=headers)
    with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS) as response:
        answer = _answer(url, path, response, offset)
        _remember(tag, response.headers)
        size = "?" if answer.total in (None, CHUNKED) else answer.total
        sys.stderr.write(f"downloading {url} ({size} bytes, from {answer.start}) to {path}\n")
        with part.open("ab" if answer.start else "wb") as stream:
            _copy(url, response, stream)
    _check_whole(url, path, answer)


class _Answer(NamedTuple):
    """Which bytes of a file a server sends: from where on, and how many the file has (None: not said)."""

    start: int
    total: int | None


def _answer(url: str, path: Path, response: Any, offset: int) -> _Answer:
    """Return what an answer holds.

    Raises:
        UserError: it is no file, or says of itself what cannot be checked.
        _Cut: it is another part of the file than was asked for; the next attempt asks for all of it.
    """
    if response.headers.get_content_type() == "text/html":
        raise UserError(_web_page(url))
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UserError(
            f"{url} comes compressed (Content-Encoding {encoding[:SHOWN_CHARS]!r}), which was not asked for; "
            f"download it yourself and give its path"
        )
    length = response.headers.get("Content-Length")
    if length is not None and not (length.isascii() and length.isdecimal()):
        raise UserError(
            f"{url} has Content-Length {length[:SHOWN_CHARS]!r}, which is no number of bytes; download it "
            f"yourself and give its path"
        )
    if response.status == http.client.OK:
        is_chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        return _Answer(0, CHUNKED if is_chunked else None if length is None else int(length))
    found = RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == http.client.PARTIAL_CONTENT:
        if found is not None and offset and int(found["start"]) == offset:
            return _Answer(offset, int(found["total"]))
        _forget(path)
        raise _Cut(f"bytes {response.headers.get('Content-Range')!r} came; asked for those from {offset}")
    raise UserError(
        f"{url} answers HTTP {response.status} {response.reason}, which is no file; check the address"
    )


def _copy(url: str, response: Any, stream: Any) -> None:
    """Write what comes; not for ever where it comes drop by drop.

    Raises:
        UserError: it is too slow.
    """
    began, count = CLOCK(), 0
    while chunk := response.read1(CHUNK_BYTES):
        stream.write(chunk)
        count += len(chunk)
        passed = CLOCK() - began
        if passed > SLOW_SECONDS:
            if count < SLOW_BYTES:
                raise UserError(
                    f"{url} comes too slowly ({count} bytes in {passed:.0f} s); repeat the command to go on "
                    f"with it, or download it another way and give its path"
                )
            began, count = CLOCK(), 0


def _check_whole(url: str, path: Path, answer: _Answer) -> None:
    """Check that what came is the whole file, as far as that can be told.

    Raises:
        _Cut: it is not.
        UserError: it is nothing, a web page, or nothing says how long it should be and it looks cut.
    """
    part = _part(path)
    found = part.stat().st_size
    with part.open("rb") as stream:
        start = stream.read(FIRST_BYTES)
    if answer.total not in (None, CHUNKED) and found != answer.total:
        raise _Cut(f"cut at {found} of {answer.total} bytes")
    fault = f"{url} is empty; check the address" if not found else ""
    if is_web_page(start):
        fault = _web_page(url)
    elif found and answer.total is None and (reason := _unreadable(part, path.suffix)):
        fault = (
            f"{url} came without a length, and is cut or no file of weights ({reason}); nothing was kept: "
            f"download it yourself and give its path"
        )
    if fault:
        _forget(path)
        raise UserError(fault)


def _unreadable(part: Path, suffix: str) -> str:
    """Return why a file cannot be read as what it should be, "" where it can."""
    try:
        if suffix == ".json":
            json.loads(part.read_bytes())
        else:
            open_file(part)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def _web_page(url: str) -> str:
    return f"{url} is a web page, not a file of weights; give the address of the file itself"


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
    elif error.code in BUSY:
        raise UserError(
            f"{url} is busy (HTTP {error.code} {error.reason}{retry_after(error.headers)}); repeat the "
            f"command later"
        ) from error
    elif error.code in LOCKED:
        raise UserError(
            f"{url} asks for a login (HTTP {error.code}); download it yourself and give its path"
        ) from error
    elif error.code in REDIRECTS:
        raise UserError(
            f"{url} leads to no file ({one_line(error)[:SHOWN_CHARS]}); check the address"
        ) from error
    elif error.code < http.client.INTERNAL_SERVER_ERROR:
        raise UserError(
            f"{url} is not there (HTTP {error.code} {error.reason}); check the address"
        ) from error


def retry_after(headers: Any) -> str:
    """Return when a server says to come again, for people; "" where it does not."""
    wait = str(headers.get("Retry-After") or "")[:SHOWN_CHARS]
    return f", try again after {wait}{' s' if wait.isdecimal() else ''}" if wait else ""


def _forget(path: Path) -> None:
    for each in (_part(path), _tag(path)):
        each.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _tag(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.tag")


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
