"""The one error type that means "the user can mend this", its messages' sentence parts, and what closes.

The first error is the one that is shown: what is closed after it may fail as well, and must not replace it.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A fault the user can mend: says what was found, what was expected and what to change (exit code 2)."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the known names closest to `name`, quoted and comma-separated, for the end of an error message.

    >>> nearest("learning_rat", ["learning_rate", "weight_decay"])
    "'learning_rate'"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4) or names[:count]
    return ", ".join(repr(each) for each in close)


@contextmanager
def at_end(close: Callable[[], object]) -> Iterator[None]:
    """Call `close` at the end of the block; where an error ended the block, that is the one that is raised.

    >>> with at_end([].clear):
    ...     raise UserError("the cause")
    Traceback (most recent call last):
    jtl.errors.UserError: the cause
    """
    try:
        yield
    except BaseException as error:
        try:
            close()
        except Exception as other:
            error.add_note(f"and then closing failed: {type(other).__name__}: {other}")
        raise
    close()
