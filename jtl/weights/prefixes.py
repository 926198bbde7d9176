"""Which beginnings of a file's names may be a wrapper's: those behind which the names are a family's.

Every name votes: where its end is a name of some library's table, for what stands in front of that end. A
training script may call its model anything; what its layers are called is the library's.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from jtl.weights import FAMILIES
from jtl.weights.names import pattern

SEPARATOR = re.compile(r"[./]")
# A wrapper that fewer names stand behind than this part of the most is no candidate.
MIN_PART, MIN_VOTES, MAX_CANDIDATES = 0.5, 3, 16
# Names deeper than this are no model's.
MAX_DEPTH = 24


def candidates(names: Iterable[str]) -> list[str]:
    """Return the prefixes behind which most names are of one library's table, the likeliest first.

    >>> candidates([f"model.net.blocks.{i}.norm1.bias" for i in range(4)])
    ['model.net.']
    """
    votes: Counter[tuple[str, str]] = Counter()
    for name in names:
        ends = [0, *(place.end() for place in SEPARATOR.finditer(name))][:MAX_DEPTH]
        for end in ends:
            prefix, rest = name[:end], name[end:]
            for source, voter, optional in _rows().get(pattern.outline(rest), ()):
                if pattern.match(source, rest) is not None:
                    votes[voter, prefix] += 1
                    if optional and prefix.endswith(optional):
                        votes[voter, prefix.removesuffix(optional)] += 1
    most: Counter[str] = Counter()
    for (_, prefix), count in votes.items():
        most[prefix] = max(most[prefix], count)
    least = max(MIN_VOTES, MIN_PART * max(most.values(), default=0))
    likely = [prefix for prefix, count in most.items() if count >= least]
    return sorted(likely, key=lambda prefix: (-most[prefix], len(prefix)))[:MAX_CANDIDATES]


@cache
def _rows() -> dict[str, tuple[tuple[str, str, str], ...]]:
    """Return by outline (source pattern, whose it is, that library's optional prefix) of all tables.

    A family's own names are those of its leaves that some table fills.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    for family, names in FAMILIES.items():
        for key, origin in names.origins.items():
            for row in origin.rows:
                entry = (row.source, f"{family}/{key}", origin.prefix)
                found.setdefault(pattern.outline(row.source), []).append(entry)
                for target in row.targets:
                    own = (target, f"{family}/{key}/own", "")
                    found.setdefault(pattern.outline(target), []).append(own)
    return {outline: tuple(dict.fromkeys(entries)) for outline, entries in found.items()}
