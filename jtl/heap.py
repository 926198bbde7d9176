"""The C library's heap, told to keep the memory that one step gives back for the next.

XLA's CPU backend takes a step's temporary memory anew from `malloc` each time, and glibc takes blocks of
that size from the kernel and gives them back. A ViT-Ti step of 16 images so touches 1 GB of new pages, each
of which the kernel clears (1.8 µs in a virtual machine). Kept, they are touched once.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# <malloc.h>, glibc 2.36. All threads but the first have arenas of 64 MB and map what is larger: so one arena.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
SETTINGS = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, ARENA_MAX: 1}
# A user who has set the allocator knows better. Names are what glibc 2.36 reads.
VARIABLES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
TUNABLES = "GLIBC_TUNABLES"
# Where there is an accelerator, programs take its memory and not the heap's, and many threads read images.
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def keep(
    environment: Mapping[str, str] = os.environ,
    *,
    accelerators: tuple[str, ...] = ACCELERATORS,
    set_option: Callable[[int, int], int] | None = None,
) -> bool:
    """Let the heap keep what is given back to it, and return whether it does; before any thread starts.

    It then holds what the process has needed at most. Left alone are C libraries without `mallopt`,
    allocators that the environment sets, and machines with an accelerator.
    """
    is_set = any(name in environment for name in VARIABLES) or "malloc" in environment.get(TUNABLES, "")
    if is_set or any(Path(device).exists() for device in accelerators):
        return False
    set_option = _mallopt() if set_option is None else set_option
    return set_option is not None and all([set_option(*each) == 1 for each in SETTINGS.items()])


def _mallopt() -> Callable[[int, int], int] | None:
    """Return glibc's function of that name, None where there is another C library."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    has_both = hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version")
    return library.mallopt if has_both else None
