"""The one error type that means "the user can mend this", and the sentence parts its messages share."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MAX_FAULT_CHARS = 200


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
def reading(what: str, cure: str = "get it again") -> Iterator[None]:
    """Turn whatever a library raises while it reads `what`, which users gave, into one UserError.

    A library in Rust may panic, which is no Exception in Python. Signals and exits pass.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{what} wants more memory than there is") from error
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or _line(error)}); {cure}") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} is damaged ({type(error).__name__}: {_line(error)}); {cure}") from error


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:MAX_FAULT_CHARS]
