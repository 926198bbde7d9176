"""Paths as a table writes them → files as they are called on this disk."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from jtl.data.classes import few
from jtl.names import plain_name


class Found(NamedTuple):
    """Paths relative to the root, in order; the rows that name no file; what there is to say of others."""

    paths: tuple[str, ...]
    missing: list[int]
    notes: list[str]


def find(root: str, paths: Sequence[str]) -> Found:
    """Return the files that paths name below a root.

    A path that is no file as it stands may name one in another Unicode form (composed or not, as systems
    differ), with blanks around it, or with the backslashes of Windows.
    """
    listings: dict[str, dict[str, str]] = {}
    found: list[str] = []
    missing: list[int] = []
    others: list[str] = []
    for row, path in enumerate(paths):
        if os.path.isfile(os.path.join(root, path)):
            found.append(path)
            continue
        real = _real(root, path, listings)
        found.append(real or path)
        if real:
            others.append(path)
        else:
            missing.append(row)
    notes = [f"{len(others):,} paths name files in another form of writing: {few(others)}"] if others else []
    return Found(tuple(found), missing, notes)


def is_there(root: str, path: str) -> bool:
    """Return whether a path names a file below a root, in any form of writing."""
    return not find(root, [path]).missing


def _real(root: str, path: str, listings: dict[str, dict[str, str]]) -> str:
    """Return how the file that is meant is called, "" where there is none."""
    for written in dict.fromkeys((path.strip(), path.strip().replace("\\", "/"))):
        parts = [part for part in written.split("/") if part not in ("", ".")]
        real = "/" if written.startswith("/") else ""
        for part in parts:
            folder = os.path.join(root, real)
            if not os.path.exists(os.path.join(folder, part)):
                part = _listed(folder, listings).get(plain_name(part), "")
            real = os.path.join(real, part)
            if not part:
                break
        if parts and not real.endswith("/") and os.path.isfile(os.path.join(root, real)):
            return real
    return ""


def _listed(folder: str, listings: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the real names in a folder by their compared form."""
    if folder not in listings:
        try:
            names = os.listdir(folder)
        except (OSError, ValueError):
            names = []
        listings[folder] = {plain_name(name): name for name in names}
    return listings[folder]
