"""What a server is told: how it batches, and how much of anything it takes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from jtl.errors import UserError
from jtl.ranges import Count, Range, check

KEY_VARIABLE = "JTL_SERVE_KEY"
# How much of bodies is held at once, in the largest that one may be.
BODIES_HELD = 16
Seconds = Annotated[float, Range(above=0, high=86_400)]


@dataclass(frozen=True)
class Settings:
    """Settings of a server, named as the flags of `jtl serve`.

    A batch holds at most `max_batch` items and is begun at the latest `max_wait_ms` after its first item was
    ready; nothing is waited for where no other item is on its way. Of one request the body is at most
    `max_body_mb` (10⁶ bytes), with at most `max_items` items, pictures of at most `max_pixels` and texts of
    at most `max_letters`; at most `max_queue` items wait for the model, and `max_connections` are open. A
    client has `header_seconds` for the head of a request, `body_seconds` for its body, and `write_seconds` to
    take of the answer what does not fit between the two. After a signal, what was accepted is answered within
    `stop_seconds`. With a `key`, requests must carry it ("": none is asked for).
    """

    max_wait_ms: Annotated[float, Range(0, 60_000)] = 10.0
    max_batch: Annotated[int, Range(1, 4096)] = 32
    max_queue: Count = 256
    max_body_mb: Annotated[int, Range(1, 4096)] = 16
    max_items: Count = 64
    max_pixels: Count = 50_000_000
    max_letters: Count = 100_000
    max_connections: Count = 512
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    write_seconds: Seconds = 30.0
    stop_seconds: Seconds = 30.0
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check(self, "serve")

    @property
    def max_body_bytes(self) -> int:
        """How long a body may be."""
        return self.max_body_mb * 10**6

    @property
    def max_held_bytes(self) -> int:
        """How much of all bodies together is held."""
        return BODIES_HELD * self.max_body_bytes


def key_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the key that the environment asks of requests, "" where it names none.

    Raises:
        UserError: it is there and empty, or holds what no header can.
    """
    key = environment.get(KEY_VARIABLE)
    if key is None:
        return ""
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        found = "no printable ASCII" if key.strip() else "empty"
        raise UserError(
            f"{KEY_VARIABLE} is set, and is {found}; expected a key that requests send as `Authorization: "
            f"Bearer KEY`: set one, or unset it"
        )
    return key
