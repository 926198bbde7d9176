"""Changes of JSON files by chance: what a flipped bit, a cut, an editor or another program leaves."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

VALUES: Sequence[Any] = (
    None,
    True,
    [],
    {},
    "",
    "none",
    "x" * 100_000,
    0,
    -1,
    3,
    2**31,
    2**63,
    10**30,
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
    [[]],
    [None],
    {"a": 1},
    ["a", 1],
    "\ud800",
)
HEADER_BYTES = 256
WORDS = ("null", "[]", "{}", "1", '"text"', "", "\n", "[" * 50_000, "{" * 2_000, "NaN", "// no", "\ufeff{}")


def mutated(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Return the content of a file of one JSON value a file or a line, changed, and how it was changed."""
    change = rng.choice(CHANGES)
    return change.__name__.strip("_"), change(rng, content)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return the content of any file with a few bytes changed, lost or put in, or its end cut.

    Every third time it is in the first bytes, where headers are.
    """
    for _ in range(rng.randint(1, 3)):
        whole = content or b"x"
        length = min(len(whole), HEADER_BYTES) if rng.random() < 1 / 3 else len(whole)
        content = rng.choice(BYTE_CHANGES)(rng, whole[:length]) + whole[length:]
    return content


def bit(rng: random.Random, content: bytes) -> bytes:
    """Return the content of a file with one bit flipped."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _removed_bytes(rng: random.Random, content: bytes) -> bytes:
    first = rng.randrange(len(content))
    return content[:first] + content[first + rng.randint(1, 40) :]


def _inserted_bytes(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.randint(1, 8)) + content[place:]


BYTE_CHANGES = (bit, bit, _cut, _removed_bytes, _inserted_bytes)


def _whole(rng: random.Random, content: bytes) -> bytes:
    del content
    return rng.choice(WORDS).encode()


def _value(rng: random.Random, content: bytes) -> bytes:
    return _edited(rng, content, lambda holder, key: holder.__setitem__(key, rng.choice(VALUES)))


def _missing(rng: random.Random, content: bytes) -> bytes:
    return _edited(rng, content, lambda holder, key: holder.__delitem__(key))


def _renamed(rng: random.Random, content: bytes) -> bytes:
    def rename(holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[f"{key}s" if rng.random() < 0.5 else ""] = holder.pop(key)
        else:
            holder.insert(key, holder[key])

    return _edited(rng, content, rename)


def _exchanged(rng: random.Random, content: bytes) -> bytes:
    """Put the value of another place there."""

    def exchange(holder: Any, key: Any) -> None:
        other, place = rng.choice(list(places(holder)))
        holder[key] = json.loads(json.dumps(other[place]))

    return _edited(rng, content, exchange)


CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    bit,
    _cut,
    _removed_bytes,
    _inserted_bytes,
    _whole,
    _value,
    _value,
    _value,
    _value,
    _missing,
    _missing,
    _renamed,
    _exchanged,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place inside a JSON value: what holds it, and its key.

    >>> places({"a": [1]})
    [({'a': [1]}, 'a'), ([1], 0)]
    """
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def _edited(rng: random.Random, content: bytes, edit: Callable[[Any, Any], None]) -> bytes:
    """Change one place of the JSON value, or of one of the lines."""
    try:
        parts = [json.loads(content)]
        is_lines = False
    except ValueError:
        parts = [json.loads(line) for line in content.splitlines()]
        is_lines = True
    holder, key = rng.choice(places(rng.choice(parts)))
    edit(holder, key)
    if is_lines:
        return b"".join(json.dumps(part).encode() + b"\n" for part in parts)
    return json.dumps(parts[0], indent=2).encode()
