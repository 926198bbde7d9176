"""The one error type that means "the user can mend this", and the sentence parts its messages share."""

import difflib
from collections.abc import Iterable


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
