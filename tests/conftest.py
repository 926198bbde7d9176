"""What every test runs under: 8 CPU devices, no silent rank promotion, no network; real data by fixture."""

import os
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

# So that a law that fails says with which values.
pytest.register_assert_rewrite("tests.laws")
NUM_DEVICES = 8
DEVICES_FLAG = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
# Both halve what tests compile for: one part of a program instead of 32, which pay where they run on as many
# threads, and no detour of every fusion through MLIR. An XLA that does not know a flag ends the process.
QUICK_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"

# jax reads these when it is imported, and processes that tests start inherit them.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG} {QUICK_FLAGS}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# Programs of tests run for milliseconds and compile for seconds: JAX's own suite compiles them so, too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# What one test compiles, the next loads, whichever process runs it: workers inherit the folder of the process
# that starts them. Each session starts empty, so that nothing hangs on older results or another processor;
# loaded programs give equal bits, FLOPs and memory.
_compiled, _cache = None, None
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jtl-compiled-")
    # What runs keep between them is kept here, too, and not in the user's own folder.
    _cache = tempfile.TemporaryDirectory(prefix="jtl-cache-")
    os.environ["JTL_CACHE"] = _cache.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_unconfigure() -> None:
    """Remove what was compiled and kept."""
    for folder in (_compiled, _cache):
        if folder is not None:
            folder.cleanup()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data and weights (JTL_TEST_DATA); skips the test, with the reason, where it is unset."""
    folder = os.environ.get("JTL_TEST_DATA", "")
    if not folder:
        pytest.skip("JTL_TEST_DATA is not set: no real data and weights here")
    if not Path(folder).is_dir():
        pytest.fail(f"JTL_TEST_DATA is {folder!r}, which is no folder")
    return Path(folder)


@pytest.fixture
def real_path(real_data: Path) -> Any:
    """Function from a path inside the real data to the whole path; a missing one skips the test."""

    def find(relative: str) -> Path:
        path = real_data / relative
        if not path.exists():
            pytest.skip(f"JTL_TEST_DATA has no {relative}")
        return path

    return find


def _without_pictures() -> Iterator[None]:
    """Leave out what takes a third of a small run, and has tests of its own: pictures, reports, intervals."""
    from jtl.report.bootstrap import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jtl.training.account.SETTINGS", Settings(resamples=0))
        for name in ("jtl.report.curves.plot", "jtl.report.confusion.plot", "jtl.training.account.write"):
            patch.setattr(name, lambda *_: None)
        yield


without_pictures = pytest.fixture(_without_pictures)
# For runs that a fixture of a module makes.
module_without_pictures = pytest.fixture(_without_pictures, scope="module")


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines, so that a test cannot come to depend on one."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        is_local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not is_local:
            raise AssertionError(f"a test tried to connect to {address}; mark it `network` if it must")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
