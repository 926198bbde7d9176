"""What a client can mend: an error with its HTTP status, which says what was found and what was expected."""

from collections.abc import Mapping
from typing import Any

BAD_REQUEST, UNAUTHORISED, NOT_FOUND, TOO_SLOW, TOO_LARGE = 400, 401, 404, 408, 413
WRONG_TYPE, UNREADABLE, TOO_MUCH_HEAD, BUSY = 415, 422, 431, 503


class Refused(Exception):
    """A request, or an item of one, that is not answered, and why; `headers` go with the answer."""

    def __init__(
        self, status: int, found: str, expected: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{found}; expected {expected}")
        self.status, self.found, self.expected = status, found, expected
        self.headers = dict(headers or {})


def busy(found: str) -> Refused:
    """Return the refusal of what the server has no room for just now."""
    return Refused(BUSY, found, "fewer at once: try again in a second", {"Retry-After": "1"})


def as_json(refused: Refused) -> dict[str, Any]:
    """Return the error as clients are told it.

    >>> as_json(Refused(413, "a body of 20 MB", "at most 16 MB"))["error"]["message"]
    'a body of 20 MB; expected at most 16 MB'
    """
    told = {"message": str(refused), "found": refused.found, "expected": refused.expected}
    return {"error": {"status": refused.status, **told}}
