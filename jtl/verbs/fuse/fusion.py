"""Fusion in weight space: interpolation, soups, pooled moments; pure functions on nested dicts of numpy.

Everything is added up in float64 and rounded once. Sums of float32 values are exact there or nearly so: a
soup does not hang on the order of its members, and a soup of copies is the copy, bit for bit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jtl import tree

MEAN, VAR = "/mean", "/var"


class Decision(NamedTuple):
    """One step of the greedy soup: the member tried, the soup's value with it, and whether it stays."""

    member: int
    value: float
    is_added: bool


class Moments(NamedTuple):
    """Means and (biased) variances over examples, in float64, by name of the normalisation layer."""

    num_examples: int
    mean: Mapping[str, Float[np.ndarray, " channels"]]
    var: Mapping[str, Float[np.ndarray, " channels"]]


def interpolate(start: Mapping[str, Any], end: Mapping[str, Any], alpha: float) -> tree.Tree:
    """Return (1 - alpha) start + alpha end, leaf by leaf (WiSE-FT, Wortsman et al. 2022b, eq. 1).

    `alpha` 0 and 1 give the ends bit for bit, the sign of zeros included.

    >>> interpolate({"w": np.float32([0.0])}, {"w": np.float32([4.0])}, 0.25)
    {'w': array([1.], dtype=float32)}
    """
    ends = tree.flatten(start), tree.flatten(end)
    assert ends[0].keys() == ends[1].keys(), "interpolation takes trees of the same leaves"
    if alpha in (0.0, 1.0):
        return tree.unflatten({name: np.array(leaf) for name, leaf in ends[int(alpha)].items()})
    return tree.unflatten({name: _between(leaf, ends[1][name], alpha) for name, leaf in ends[0].items()})


def mean(trees: Iterable[Mapping[str, Any]]) -> tree.Tree:
    """Return the mean of the trees: the uniform soup (Wortsman et al. 2022a, table 2).

    The trees are taken one at a time; beside one of them the float64 sum is all that is kept.

    >>> mean([{"w": np.float32([1.0])}, {"w": np.float32([2.0])}])
    {'w': array([1.5], dtype=float32)}
    """
    totals: dict[str, np.ndarray] = {}
    dtypes: dict[str, np.dtype] = {}
    count = 0
    for count, each in enumerate(trees, start=1):
        leaves = tree.flatten(each)
        if count == 1:
            # Not 0 + leaf: that would make -0.0 to 0.0.
            totals = {name: np.array(leaf, np.float64) for name, leaf in leaves.items()}
            dtypes = {name: np.asarray(leaf).dtype for name, leaf in leaves.items()}
            continue
        assert totals.keys() == leaves.keys(), "a soup takes trees of the same leaves"
        for name, leaf in leaves.items():
            totals[name] += np.asarray(leaf)
    assert count, "a soup of nothing"
    return tree.unflatten({name: (total / count).astype(dtypes[name]) for name, total in totals.items()})


def greedy(
    ranking: Sequence[int], value: Callable[[tuple[int, ...]], float]
) -> tuple[tuple[int, ...], tuple[Decision, ...]]:
    """Return the members of the greedy soup and what was decided of each (Wortsman et al. 2022a, recipe 1).

    `ranking` are the members, best first; `value(members)` is the held-out value of their soup, higher is
    better. A member stays if the soup with it is not worse than without.

    >>> members, _ = greedy([2, 0, 1], lambda members: {(2,): 0.8, (2, 0): 0.7, (2, 1): 0.9}[members])
    >>> members
    (2, 1)
    """
    chosen: tuple[int, ...] = ()
    best = -np.inf
    decisions = []
    for member in ranking:
        found = value((*chosen, member))
        is_added = not chosen or found >= best
        if is_added:
            chosen, best = (*chosen, member), found
        decisions.append(Decision(member, found, is_added))
    return chosen, tuple(decisions)


def moments(num_examples: int, model_state: Mapping[str, Any]) -> Moments:
    """Return what `Model.moments` gave of a batch with that many examples (mask true)."""
    flat = {name: np.asarray(leaf, np.float64) for name, leaf in tree.flatten(model_state).items()}
    return Moments(num_examples, _under(flat, MEAN), _under(flat, VAR))


def pool(left: Moments, right: Moments) -> Moments:
    """Return the moments of both sets of examples together (Chan et al. 1979, eq. 2.1).

    >>> ones, threes = (Moments(2, {"bn": np.array([value])}, {"bn": np.zeros(1)}) for value in (1.0, 3.0))
    >>> pool(ones, threes)
    Moments(num_examples=4, mean={'bn': array([2.])}, var={'bn': array([1.])})
    """
    total = left.num_examples + right.num_examples
    share = right.num_examples / total
    step = {name: right.mean[name] - before for name, before in left.mean.items()}
    var = {
        name: before + share * (right.var[name] - before) + share * (1 - share) * step[name] ** 2
        for name, before in left.var.items()
    }
    return Moments(total, {name: before + share * step[name] for name, before in left.mean.items()}, var)


def as_statistics(pooled: Moments) -> tree.Tree:
    """Return the moments as the running statistics of the model they were measured in, in float32."""
    flat = {f"{name}{MEAN}": leaf for name, leaf in pooled.mean.items()}
    flat |= {f"{name}{VAR}": leaf for name, leaf in pooled.var.items()}
    return tree.unflatten({name: leaf.astype(np.float32) for name, leaf in flat.items()})


def is_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Return whether two trees have the same leaves, bit for bit."""
    ours, theirs = tree.flatten(left), tree.flatten(right)
    return ours.keys() == theirs.keys() and all(
        np.asarray(leaf).tobytes() == np.asarray(theirs[name]).tobytes() for name, leaf in ours.items()
    )


def _between(start: Any, end: Any, alpha: float) -> np.ndarray:
    ends = np.asarray(start), np.asarray(end, np.float64)
    return ((1 - alpha) * ends[0].astype(np.float64) + alpha * ends[1]).astype(ends[0].dtype)


def _under(flat: Mapping[str, np.ndarray], ending: str) -> dict[str, np.ndarray]:
    return {name.removesuffix(ending): leaf for name, leaf in flat.items() if name.endswith(ending)}
