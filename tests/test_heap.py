"""The heap keeps what a step gives back, where that is the user's gain and nobody else's setting."""

import subprocess
import sys
from pathlib import Path

import pytest

from jtl import heap

# Writes 64 MB in another thread than the first, as XLA does, and counts what pages are new the last time.
TOUCHING = """
import ctypes, resource, sys, threading
from jtl import heap
if sys.argv[1] == "kept":
    assert heap.keep({}, accelerators=())
library, size, found = ctypes.CDLL(None), 1 << 26, []
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(ctypes.c_size_t(size))
    ctypes.memset(ctypes.c_void_p(block), 1, size)
    library.free(block)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
def work():
    touch(), touch()
thread = threading.Thread(target=work)
thread.start(), thread.join()
print(found[-1])
"""


def _new_pages(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", TOUCHING, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(heap._mallopt() is None, reason="not glibc")
def test_memory_given_back_is_taken_again_without_new_pages() -> None:
    assert _new_pages("as it is") > 1000
    assert _new_pages("kept") < 100


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_ARENA_MAX": "2"}, {"MALLOC_MMAP_MAX_": "9"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}],
)
def test_an_allocator_that_the_user_has_set_is_left_alone(environment: dict[str, str]) -> None:
    asked: list[int] = []

    def set_option(name: int, value: int) -> int:
        asked.append(name)
        return 1

    assert not heap.keep(environment, accelerators=(), set_option=set_option)
    assert not asked


def test_the_heap_is_left_alone_beside_an_accelerator(tmp_path: Path) -> None:
    assert not heap.keep({}, accelerators=(str(tmp_path),), set_option=lambda option, value: 1)


def test_every_option_is_set_and_a_refused_one_is_told() -> None:
    given: dict[int, int] = {}
    tunables = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
    assert heap.keep(tunables, accelerators=(), set_option=lambda *each: given.update([each]) or 1)
    assert given == heap.SETTINGS
    assert not heap.keep({}, accelerators=(), set_option=lambda option, value: int(option != heap.ARENA_MAX))
