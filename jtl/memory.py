"""How much memory there is, so that what cannot fit is refused before it is taken, with what it wants."""

import os
from pathlib import Path

from jtl.errors import UserError

# Limits of the container this runs in: control groups of version 2, and of version 1.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Measured: with less, jax 0.10 or scipy 1.17 cannot be mapped on Linux, or end the process.
MIN_ADDRESS_BYTES = 1_200 * 2**20
UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def check(num_bytes: int, what: str, cure: str, *, limit: int | None = None) -> None:
    """Check that this many bytes can be had at all; whether they are free just now is not looked at.

    `limit` is how many there are (None: those of this process on this machine).

    Raises:
        UserError: there are not so many. It says what wants them, and what to change (`cure`).
    """
    limit = host_bytes() if limit is None else limit
    if num_bytes > limit:
        raise UserError(f"{what} wants {text(num_bytes)} of memory and there are {text(limit)}; {cure}")


def check_room() -> None:
    """Check that libraries can be loaded at all: some of them crash, rather than say it, where they cannot.

    Raises:
        UserError: `ulimit -v` leaves too little.
    """
    if _address_bytes() < MIN_ADDRESS_BYTES:
        raise UserError(
            f"`ulimit -v` leaves {text(_address_bytes())} and the libraries alone take "
            f"{text(MIN_ADDRESS_BYTES)}; expected some GiB: raise it"
        )


def host_bytes() -> int:
    """Return how much memory this process may have: the machine's, its container's, or by `ulimit -v`."""
    return min(_machine_bytes(), *map(_read, CGROUP_LIMITS), _address_bytes())


def device_bytes() -> int:
    """Return the memory of all devices together; devices that do not say (CPU) have the machine's."""
    import jax

    stats = [found for device in jax.local_devices() if (found := device.memory_stats())]
    known = [each["bytes_limit"] for each in stats if "bytes_limit" in each]
    return sum(known) or host_bytes()


def text(num_bytes: int) -> str:
    """Return a number of bytes for people.

    >>> text(3 * 2**29), text(17)
    ('1.5 GiB', '17 bytes')
    """
    size, unit = next(((size, unit) for size, unit in UNITS if num_bytes >= size), (0, "bytes"))
    return f"{num_bytes / size:,.1f} {unit}" if size else f"{num_bytes} {unit}"


_NONE = 2**62


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _NONE


def _address_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return _NONE
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _NONE if soft == resource.RLIM_INFINITY else soft


def _read(path: str) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return _NONE
