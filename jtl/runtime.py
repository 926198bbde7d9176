"""The process around a run: XLA flags that must be set before jax starts, and signals that ask it to stop."""

import atexit
import importlib.metadata
import os
import signal
import tempfile
from types import FrameType

# Weight gradients of convolutions run at half the speed through YNNPACK's convolution fusion in these jaxlib
# releases (ResNet-18 step, 2 cores: 3.1 s, not 1.6 s). An unknown XLA flag aborts the process: so a list.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
JAXLIBS_WITH_CONVOLUTION_FLAG = ("0.10.2",)

PREEMPTED_EXIT_CODE = 75


def prepare() -> None:
    """Set the environment jax reads; call it before anything imports jax. What the user has set stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    is_known = importlib.metadata.version("jaxlib") in JAXLIBS_WITH_CONVOLUTION_FLAG
    if is_known and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}".strip()
    # The C++ side logs at INFO to stderr what no user needs; 2 keeps errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def share_compiled() -> None:
    """Let the runs of this process load what one of them has compiled; call it before anything imports jax.

    What the user has set stays. The programs are gone with the process: nothing hangs on another processor's.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="jtl-compiled-")
    atexit.register(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


class StopRequest:
    """Whether SIGTERM or SIGINT has asked this process to stop; a second signal acts as without us."""

    def __init__(self) -> None:
        self.is_set = False
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def __enter__(self) -> "StopRequest":
        for number in self._previous:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_set = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
