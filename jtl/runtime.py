"""The process around a run: XLA flags that must be set before jax starts, and what runs of one may share."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Weight gradients of convolutions run at half the speed through YNNPACK's convolution fusion in these jaxlib
# releases (ResNet-18 step, 2 cores: 3.1 s, not 1.6 s). An unknown XLA flag aborts the process: so a list.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
JAXLIBS_WITH_CONVOLUTION_FLAG = ("0.10.2",)

PREEMPTED_EXIT_CODE = 75


def prepare() -> None:
    """Set the environment jax reads; call it before anything imports jax. What the user has set stays."""
    import importlib.metadata

    flags = os.environ.get("XLA_FLAGS", "")
    is_known = importlib.metadata.version("jaxlib") in JAXLIBS_WITH_CONVOLUTION_FLAG
    if is_known and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}".strip()
    # The C++ side logs at INFO to stderr what no user needs; 2 keeps errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextmanager
def shared_compiled() -> Iterator[None]:
    """Let the runs inside the `with` block load what one of them has compiled; before anything imports jax.

    What the user has set stays. The programs are gone afterwards: nothing hangs on another processor's.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jtl-compiled-", ignore_cleanup_errors=True) as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        yield
