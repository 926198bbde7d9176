"""What closes after an error never hides it; what a library raises over a user's file becomes one line."""

import pytest

from jtl.errors import UserError, at_end, reading


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


class PanicException(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("token"), "the file is damaged (KeyError: 'token'); get it again"),
        (
            PanicException("no entry found\nfor key"),
            "the file is damaged (PanicException: no entry found)",
        ),
        (ValueError("x" * 5000), f"the file is damaged (ValueError: {'x' * 240}); get it again"),
        (MemoryError(), "the file wants more memory than there is"),
        (
            PermissionError(13, "Permission denied"),
            "the file cannot be read (Permission denied)",
        ),
        (UserError("known"), "known"),
    ],
)
def test_every_fault_is_one_line(error: BaseException, message: str) -> None:
    with pytest.raises(UserError) as caught, reading("the file"):
        raise error
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_signals_and_exits_pass(error: type[BaseException]) -> None:
    with pytest.raises(error), reading("the file"):
        raise error
