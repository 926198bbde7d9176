"""What went wrong, in one line: errors of the operating system and of memory that a user can mend."""

import errno
import os
from collections.abc import Iterator

from jtl import memory
from jtl.errors import UserError, shortened

# What to change where the operating system refuses, by its number of the error.
CURES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, expected a folder; check the path",
    errno.EISDIR: "expected a file, found a folder; check the path",
    errno.EACCES: "check its owner and permissions, or give another path",
    errno.EPERM: "check its owner and permissions, or give another path",
    errno.EROFS: "the file system is read-only; give another path",
    errno.ENOSPC: "make room on that disk, or give another folder, and repeat the command",
    errno.EDQUOT: "the quota is used up; make room, or give another folder, and repeat the command",
    errno.EFBIG: "files may not grow so large here; raise `ulimit -f`, or give another folder",
    errno.EMFILE: "too many files are open in this process; raise `ulimit -n`, or lower inputs.threads",
    errno.ENFILE: "too many files are open on this machine; close some and repeat the command",
    errno.ENOMEM: "the memory does not suffice; lower train.batch_size, or raise `ulimit -v`",
    errno.EAGAIN: "no more threads or processes may be started; lower inputs.threads, or raise `ulimit -u` "
    "or `ulimit -v`",
    errno.EIO: "the disk or its server failed; check it and repeat the command",
    errno.ESTALE: "the server of this folder has lost it; mount it again and repeat the command",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "its links lead back to themselves; mend them",
}
# The faults of a machine that a library may wrap in an error of its own.
OF_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.ESTALE, errno.EROFS),
)
# What processes that train on processors say when one came to the others more than 30 s late.
NOT_MET = "Gloo context initialization failed"
NO_THREAD = "can't start new thread"
# How the loader of libraries (glibc) says that there is no memory for one.
UNMAPPED = ("failed to map segment", os.strerror(errno.ENOMEM))
MEMORY_CURE = (
    "the memory does not suffice; lower train.batch_size or train.eval_batch_size, raise optim.accumulate, "
    "or take a smaller model"
)


def explained(error: BaseException) -> str | None:
    """Return what the user can mend and how, of an error or of what caused it; None of a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return of_system(error)
    for each in causes(error):
        if isinstance(each, OSError) and each.errno in OF_MACHINE:
            return of_system(each)
        if isinstance(each, MemoryError) or "RESOURCE_EXHAUSTED" in str(each):
            return f"{MEMORY_CURE} ({shortened(str(each)) or type(each).__name__})"
        if NOT_MET in str(each):
            return (
                f"the processes did not find each other within the 30 s that they have for it on processors "
                f"({shortened(str(each))}): one is much slower than the others, or the machine is "
                f"overloaded; repeat the command"
            )
        if isinstance(each, RuntimeError) and NO_THREAD in str(each):
            return CURES[errno.EAGAIN]
        if isinstance(each, ImportError) and any(sign in str(each) for sign in UNMAPPED):
            return (
                f"the memory does not suffice to load a library ({shortened(str(each))}); raise `ulimit -v`"
            )
        # Code in C that gets no memory may fail without saying why.
        if isinstance(each, SystemError) and memory.is_short():
            return (
                f"a library failed as without memory ({shortened(str(each))}): `ulimit -v` leaves "
                f"{memory.address_text()}; raise it"
            )
    return None


def of_system(error: OSError) -> str:
    """Return an error of the operating system as a sentence: what failed, with which file, what to change.

    >>> of_system(FileNotFoundError(2, "No such file or directory", "photos/a.png"))
    "'photos/a.png': No such file or directory; check the path"
    """
    if error.errno is None:
        return str(error)
    given = (error.filename, error.filename2)
    names = [repr(os.fsdecode(name)) for name in given if isinstance(name, str | bytes | os.PathLike)]
    found = f"{' and '.join(names)}: " if names else ""
    found += error.strerror or os.strerror(error.errno)
    cure = CURES.get(error.errno)
    return f"{found}; {cure}" if cure else found


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those it was raised from or while another was handled."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
