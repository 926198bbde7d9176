"""What closes after an error: it is always tried, and never hides the error."""

import pytest

from jtl.errors import UserError, at_end


def _fail() -> None:
    raise OSError("disk full")


def test_error_of_the_block_is_raised_and_that_of_closing_is_a_note_on_it() -> None:
    with pytest.raises(UserError, match="the cause") as caught, at_end(_fail):
        raise UserError("the cause")
    assert caught.value.__notes__ == ["and then closing failed: OSError: disk full"]


def test_fault_of_closing_is_raised_where_nothing_came_before() -> None:
    with pytest.raises(OSError, match="disk full"), at_end(_fail):
        pass


@pytest.mark.parametrize("cause", [UserError, KeyboardInterrupt])
def test_everything_is_closed_whatever_came_before_from_the_inside_out(cause: type[BaseException]) -> None:
    closed: list[str] = []
    with (
        pytest.raises(cause),
        at_end(lambda: closed.append("outer")),
        at_end(_fail),
        at_end(lambda: closed.append("inner")),
    ):
        raise cause
    assert closed == ["inner", "outer"]
