"""From a spec to a file on this machine: a path, embedded://, hf://, https:// or gs://."""

import importlib.resources
import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jtl.errors import UserError, nearest
from jtl.weights import catalogue
from jtl.weights.contract import Config
from jtl.weights.download import Cached, download, sha256_of
from jtl.weights.open import weights_path

GOOGLE_STORAGE = "https://storage.googleapis.com"
HUGGING_FACE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>[\w./-]+))?")
# What repositories call their weights, the safer format first.
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")


class Resolved(NamedTuple):
    """A file or run folder on this machine, and the sha256 of its weights."""

    path: Path
    sha256: str


def resolve(spec: str, settings: Config) -> Resolved:
    """Return where a spec's weights are on this machine, downloaded where they were not.

    `embedded://name` is shipped with jtl; `hf://org/name[/file][@revision]` goes through the hub's own client
    and cache (and its HF_ENDPOINT and HF_HUB_OFFLINE); `gs://bucket/path` reads public objects.

    Raises:
        UserError: they cannot be had, or are not the ones `settings.sha256` expects.
    """
    if spec in catalogue.entries() and not Path(spec).exists():
        spec = catalogue.entries()[spec].spec
    scheme, separator, rest = spec.partition("://")
    if not separator:
        scheme, rest = "", spec
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES if each)
        raise UserError(f"weights {spec!r}: unknown {scheme}://; expected a path or one of {known}")
    found = SCHEMES[scheme](rest, settings)
    if settings.sha256 and found.sha256 != settings.sha256.lower():
        raise UserError(
            f"weights {spec!r} have sha256 {found.sha256}; weights.sha256 expects {settings.sha256}"
        )
    return Resolved(found.path, found.sha256)


def _local(rest: str, settings: Config) -> Cached:
    path = Path(rest).expanduser()
    if not path.exists():
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        known = [*siblings, *catalogue.entries()]
        hint = f"; nearest there and in `jtl weights list`: {nearest(path.name, known)}"
        raise UserError(
            f"weights {rest!r} are not there{hint}; expected a file, a run folder, hf://…, https://…, gs://… "
            f"or none"
        )
    return Cached(path, sha256_of(weights_path(path)))


def _embedded(rest: str, settings: Config) -> Cached:
    """Weights that jtl ships: run folders under jtl/assets."""
    del settings
    assets = Path(str(importlib.resources.files("jtl") / "assets"))
    known = [each.name for each in assets.iterdir() if each.is_dir()]
    if rest not in known:
        raise UserError(
            f"weights 'embedded://{rest}' are not among those jtl ships; nearest: {nearest(rest, known)}"
        )
    return Cached(assets / rest, sha256_of(weights_path(assets / rest)))


def _https(rest: str, settings: Config) -> Cached:
    return download(f"https://{rest}", _cache_dir(settings), settings.sha256)


def _http(rest: str, settings: Config) -> Cached:
    return download(f"http://{rest}", _cache_dir(settings), settings.sha256)


def _google_storage(rest: str, settings: Config) -> Cached:
    base = os.environ.get("STORAGE_EMULATOR_HOST", GOOGLE_STORAGE)
    return download(f"{base}/{urllib.parse.quote(rest)}", _cache_dir(settings), settings.sha256)


def _hugging_face(rest: str, settings: Config) -> Cached:
    # Imported here: it costs a third of a second, which `jtl --help` has not got.
    from huggingface_hub import constants, errors, hf_hub_download

    match = HUGGING_FACE.fullmatch(rest)
    if match is None:
        raise UserError(f"weights 'hf://{rest}': expected hf://org/name, hf://org/name/file or …@revision")
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    repo, revision = match["repo"], match["revision"] or "main"
    files = (match["file"],) if match["file"] else HUGGING_FACE_FILES
    cache = Path(settings.cache_dir).expanduser() / "hub" if settings.cache_dir else None
    for file in files:
        try:
            path = hf_hub_download(repo, file, revision=revision, cache_dir=cache, endpoint=endpoint)
            return Cached(Path(path), sha256_of(Path(path)))
        except errors.LocalEntryNotFoundError as error:
            raise UserError(
                f"weights 'hf://{rest}' are not in the hub's cache, and the hub cannot be reached; download "
                f"{endpoint}/{repo}/resolve/{revision}/{file} where there is network and give its path"
            ) from error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError as error:
            raise UserError(
                f"weights 'hf://{rest}': {repo} is gated; accept its terms and log in (hf auth login)"
            ) from error
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            line = str(error).strip().partition("\n")[0]
            raise UserError(f"weights 'hf://{rest}' cannot be had from {endpoint}: {line}") from error
    raise UserError(
        f"{repo} at {revision!r} has no {' and no '.join(files)}; name its file: hf://{repo}/FILE"
    )


def _cache_dir(settings: Config) -> Path:
    folder = settings.cache_dir or os.environ.get("JTL_CACHE") or "~/.cache/jtl"
    return Path(folder).expanduser()


SCHEMES: dict[str, Callable[[str, Config], Cached]] = {
    "": _local,
    "embedded": _embedded,
    "hf": _hugging_face,
    "https": _https,
    "http": _http,
    "gs": _google_storage,
}
