"""The laws of DESIGN.md for every strategy on one family: all pairs would compile for ten minutes."""

import pytest

from jtl.strategies import STRATEGIES
from tests import laws

PAIRS = [("vit", name) for name in STRATEGIES]
# Three phases are three programs; inner steps are written out, each with its gradient of a gradient. Of those
# that learn from unlabelled examples one with a memory and the one with an average stand for the others.
SLOW = [("vit", name) for name in ("gradual", "maml", "reptile", "fix_match", "free_match", "pseudo_label")]


@pytest.fixture(params=laws.marked(PAIRS, SLOW), ids="-".join, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def trained(pair: tuple[str, str]) -> laws.Trained:
    return laws.train(*pair)


class TestStrategies(laws.Laws):
    """Every strategy on images."""
