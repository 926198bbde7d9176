"""Seeded damage to the JSON of a run folder: bytes, structure and values."""

import copy
import json
import random
from typing import Any

STRANGE = (None, [], {}, "", "x", 0, -1, 1.5, True, 10**30, -(10**400), [[]], {"a": {}}, "\x00", "é" * 200)
RAW = (b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"a": NaN}', b"[" * 50_000, b"3", b'"text"', b"true")


def mutated(content: bytes, chance: random.Random, *, is_lines: bool = False) -> bytes:
    """Return the content with one fault of a kind that chance picks; of lines, one of them is changed."""
    if chance.random() < 0.1:
        return chance.choice(RAW)
    if chance.random() < 0.3:
        return _bytes(content, chance)
    if not is_lines:
        return json.dumps(_structure(json.loads(content), chance), ensure_ascii=False).encode(
            "utf-8", "replace"
        )
    lines = content.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = json.dumps(_structure(json.loads(lines[place]), chance)).encode()
    return b"\n".join(lines) + b"\n"


def _bytes(content: bytes, chance: random.Random) -> bytes:
    changed, place = bytearray(content), chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        return content[:place]
    if kind == 1:
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == 2:
        del changed[place : place + chance.randrange(1, 20)]
    else:
        changed[place:place] = bytes(chance.randrange(256) for _ in range(3))
    return bytes(changed)


def _structure(values: Any, chance: random.Random) -> Any:
    """Return a copy in which one value is another, is gone, or has another name."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    parent, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0 and isinstance(parent, dict):
        parent[f"{key}s"] = parent.pop(key)
    elif kind == 1:
        del parent[key]
    elif kind == 2 and isinstance(parent[key], list):
        parent[key].append(copy.deepcopy(chance.choice(STRANGE)))
    else:
        parent[key] = copy.deepcopy(chance.choice(STRANGE))
    return values


def _places(values: Any) -> Any:
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield values, key
        if isinstance(value, dict | list):
            yield from _places(value)
