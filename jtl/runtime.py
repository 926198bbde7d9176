"""The process around a run: what must be set before jax starts, and where compiled programs are kept.

What is loaded is run: the folder is this user's alone, and for one kind of processor.
"""

import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jtl import files
from jtl.errors import UserError

# Weight gradients of convolutions run at half the speed through YNNPACK's convolution fusion in these jaxlib
# releases (ResNet-18 step, 2 cores: 3.1 s, not 1.6 s). An unknown XLA flag aborts the process: so a list.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
JAXLIBS_WITH_CONVOLUTION_FLAG = ("0.10.2",)
# What takes that back for a single program: one that has no such gradient is the faster for the fusion
# (ResNet-18 forward, 16 images, one core of an AMD EPYC: 282 ms, not 311).
CONVOLUTION_OPTION: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
}
# And of a program that runs once: the first run of the slopes of a ViT-Ti's attention for 12 images takes
# 16.7 s of processor time with these fusions and 1.1 s without, a further one 0.7 s and 1.0 s (AMD EPYC).
NO_FUSIONS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}

PREEMPTED_EXIT_CODE = 75

COMPILED_VARIABLE, ENABLED_VARIABLE = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
COMPILED_NAME = "compiled"
# How much a folder holds before what was not loaded for longest goes, and when a folder goes as a whole.
COMPILED_BYTES, UNUSED_SECONDS = 1 << 30, 30 * 24 * 3600
# What of a processor's description says which instructions it has, on x86 and on ARM.
FEATURES = ("model name", "flags", "Features", "CPU implementer", "CPU part")


def prepare() -> None:
    """Set the environment jax reads; call it before anything imports jax. What the user has set stays."""
    import importlib.metadata

    flags = os.environ.get("XLA_FLAGS", "")
    version = importlib.metadata.version("jaxlib")
    if version in JAXLIBS_WITH_CONVOLUTION_FLAG and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}".strip()
    # The C++ side logs at INFO to stderr what no user needs; 2 keeps errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _keep_compiled(version)


def forward_options() -> dict[str, str | bool]:
    """Return XLA's options for a program that takes no gradient of a convolution's kernel."""
    return dict(CONVOLUTION_OPTION) if CONVOLUTION_FLAG in os.environ.get("XLA_FLAGS", "") else {}


def options_of_few_runs() -> dict[str, str | bool]:
    """Return the compiler's options for a program that runs a few times only."""
    import importlib.metadata

    is_known = importlib.metadata.version("jaxlib") in JAXLIBS_WITH_CONVOLUTION_FLAG
    return dict(NO_FUSIONS) if is_known else {}


@contextmanager
def shared_compiled() -> Iterator[None]:
    """Let the runs inside the `with` block load what one of them has compiled; before anything imports jax.

    For where `prepare` found no folder to keep programs in: they are gone afterwards.
    """
    if COMPILED_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jtl-compiled-", ignore_cleanup_errors=True) as folder:
        os.environ[COMPILED_VARIABLE] = folder
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def remarks() -> list[str]:
    """Return a line for people on where compiled programs are kept, or why they are not."""
    given = os.environ.get(COMPILED_VARIABLE)
    if os.environ.get(ENABLED_VARIABLE, "").lower() in ("0", "false", "f", "n", "no", "off") or given == "":
        return ["compiled programs are not kept, as the environment says: each start compiles anew"]
    if given is None:
        try:
            fault = _fault(_compiled_root()) or f"{COMPILED_VARIABLE} names no folder"
        except UserError as error:
            fault = str(error)
        return [f"compiled programs are not kept ({fault}): each start compiles anew"]
    fault = _fault(Path(given).resolve()) if Path(given).is_dir() else ""
    risk = f"; {fault}: whoever can write there can run programs as you" if fault else ""
    return [f"compiled programs are kept in {given}{risk}"]


def _keep_compiled(jaxlib_version: str) -> None:
    """Name the folder of compiled programs to jax, where there is a safe one and the user names none."""
    if COMPILED_VARIABLE in os.environ:
        return
    try:
        root = _compiled_root()
        folder = root / _key(jaxlib_version)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, UserError):  # `remarks` says it
        return
    if _fault(root) or _fault(folder):
        return
    with suppress(OSError):
        os.utime(folder)
        _remove_unused(root)
    os.environ[COMPILED_VARIABLE] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILED_BYTES))
    # A run begins with dozens of small programs.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _compiled_root() -> Path:
    return files.cache_folder(COMPILED_NAME).absolute()


def _key(jaxlib_version: str) -> str:
    """Return a name that is the same where a program compiled here runs as if it had been compiled there.

    XLA compiles for the instructions of the processor it finds, and cuts operations for as many cores as it
    may use, on which the order of sums hangs. jax's own key has neither of the two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = [os.environ.get(name, "") for name in ("XLA_FLAGS", "NPROC", "PJRT_NPROC")]
    facts = (jaxlib_version, platform.system(), platform.machine(), _processor(), str(cores), *threads)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Return what the kernel says of the first processor; where it says nothing, the machine's name."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return f"{platform.node()} {platform.processor()}"
    lines = [line for line in first.splitlines() if line.partition("\t")[0].strip(" :") in FEATURES]
    return "\n".join(lines) or platform.node()


def _fault(folder: Path) -> str:
    """Return why a folder is not this user's alone, "" where it is."""
    if not hasattr(os, "getuid"):
        return "this system has no owners of files as POSIX has them"
    try:
        found = folder.lstat()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder"
    if found.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if found.st_mode & 0o022:
        return f"{folder} can be written by others: chmod 700 it"
    for parent in folder.resolve().parents:
        about = parent.stat()
        # Many systems give each user a group of the same number, and let it write.
        others = 0o002 if about.st_gid in (0, os.getgid()) else 0o022
        is_open = about.st_mode & others and not about.st_mode & stat.S_ISVTX
        if is_open or about.st_uid not in (0, os.getuid()):
            return f"{folder} lies in {parent}, where others can put another in its place"
    return ""


def _remove_unused(root: Path) -> None:
    """Remove the folders of processors and releases that no command has used for long."""
    for each in root.iterdir():
        if time.time() - each.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(each, ignore_errors=True)
