"""What a library raises while it reads a user's file becomes one line; signals and exits do not."""

import pytest

from jtl.errors import UserError, reading


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
        (ValueError("x" * 5000), f"the file is damaged (ValueError: {'x' * 200}); get it again"),
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
