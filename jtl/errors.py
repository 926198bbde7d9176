"""The one error type that means "the user can mend this", its messages' sentence parts, and what closes.

The first error is the one that is shown: what is closed after it may fail as well, and must not replace it.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# What of a value, or a name, a message shows; what of another's text.
MAX_SHOWN = 120
SINGULAR = {
    **{"are": "is", "have": "has", "hold": "holds", "stand": "stands"},
    **{"carry": "carries", "repeat": "repeats", "classes": "class"},
}


class UserError(ValueError):
    """A fault the user can mend: says what was found, what was expected and what to change (exit code 2)."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the known names closest to `name`, quoted and comma-separated, for the end of an error message.

    >>> nearest("learning_rat", ["learning_rate", "weight_decay"])
    "'learning_rate'"
    """
    names = sorted(known)
    # Of a long text the beginning tells.
    name = name[:MAX_SHOWN]
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4) or names[:count]
    return ", ".join(shown(each) for each in close)


def counted(count: int, words: str) -> str:
    """Return a number of things, and what they do, as of one where there is but one.

    >>> counted(1_200, "images are"), counted(1, "unreadable images"), counted(1, "classes have")
    ('1,200 images are', '1 unreadable image', '1 class has')
    """
    if count == 1:
        words = " ".join(SINGULAR.get(word, word.removesuffix("s")) for word in words.split())
    return f"{count:,} {words}"


def shown(value: Any) -> str:
    """Return the value as Python writes it, for a message: a long one is cut.

    >>> shown((0.5, "a"))
    "(0.5, 'a')"
    >>> len(shown("x" * 5000))
    140
    """
    try:
        text = repr(value if not isinstance(value, str) else value[: 2 * MAX_SHOWN])
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
    except RecursionError:
        return f"a {type(value).__name__} too deep to show"
    length = len(value) if isinstance(value, str) else len(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({length:,} characters)"


def shortened(text: str) -> str:
    """Return a text for an error message: one line, and cut where it is long.

    >>> shortened("a" * 200).count("a"), shortened("a\\n b")
    (119, 'a b')
    """
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"


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


@contextmanager
def located(place: object) -> Iterator[None]:
    """Say in front of an error that does not name it where the fault stands: a file or folder.

    >>> with located("weights/"):
    ...     raise UserError("config.json has no size")
    Traceback (most recent call last):
    jtl.errors.UserError: in 'weights/': config.json has no size
    """
    try:
        yield
    except UserError as error:
        if str(place) in str(error):
            raise
        raise UserError(f"in {str(place)!r}: {error}") from error


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][: 2 * MAX_SHOWN]
