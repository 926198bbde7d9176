"""A pickle machine that cannot call anything: it reads the plain containers and tensors of PyTorch files.

The opcodes are parsed by the standard library's `pickletools`; here only those that build data are known, and
a global name is looked up in a table of our own inert stand-ins, never imported. Everything else is a
UserError.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jtl.errors import UserError

MAX_OPCODES = 20_000_000


class Inert(NamedTuple):
    """A Python object in a file that nothing here needs, such as the arguments of a training script."""

    name: str


class _Mark:
    """The stack's mark."""


MARK = _Mark()


class Machine(NamedTuple):
    """The state of one unpickling: stack, memo, and the tables that say what names and storages become."""

    stack: list[Any]
    memo: dict[int, Any]
    globals: Mapping[str, Callable[..., Any]]
    persistent: Callable[[Any], Any]
    what: str


def load(
    stream: Any, globals_: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any], what: str
) -> Any:
    """Return the one object pickled at the stream's position, which moves behind it.

    `globals_` maps 'module.name' to what stands in for it; `persistent` turns a persistent id into an object;
    `what` names the file in errors. The stream has `read`, `readline` and `tell`, and bounds what it gives (a
    map, BytesIO).

    Raises:
        UserError: the pickle is damaged, or holds or asks for anything but data.
    """
    machine = Machine([], {}, globals_, persistent, what)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name == "STOP":
                return _pop(machine)
            if opcode.name not in OPCODES or count > MAX_OPCODES:
                raise UserError(
                    f"{what} holds the pickle opcode {opcode.name}, which no weights need; {REFUSED}"
                )
            OPCODES[opcode.name](machine, argument)
    except UserError:
        raise
    except FAULTS as error:
        raise UserError(
            f"{what} holds a damaged pickle ({type(error).__name__}: {error}); get it again"
        ) from error
    raise UserError(f"{what} holds a pickle without an end: truncated? Get it again")


def _pop(machine: Machine) -> Any:
    """Remove and return the top of the stack; a mark there is a fault."""
    value = machine.stack.pop()
    if value is MARK:
        raise IndexError("a mark where a value should be")
    return value


def _pop_mark(machine: Machine) -> list[Any]:
    """Remove everything above the last mark, and the mark, and return it."""
    position = max(index for index, value in enumerate(machine.stack) if value is MARK)
    values = machine.stack[position + 1 :]
    del machine.stack[position:]
    return values


def _global(machine: Machine, name: Any) -> None:
    if name not in machine.globals:
        raise UserError(
            f"{machine.what} wants to call or build {name!r}, which weights do not need; {REFUSED}"
        )
    _push(machine, machine.globals[name])


def _stack_global(machine: Machine, argument: Any) -> None:
    name, module = _pop(machine), _pop(machine)
    _global(machine, f"{module}.{name}")


def _call(machine: Machine, argument: Any) -> None:
    arguments, function = _pop(machine), _pop(machine)
    # Values on the stack are data; only what came from our own table may be called.
    if not any(function is known for known in machine.globals.values()) or type(arguments) is not tuple:
        raise UserError(
            f"{machine.what} wants to call {type(function).__name__!r} data as a function; {REFUSED}"
        )
    _push(machine, function(*arguments))


def _build(machine: Machine, argument: Any) -> None:
    """Drop an object's state: neither stand-ins nor ordered dicts need theirs."""
    _pop(machine)
    if machine.stack[-1] is MARK:
        raise IndexError("a mark where an object should be")


def _append_all(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is not list:
        raise TypeError(f"items for a list given to {type(target).__name__}")
    target.extend(values)


def _set_all(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is Inert:
        return
    if type(target) is not dict:
        raise TypeError(f"items for a dict given to {type(target).__name__}")
    target.update(_pairs(values))


def _pairs(values: list[Any]) -> dict[Any, Any]:
    # Only plain keys: hashing nested tuples that share their parts takes time exponential in their depth.
    for key in values[::2]:
        if not isinstance(key, str | int | float | None):
            raise TypeError(f"a dict key of type {type(key).__name__}")
    return dict(zip(values[::2], values[1::2], strict=True))


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def build(machine: Machine, argument: Any) -> None:
        machine.stack.append(tuple(reversed([_pop(machine) for _ in range(count)])))

    return build


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


FAULTS = (LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)
REFUSED = "nothing was run. Save the tensors alone (a state_dict, best as safetensors) to use them"
OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": lambda machine, argument: _push(machine, MARK),
    "POP": lambda machine, argument: machine.stack.__delitem__(-1),
    "NONE": lambda machine, argument: _push(machine, None),
    "NEWTRUE": lambda machine, argument: _push(machine, True),
    "NEWFALSE": lambda machine, argument: _push(machine, False),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        ),
        _push,
    ),
    "EMPTY_LIST": lambda machine, argument: _push(machine, []),
    "EMPTY_DICT": lambda machine, argument: _push(machine, {}),
    "EMPTY_TUPLE": lambda machine, argument: _push(machine, ()),
    "EMPTY_SET": lambda machine, argument: _push(machine, []),
    "LIST": lambda machine, argument: _push(machine, _pop_mark(machine)),
    "DICT": lambda machine, argument: _push(machine, _pairs(_pop_mark(machine))),
    "TUPLE": lambda machine, argument: _push(machine, tuple(_pop_mark(machine))),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda machine, argument: _append_all(machine, [_pop(machine)]),
    "APPENDS": lambda machine, argument: _append_all(machine, _pop_mark(machine)),
    "ADDITEMS": lambda machine, argument: _append_all(machine, _pop_mark(machine)),
    "SETITEM": lambda machine, argument: _set_all(machine, [_pop(machine), _pop(machine)][::-1]),
    "SETITEMS": lambda machine, argument: _set_all(machine, _pop_mark(machine)),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda machine, argument: _put(machine, len(machine.memo)),
    "BINGET": lambda machine, index: _push(machine, machine.memo[index]),
    "LONG_BINGET": lambda machine, index: _push(machine, machine.memo[index]),
    # pickletools gives a GLOBAL's module and name with a space between them.
    "GLOBAL": lambda machine, argument: _global(machine, ".".join(argument.split(" ", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": lambda machine, argument: _push(machine, machine.persistent(_pop(machine))),
}
