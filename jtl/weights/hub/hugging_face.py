"""From hf://org/name to a folder on this machine, through the hub's own client and cache.

Of a repository the weights are fetched and what describes them (`beside`), all of one commit; nothing else.
"""

import http.client
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from jtl.errors import UserError
from jtl.files import expanded
from jtl.weights.contract import Config
from jtl.weights.formats import sharded
from jtl.weights.hub import beside
from jtl.weights.hub.download import BUSY, Cached, clearing, cure, retry_after, sha256_of
from jtl.weights.open import NAMES, joined_digest

SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>[\w./-]+))?")
# The hub's mark of a large file is its sha256, and the cache calls its copy by it.
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_REMEMBERED = 64
LOCKED = (http.client.UNAUTHORIZED, http.client.FORBIDDEN)

Fetch = Callable[[str, str], Path]


def resolve(rest: str, settings: Config) -> Cached:
    """Return the folder of a repository's snapshot, or the one file that the spec names.

    Raises:
        UserError: it cannot be had, is damaged, or is not there.
    """
    asked = (rest, _cache_dir(settings), *_surroundings())
    found = _found(*asked)
    if not all(each.is_file() for each in found.files):
        _found.cache_clear()
        found = _found(*asked)
    digests = tuple(map(_verified, found.files))
    return Cached(found.path, joined_digest(digests) if found.is_sharded else digests[0])


class _Found(NamedTuple):
    """What a spec led to: the folder or file to open, and the files of its weights."""

    path: Path
    files: tuple[Path, ...]
    is_sharded: bool


# One command resolves its weights up to four times: asking once keeps it to one commit of the branch, and
# waits once for a hub that is away. A process that lives on keeps that commit; what fails is not remembered.
@lru_cache(MAX_REMEMBERED)
def _found(rest: str, cache: Path, endpoint: str, is_offline: bool) -> _Found:
    """Return where a spec's files are, asking the hub of `endpoint` unless `is_offline`."""
    match = SPEC.fullmatch(rest)
    if match is None:
        raise UserError(f"weights 'hf://{rest}': expected hf://org/name, hf://org/name/file or …@revision")
    revision, named = match["revision"] or "main", match["file"]
    repo = match["repo"]
    fetch = _fetch(rest, repo, cache, endpoint)
    names = (named,) if named else NAMES
    missing: list[UserError] = []
    for name in names:
        try:
            # A hub that is away is waited for once.
            path = fetch(revision, name) if not missing else _cached(repo, revision, name, cache)
        except _NotThere:
            continue
        except _NotCached as error:
            missing.append(error.fault)
            continue
        folder = Path(*path.parts[: len(path.parts) - len(Path(name).parts)])
        # All of the same commit, whatever the branch has become meanwhile.
        of_commit = partial(fetch, folder.name)
        with clearing(path):
            files = _shards(path, name, of_commit)
        if not named and not missing:
            with clearing(folder):
                for wanted in beside.wanted(folder):
                    unsettled = [each for each in wanted if not _is_settled(repo, folder.name, each, cache)]
                    _fetch_beside(unsettled, of_commit)
        return _Found(path if named else folder, files or (path,), bool(files))
    if missing:
        raise missing[0]
    raise UserError(
        f"{repo} at {revision!r} has no {' and no '.join(names)}; name its file: hf://{repo}/FILE"
    )


class _NotThere(Exception):
    """The repository has no such file."""


class _NotCached(Exception):
    """The hub was not reached, and the file is not in the cache; `fault` is what to tell."""

    def __init__(self, fault: UserError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Asked(NamedTuple):
    """What the hub was asked for: the spec for people, and the parts of the file's address."""

    what: str
    endpoint: str
    repo: str
    revision: str
    name: str


def _surroundings() -> tuple[str, bool]:
    """Return the hub's address and whether the client may not ask it."""
    # Imported here: it costs a third of a second, which `jtl --help` has not got.
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, constants.HF_HUB_OFFLINE


def _fetch(rest: str, repo: str, cache: Path, endpoint: str) -> Fetch:
    """Return the function that gives the cached path of a revision's file."""
    from huggingface_hub import errors, hf_hub_download

    def fetch(revision: str, name: str) -> Path:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, cache_dir=cache, endpoint=endpoint))
        except (errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
            raise _fault(error, _Asked(f"weights 'hf://{rest}'", endpoint, repo, revision, name)) from error

    return fetch


def _fault(error: Exception, asked: _Asked) -> Exception:
    """Return what an error of the hub's client means."""
    from huggingface_hub import errors

    what, endpoint, repo, revision, name = asked
    status = _status_of(error)
    is_local = isinstance(error, errors.LocalEntryNotFoundError)
    if status == http.client.NOT_FOUND if is_local else isinstance(error, errors.EntryNotFoundError):
        return _NotThere()
    if is_local and not status:
        return _NotCached(
            UserError(
                f"{what} are not in the hub's cache, and the hub cannot be reached; download "
                f"{endpoint}/{repo}/resolve/{revision}/{name} where there is network and give its path"
            )
        )
    meanings = {
        errors.GatedRepoError: f"{repo} is gated; accept its terms and log in (hf auth login)",
        errors.RevisionNotFoundError: f"{repo} has no revision {revision!r}; give a branch, tag or commit",
        errors.RepositoryNotFoundError: f"{endpoint} has no repository {repo}, or none that is public; check "
        f"its name, or log in (hf auth login)",
    }
    for kind, text in meanings.items():
        if isinstance(error, kind):
            return UserError(f"{what}: {text}")
    if status in LOCKED:
        return UserError(
            f"{what}: {endpoint} asks for a login for {name}, or gives it to nobody; log in (hf auth login), "
            f"or download it yourself and give its path"
        )
    if status in BUSY:
        answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        wait = retry_after(getattr(answer, "headers", {}))
        return UserError(
            f"{what}: {endpoint} is busy (HTTP {status} for {name}{wait}); repeat the command later"
        )
    line = str(error).strip().partition("\n")[0]
    answer = f"{endpoint} answers HTTP {status} for {name}" if status else f"{endpoint}: {line}"
    return UserError(f"{what} cannot be had: {answer}; check the address, or repeat the command later")


def _status_of(error: BaseException) -> int:
    """Return the status of the hub's answer that is an error or led to it; 0 where there was none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return 0 if response is None else response.status_code


def _is_settled(repo: str, commit: str, name: str, cache: Path) -> bool:
    """Return whether the cache has a commit's file, or the hub's word that the commit has none; both stay."""
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(repo, name, cache_dir=cache, revision=commit) is not None


def _cached(repo: str, revision: str, name: str, cache: Path) -> Path:
    """Return the path of a file in the cache; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, cache_dir=cache, revision=revision)
    if not isinstance(found, str):
        raise _NotThere
    return Path(found)


def is_cached(spec: str) -> bool:
    """Return whether the hub's cache has a file of weights of `hf://org/name`; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    scheme, _, repo = spec.partition("://")
    if scheme != "hf" or repo.count("/") != 1:
        return False
    names = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
    cache = _cache_dir(Config())
    return any(isinstance(try_to_load_from_cache(repo, name, cache_dir=cache), str) for name in names)


def _cache_dir(settings: Config) -> Path:
    """Return the folder of the client's cache: its own where the settings name none."""
    from huggingface_hub import constants

    if settings.cache_dir:
        return Path(expanded(settings.cache_dir)) / "hub"
    # The client leaves a `~` that nothing names as it is, and ends in a RuntimeError when it comes to use it.
    return Path(expanded(constants.HF_HUB_CACHE))


def _shards(path: Path, name: str, fetch: Callable[[str], Path]) -> tuple[Path, ...]:
    """Return the files that an index names, fetched into its folder; () where it is no index."""
    if not name.endswith(sharded.INDEX_SUFFIX):
        return ()
    folder = name.rpartition("/")[0]
    for shard in sorted(set(sharded.weight_map(path).values())):
        try:
            fetch(f"{folder}/{shard}" if folder else shard)
        except _NotThere as error:
            raise UserError(
                f"index {name!r} of the repository names {shard!r}, which is not in it; tell its owner"
            ) from error
        except _NotCached as error:
            raise error.fault from error
    return sharded.shards(path)


def _fetch_beside(names: Iterable[str], fetch: Callable[[str], Path]) -> None:
    """Fetch what describes the weights; a repository need not have it.

    Where the hub is away, what the cache has of it is in the snapshot's folder already.
    """
    for name in names:
        try:
            fetch(name)
        except _NotThere:
            continue
        except _NotCached:
            return


def _verified(path: Path) -> str:
    """Return a file's sha256, which must be the one the hub gave where it gave one.

    Raises:
        UserError: the file is damaged.
    """
    found, expected = sha256_of(path), path.resolve().name
    if SHA256.fullmatch(expected) and found != expected:
        raise UserError(
            f"cached file {str(path.resolve())!r} is damaged (sha256 {found}, the hub says {expected}); "
            f"{cure(path)}"
        )
    return found
