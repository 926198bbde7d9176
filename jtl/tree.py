"""Nested dicts of arrays addressed by '/'-joined names: flatten, split, merge, match, count, digest."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jtl.errors import UserError, nearest

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict by '/'-joined name, in the tree's own order.

    >>> flatten({"head": {"kernel": 1, "bias": 2}})
    {'head/kernel': 1, 'head/bias': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Return the nested dict whose leaves `flatten` names as in `flat`.

    >>> unflatten({"head/kernel": 1, "head/bias": 2})
    {'head': {'kernel': 1, 'bias': 2}}
    """
    tree: Tree = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Return the tree with every leaf replaced by `function(name, leaf)`."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def split(tree: Mapping[str, Any], is_selected: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Return the selected leaves and the others as two trees; empty branches vanish from both.

    >>> split({"head": {"kernel": 1}, "stem": {"kernel": 2}}, lambda name: name.startswith("head"))
    ({'head': {'kernel': 1}}, {'stem': {'kernel': 2}})
    """
    flat = flatten(tree)
    selected = {name: leaf for name, leaf in flat.items() if is_selected(name)}
    rest = {name: leaf for name, leaf in flat.items() if name not in selected}
    return unflatten(selected), unflatten(rest)


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Return the union of trees with disjoint leaf names (the inverse of `split`)."""
    flat: dict[str, Any] = {}
    for each in trees:
        leaves = flatten(each)
        assert not flat.keys() & leaves.keys(), "merge takes trees with disjoint leaves"
        flat.update(leaves)
    return unflatten(flat)


def first_match(patterns: Iterable[str], names: Iterable[str], setting: str) -> dict[str, str | None]:
    """Return for each name the first pattern that matches it (`re.search`), or None.

    `setting` names the config field in errors.

    Raises:
        UserError: a pattern is no regular expression, or matches none of the names.
    """
    patterns, names = list(patterns), list(names)
    compiled = []
    for pattern in patterns:
        try:
            compiled.append((pattern, re.compile(pattern)))
        except re.error as error:
            raise UserError(f"{setting} {pattern!r} is not a regular expression: {error}") from error
    for pattern, regex in compiled:
        if not any(regex.search(name) for name in names):
            raise UserError(f"{setting} {pattern!r} matches no parameter; nearest: {nearest(pattern, names)}")
    return {
        name: next((pattern for pattern, regex in compiled if regex.search(name)), None) for name in names
    }


def num_values(tree: Mapping[str, Any]) -> int:
    """Return the number of scalars in all leaves together."""
    return sum(int(np.prod(np.shape(leaf), dtype=np.int64)) for leaf in flatten(tree).values())


def num_bytes(tree: Mapping[str, Any]) -> int:
    """Return the bytes of all leaves together (arrays or `jax.ShapeDtypeStruct`)."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in flatten(tree).values())


def sha256(tree: Mapping[str, Any]) -> str:
    """Return the hex digest over names, dtypes, shapes and bytes of all leaves."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
