import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError

PARAMS = {
    "stem": {"kernel": np.ones((2, 3), np.float32)},
    "head": {"kernel": np.zeros((3,)), "bias": np.zeros(())},
}


def test_unflatten_inverts_flatten() -> None:
    assert tree.unflatten(tree.flatten(PARAMS)).keys() == PARAMS.keys()
    assert list(tree.flatten(PARAMS)) == ["stem/kernel", "head/kernel", "head/bias"]


def test_merge_inverts_split_and_no_leaf_is_in_both() -> None:
    selected, rest = tree.split(PARAMS, lambda name: "kernel" in name)
    assert set(tree.flatten(selected)) == {"stem/kernel", "head/kernel"}
    assert set(tree.flatten(rest)) == {"head/bias"}
    assert tree.flatten(tree.merge(selected, rest)).keys() == tree.flatten(PARAMS).keys()


def test_merge_refuses_a_leaf_that_is_in_two_trees() -> None:
    with pytest.raises(AssertionError):
        tree.merge(PARAMS, {"head": {"bias": 1}})


def test_first_match_takes_the_first_pattern_and_none_without_a_match() -> None:
    found = tree.first_match(["^head/kernel", "head"], tree.flatten(PARAMS), "rules")
    assert found == {"stem/kernel": None, "head/kernel": "^head/kernel", "head/bias": "head"}


def test_pattern_that_matches_nothing_names_itself_and_its_nearest() -> None:
    with pytest.raises(
        UserError, match=r"strategy.rules 'haed/kernel' matches no parameter; nearest: 'head/kernel'"
    ):
        tree.first_match(["haed/kernel"], tree.flatten(PARAMS), "strategy.rules")


def test_pattern_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(UserError, match="is not a regular expression"):
        tree.first_match(["("], tree.flatten(PARAMS), "strategy.rules")


def test_sizes_count_scalars_and_bytes() -> None:
    assert tree.num_values(PARAMS) == 10
    assert tree.num_bytes(PARAMS) == 6 * 4 + 4 * 8


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": np.array([1.0, 2.5])},
        {"kernel": np.array([2.0, 1.0])},
        {"kernel": np.array([[1.0, 2.0]])},
        {"kernel": np.array([1.0, 2.0], np.float32)},
        {"bias": np.array([1.0, 2.0])},
    ],
)
def test_sha256_changes_with_value_order_shape_dtype_and_name(changed: dict) -> None:
    assert tree.sha256({"kernel": np.array([1.0, 2.0])}) != tree.sha256(changed)


def test_sha256_does_not_depend_on_the_order_of_the_leaves() -> None:
    first, second = np.ones(2), np.zeros(3)
    assert tree.sha256({"a": first, "b": second}) == tree.sha256({"b": second, "a": first})
