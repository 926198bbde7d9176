"""Patterns of names with numbered places: `layer{s}.{u}.bn1.bias` ↔ `block{s}/unit{u+1}/bn1/bias`."""

import re
from functools import cache

PLACE = re.compile(r"\{([a-z])([+-]\d+)?\}")
NUMBERS = re.compile(rf"(?:{PLACE.pattern}|\d)+")


def match(pattern: str, name: str) -> dict[str, int] | None:
    """Return the numbers at the pattern's places, each less its offset; None where the name does not fit.

    >>> match("block{s}/unit{u+1}/bias", "block2/unit1/bias")
    {'s': 2, 'u': 0}
    """
    found = _compiled(pattern).fullmatch(name)
    if found is None:
        return None
    offsets = {letter: int(offset or 0) for letter, offset in PLACE.findall(pattern)}
    return {letter: int(digits) - offsets[letter] for letter, digits in found.groupdict().items()}


def render(pattern: str, numbers: dict[str, int]) -> str:
    """Return the name that has these numbers at the pattern's places (the inverse of `match`).

    >>> render("layer{s}.{u}.bias", {"s": 2, "u": 0})
    'layer2.0.bias'
    """
    return PLACE.sub(lambda place: str(numbers[place[1]] + int(place[2] or 0)), pattern)


def outline(text: str) -> str:
    """Return a name or a pattern without its numbers and places: a name has the outline of what it fits.

    >>> outline("layer{s}.{u+1}.bias"), outline("layer2.10.bias")
    ('layer#.#.bias', 'layer#.#.bias')
    """
    return NUMBERS.sub("#", text)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for place in PLACE.finditer(pattern):
        pieces += [re.escape(pattern[end : place.start()]), rf"(?P<{place[1]}>0|[1-9]\d*)"]
        end = place.end()
    return re.compile("".join([*pieces, re.escape(pattern[end:])]))
