"""From a spec to a file on this machine: a path, embedded://, hf://, https:// or gs://."""

import importlib.resources
import os
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jtl.errors import UserError, nearest
from jtl.files import cache_folder, expanded
from jtl.inputs.tokenizer import NAME as TOKENIZER_NAME
from jtl.weights.contract import NO_WEIGHTS, Config, TensorFile
from jtl.weights.hub import catalogue, hugging_face
from jtl.weights.hub.download import Cached, cure, download
from jtl.weights.open import digest, open_path

GOOGLE_STORAGE = "https://storage.googleapis.com"


class Resolved(NamedTuple):
    """A file or run folder on this machine, and the sha256 of its weights.

    `cure` is what to do if it turns out damaged: how to clear it, where it is a download.
    """

    path: Path
    sha256: str
    cure: str = ""


def opened(spec: str, settings: Config) -> tuple[Resolved, TensorFile]:
    """Return where a spec's weights are on this machine, and the open file.

    Raises:
        UserError: they cannot be had or read; of a download that cannot be read it says what to delete.
    """
    found = resolve(spec, settings)
    return found, open_path(found.path, settings, found.cure)


def resolve(spec: str, settings: Config) -> Resolved:
    """Return where a spec's weights are on this machine, downloaded where they were not.

    `embedded://name` is shipped with jtl; `hf://org/name[/file][@revision]` goes through the hub's own client
    and cache (and its HF_ENDPOINT and HF_HUB_OFFLINE); `gs://bucket/path` reads public objects.

    Raises:
        UserError: they cannot be had, are none at all, or are not the ones `settings.sha256` expects.
    """
    if spec == NO_WEIGHTS:
        raise UserError(
            f"weights {spec!r} are random values: there is nothing to read or to look at; expected a file, a "
            f"run folder, hf://…, https://…, gs://… or a name of `jtl weights list`"
        )
    if not spec.strip():
        raise UserError(
            f"weights are the empty text {spec!r}; expected a file, a run folder ('.' for this one), hf://…, "
            f"https://…, gs://… or {NO_WEIGHTS}"
        )
    spec = catalogue.spec_of(spec)
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
    return Resolved(found.path, found.sha256, cure(found.path) if scheme in DOWNLOADED else "")


def tokenizer(spec: str, settings: Config) -> Path:
    """Return the path of a tokenizer's file that an address or hf://org/name[/file][@revision] leads to.

    Of a repository it is its tokenizer.json alone.

    Raises:
        UserError: it cannot be had.
    """
    scheme, _, rest = spec.partition("://")
    path, at, revision = rest.partition("@")
    if scheme == "hf" and path.strip("/").count("/") == 1:
        spec = f"hf://{path.strip('/')}/{TOKENIZER_NAME}{at}{revision}"
    return resolve(spec, replace(settings, sha256="")).path


def _local(rest: str, settings: Config) -> Cached:
    path = Path(expanded(rest))
    if not path.exists():
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        known = [*siblings, *catalogue.entries()]
        hint = f"; nearest there and in `jtl weights list`: {nearest(path.name, known)}"
        raise UserError(
            f"weights {rest!r} are not there{hint}; expected a file, a run folder, hf://…, https://…, gs://… "
            f"or none"
        )
    return Cached(path, digest(path))


def _embedded(rest: str, settings: Config) -> Cached:
    """Weights that jtl ships: run folders under jtl/assets."""
    del settings
    assets = Path(str(importlib.resources.files("jtl") / "assets"))
    known = [each.name for each in assets.iterdir() if each.is_dir()]
    if rest not in known:
        raise UserError(
            f"weights 'embedded://{rest}' are not among those jtl ships; nearest: {nearest(rest, known)}"
        )
    return Cached(assets / rest, digest(assets / rest))


def _https(rest: str, settings: Config) -> Cached:
    return download(f"https://{rest}", _cache_dir(settings), settings.sha256)


def _http(rest: str, settings: Config) -> Cached:
    return download(f"http://{rest}", _cache_dir(settings), settings.sha256)


def _google_storage(rest: str, settings: Config) -> Cached:
    base = os.environ.get("STORAGE_EMULATOR_HOST", GOOGLE_STORAGE)
    return download(f"{base}/{urllib.parse.quote(rest)}", _cache_dir(settings), settings.sha256)


def _cache_dir(settings: Config) -> Path:
    return Path(expanded(settings.cache_dir)) if settings.cache_dir else cache_folder()


DOWNLOADED = ("hf", "https", "http", "gs")
SCHEMES: dict[str, Callable[[str, Config], Cached]] = {
    "": _local,
    "embedded": _embedded,
    "hf": hugging_face.resolve,
    "https": _https,
    "http": _http,
    "gs": _google_storage,
}
