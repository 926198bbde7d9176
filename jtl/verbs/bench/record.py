"""What a measurement was made with: commit, versions, devices, cores; and the file that keeps it."""

import errno
import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError

if TYPE_CHECKING:
    import jtl.training.config

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "timm", "transformers")
# What of the environment changes how fast programs are.
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_MEM_FRACTION")
GIT_SECONDS = 10


def surroundings() -> dict[str, Any]:
    """Return what of machine and software a number depends on."""
    import jax

    from jtl import __version__
    from jtl.data.workers import num_cores

    device = jax.devices()[0]
    return {
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"jtl": __version__, "python": platform.python_version(), **_versions()},
        "device": f"{jax.device_count()} x {device.device_kind}",
        "device_kind": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "processor": _processor(),
        "cores": num_cores(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def commit() -> str:
    """Return the commit of the code that runs, with "+" where files differ from it ("": none is known)."""
    folder = Path(__file__).parent
    try:
        # A repository that merely contains the installed package knows no file of it.
        if not _git(folder, "ls-files", Path(__file__).name):
            return ""
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def check(path: str) -> None:
    """Make the folder of a record, before anything is measured for it.

    Raises:
        UserError: no file can be written there.
    """
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise UserError(f"--out {path!r} cannot be written ({error.strerror}); give another file") from error


def write(path: str, record: dict[str, Any]) -> None:
    """Write the record as JSON."""
    from jtl.report.summary import write_json

    write_json(Path(path), record)


def described(settings: "jtl.training.config.Config") -> dict[str, Any]:
    """Return what of a configuration a table shows."""
    return {
        "model": f"{settings.model.name} {settings.model.size}",
        "strategy": settings.strategy.name,
        "task": settings.task.name,
        "optimizer": settings.optim.name,
        "batch_size": settings.train.batch_size,
    }


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
    )
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
