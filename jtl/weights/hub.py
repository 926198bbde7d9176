"""From a spec to a file on this machine: a path, hf://, https:// or gs://."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from jtl.errors import UserError
from jtl.weights.contract import Config
from jtl.weights.open import weights_path

CHUNK_BYTES = 1 << 20


class Resolved(NamedTuple):
    """A file or run folder on this machine, and the sha256 of its weights."""

    path: Path
    sha256: str


def resolve(spec: str, settings: Config) -> Resolved:
    """Return where a spec's weights are on this machine.

    Raises:
        UserError: they are not there, or not the ones `settings.sha256` expects.
    """
    path = Path(spec).expanduser()
    if not path.exists():
        raise UserError(
            f"weights {spec!r} are not there; expected a file, a run folder, hf://…, https://… or gs://…"
        )
    found = sha256_of(weights_path(path))
    if settings.sha256 and found != settings.sha256.lower():
        raise UserError(f"weights {spec!r} have sha256 {found}; weights.sha256 expects {settings.sha256}")
    return Resolved(path, found)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
