"""The run folder of several processes: owned and written by one, with a log of each of the others."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jtl import distributed, owner


@contextmanager
def owned(folder: Path, say: Callable[[str], None], *, by: str) -> Iterator[None]:
    """Own a folder inside the `with` block, of several processes by the one that writes it.

    `by` is who does; what owns a folder already simply goes on.

    Raises:
        UserError: another program owns it.
    """
    with ExitStack() as stack:

        def own() -> None:
            stack.enter_context(owner.owned(folder, say))

        distributed.told(f"{folder} owned by {by}", own)
        yield


def log_apart(folder: Path) -> None:
    """Send what this process says to a file in the run folder, unless it is the one people hear."""
    if distributed.is_writer():
        return
    path = folder / owner.LOGS / f"process-{distributed.process_id()}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Descriptors, so that what C++ code says goes there, too.
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
