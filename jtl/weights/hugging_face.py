"""From hf://org/name to a folder on this machine, through the hub's own client and cache.

Of a repository the weights are fetched and what describes them (`beside`), all of one commit; nothing else.
"""

import http.client
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jtl.errors import UserError
from jtl.weights import beside, sharded
from jtl.weights.contract import Config
from jtl.weights.download import Cached, sha256_of
from jtl.weights.open import NAMES, joined_digest

SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>[\w./-]+))?")
# The hub's mark of a large file is its sha256, and the cache calls its copy by it.
SHA256 = re.compile(r"[0-9a-f]{64}")

Fetch = Callable[[str, str], Path]


def resolve(rest: str, settings: Config) -> Cached:
    """Return the folder of a repository's snapshot, or the one file that the spec names.

    Raises:
        UserError: it cannot be had, is damaged, or is not there.
    """
    match = SPEC.fullmatch(rest)
    if match is None:
        raise UserError(f"weights 'hf://{rest}': expected hf://org/name, hf://org/name/file or …@revision")
    revision, named = match["revision"] or "main", match["file"]
    fetch = _fetch(rest, match["repo"], settings)
    names = (named,) if named else NAMES
    missing: list[UserError] = []
    for name in names:
        try:
            path = fetch(revision, name)
        except _NotThere:
            continue
        except _NotCached as error:
            missing.append(error.fault)
            continue
        folder = Path(*path.parts[: len(path.parts) - len(Path(name).parts)])
        # All of the same commit, whatever the branch has become meanwhile.
        of_commit = partial(fetch, folder.name)
        files = _shards(path, name, of_commit)
        if not named:
            _fetch_beside(of_commit)
        digest = joined_digest(tuple(map(_verified, files))) if files else _verified(path)
        return Cached(path if named else folder, digest)
    if missing:
        raise missing[0]
    raise UserError(
        f"{match['repo']} at {revision!r} has no {' and no '.join(names)}; name its file: "
        f"hf://{match['repo']}/FILE"
    )


class _NotThere(Exception):
    """The repository has no such file."""


class _NotCached(Exception):
    """The hub was not reached, and the file is not in the cache; `fault` is what to tell."""

    def __init__(self, fault: UserError) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _fetch(rest: str, repo: str, settings: Config) -> Fetch:
    """Return the function that gives the cached path of a revision's file."""
    # Imported here: it costs a third of a second, which `jtl --help` has not got.
    from huggingface_hub import constants, errors, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    cache = Path(settings.cache_dir).expanduser() / "hub" if settings.cache_dir else None
    what = f"weights 'hf://{rest}'"

    def fetch(revision: str, name: str) -> Path:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, cache_dir=cache, endpoint=endpoint))
        except errors.LocalEntryNotFoundError as error:
            status = _status_of(error)
            if status == http.client.NOT_FOUND:
                raise _NotThere from error
            if status:
                raise UserError(
                    f"{what} cannot be had: {endpoint} answers HTTP {status} for {name}; repeat the command "
                    f"later"
                ) from error
            address = f"{endpoint}/{repo}/resolve/{revision}/{name}"
            raise _NotCached(
                UserError(
                    f"{what} are not in the hub's cache, and the hub cannot be reached; download {address} "
                    f"where there is network and give its path"
                )
            ) from error
        except errors.EntryNotFoundError as error:
            raise _NotThere from error
        except errors.GatedRepoError as error:
            raise UserError(
                f"{what}: {repo} is gated; accept its terms and log in (hf auth login)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"{what}: {repo} has no revision {revision!r}; give a branch, tag or commit"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{what}: {endpoint} has no repository {repo}, or none that is public; check its name, or "
                f"log in (hf auth login)"
            ) from error
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            line = str(error).strip().partition("\n")[0]
            raise UserError(f"{what} cannot be had from {endpoint}: {line}") from error

    return fetch


def _status_of(error: BaseException) -> int:
    """Return the status of the hub's answer that led to an error; 0 where there was none."""
    return getattr(getattr(error.__cause__, "response", None), "status_code", 0)


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


def _fetch_beside(fetch: Callable[[str], Path]) -> None:
    """Fetch what describes the weights; a repository need not have it, nor a cache that others filled."""
    for name in beside.NAMES:
        try:
            fetch(name)
        except (_NotThere, _NotCached):
            continue


def _verified(path: Path) -> str:
    """Return a file's sha256, which must be the one the hub gave where it gave one.

    Raises:
        UserError: the file is damaged.
    """
    found, expected = sha256_of(path), path.resolve().name
    if SHA256.fullmatch(expected) and found != expected:
        raise UserError(
            f"cached file {str(path.resolve())!r} is damaged (sha256 {found}, the hub says {expected}); "
            f"delete it and repeat"
        )
    return found
