"""A compiled step and what its compiler says of it: seconds cold and from the cache, memory, FLOPs."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A compiled step, and the seconds that tracing and compiling it took: cold, and from the cache."""

    call: Callable[..., Any]
    cold_seconds: float
    cached_seconds: float


def compiled(make: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> Program:
    """Compile a program twice, the second time from what the first left in the cache (see `own_cache`).

    `make()` traces and compiles anew, finding nothing in memory.
    """
    began = clock()
    make()
    between = clock()
    program = make()
    ended = clock()
    return Program(program, between - began, ended - between)


@contextmanager
def own_cache() -> Iterator[None]:
    """Keep programs in a folder that is empty at first inside the `with` block, whatever the user has set."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    own = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_enable_compilation_cache": True,
    }
    names = ("jax_compilation_cache_dir", *own)
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="jtl-bench-", ignore_cleanup_errors=True) as folder:
        try:
            for name, value in {**own, "jax_compilation_cache_dir": folder}.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


class Flops(NamedTuple):
    """What one execution of a program does on all devices together, as XLA counts floating-point operations.

    `asked` counts the program as it was traced. `compiled` counts what is left of it, in which XLA does not
    see into calls of cuBLAS and cuDNN.
    """

    asked: float
    compiled: float


def flops(lowered: Any, program: Any, num_devices: int) -> Flops:
    """Return the FLOPs of a lowered program and what was compiled of it; 0 where XLA does not say."""
    after = _flops(program.cost_analysis()) * num_devices
    return Flops(_flops(lowered.cost_analysis()) or after, after)


def memory_of(program: Any) -> dict[str, int]:
    """Return the bytes that one device needs to run a program, by what they are for.

    What is donated takes the place of outputs, so that `total` does not count it twice.
    """
    found = program.memory_analysis()
    if found is None:
        return {}
    parts = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        "donated": found.alias_size_in_bytes,
    }
    return {
        **parts,
        "total": parts["arguments"] + parts["outputs"] + parts["temporary"] - parts["donated"],
    }


def _flops(analysis: Any) -> float:
    found = analysis[0] if isinstance(analysis, list) else analysis
    return float((found or {}).get("flops", 0.0))
