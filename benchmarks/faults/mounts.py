"""Small disks, and a root without root's rights: what needs the machine's owner."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_root() -> bool:
    """Return whether this process may mount."""
    return os.geteuid() == 0


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of a size ("300k") in memory inside the `with` block."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextmanager
def remounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a disk with other options ("ro") inside the `with` block."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def resized(folder: Path, size: str) -> None:
    """Give a disk more room."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def as_bounded_root() -> list[str]:
    """Return the words that run a command as a root that permissions hold for, as they do for other users."""
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
