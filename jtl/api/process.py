"""A Python process that jtl works in, and settings as Python gives them."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from jtl import memory, runtime
from jtl.errors import UserError


def prepare() -> None:
    """Set what jax reads when it is imported, as the command line does; nothing where it is imported already.

    The memory allocator is left alone: the process belongs to the caller.

    Raises:
        UserError: `ulimit -v` leaves too little for the libraries.
    """
    if "jax" not in sys.modules:
        memory.check_room()
        runtime.prepare()


def overrides(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings, by section or by dotted name, as the command line gives them.

    >>> overrides({"optim": {"learning_rate": 1e-3}, "train.seed": 1, "baseline": True})
    [('optim.learning_rate', '0.001'), ('train.seed', '1'), ('baseline', 'True')]
    """
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        is_section = isinstance(value, Mapping) and "." not in name
        own = {f"{name}.{key}": each for key, each in value.items()} if is_section else {name: value}
        found += [(key, _text(each)) for key, each in own.items()]
    return found


def _text(value: Any) -> str:
    """Return a value as it is written on the command line.

    >>> _text("lora"), _text((0.5, 1)), _text([1, 2])
    ('lora', '(0.5, 1)', '[1, 2]')

    Raises:
        UserError: it is nothing that can be written there.
    """
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if value is not None and not isinstance(value, bool | int | float | tuple | list | Mapping):
        raise UserError(
            f"a setting is a {type(value).__name__}; expected text, a number, True, False, None, or a tuple, "
            f"list or dict of them"
        )
    return repr(value)
