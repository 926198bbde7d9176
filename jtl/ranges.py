"""What is declared of a setting in its annotation: its range, and where it has an effect.

Ranges are checked wherever a dataclass of settings is made; what has no effect is said before a run.

`rank: Annotated[int, Range(1)] = 8`, or by one of the names below: `rank: Count = 8`. Whatever the range, a
number is finite as float32 and a count fits in int32: JAX counts and computes in these.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeAlias

from jtl.errors import UserError, shown

FLOAT32_MAX = 3.4028234e38
INT32_MAX = 2**31 - 1
MAX_WIDTH = 2**20


class Range(NamedTuple):
    """The numbers from `low` to `high`, the ends included but for those that are `above` and `below`.

    Without an end there is none but that of the number's type.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether the value is in the range; nan never is.

        >>> Range(above=0).holds(float("nan")), Range(0, 2).holds(2), Range(0, below=2).holds(2)
        (False, True, False)
        """
        ends = (
            self.low is None or value >= self.low,
            self.high is None or value <= self.high,
            self.above is None or value > self.above,
            self.below is None or value < self.below,
        )
        return all(ends) and value == value  # nan is not itself

    def described(self) -> str:
        """Return what is expected, for a message.

        >>> Range(0).described(), Range(above=0).described(), Range(above=0, high=1).described()
        ('0 or more', 'a positive number', '0 < value <= 1')
        """
        is_upward = self.high is None and self.below is None
        if is_upward and self.above == 0:
            return "a positive number"
        if is_upward and self.low is not None:
            return f"{self.low:,.10g} or more"
        parts = (
            "" if self.low is None else f"{self.low:.10g} <= ",
            "" if self.above is None else f"{self.above:.10g} < ",
            "value",
            "" if self.below is None else f" < {self.below:.10g}",
            "" if self.high is None else f" <= {self.high:.10g}",
        )
        return "".join(parts) if any((parts[0], parts[1], parts[3], parts[4])) else "a number"


class ReadIf(NamedTuple):
    """A setting is read only where another of its section is one of `values` (none: where it is set at all).

    Of several such conditions one is enough.
    """

    setting: str
    values: tuple[Any, ...] = ()

    def holds(self, settings: Any) -> bool:
        """Return whether the other setting is such."""
        value = getattr(settings, self.setting)
        return value in self.values if self.values else bool(value)

    def described(self, section: str) -> str:
        """Return the condition for a message."""
        known = " or ".join(shown(each) for each in self.values)
        return f"{section}.{self.setting} is {known}" if known else f"{section}.{self.setting} is set"


Positive: TypeAlias = Annotated[float, Range(above=0)]
NotNegative: TypeAlias = Annotated[float, Range(0)]
# A part of something that is never all of it, and one that may be.
Fraction: TypeAlias = Annotated[float, Range(0, below=1)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
Count: TypeAlias = Annotated[int, Range(1)]
CountOr0: TypeAlias = Annotated[int, Range(0)]
# What the shapes of parameters are made of.
Width: TypeAlias = Annotated[int, Range(1, MAX_WIDTH)]
WidthOr0: TypeAlias = Annotated[int, Range(0, MAX_WIDTH)]
# Of layers, one behind another.
Depth: TypeAlias = Annotated[int, Range(0, 10_000)]
# What is added to a variance.
Epsilon: TypeAlias = Annotated[float, Range(above=0, below=1)]
Number: TypeAlias = Annotated[float, Range()]


def check(settings: Any, section: str) -> None:
    """Check every number of a dataclass of settings, those in tuples and mappings too.

    Raises:
        UserError: one is out of its range; it is named as the `section` has it.
    """
    hints = annotations(type(settings))
    for each in fields(settings):
        value = getattr(settings, each.name)
        _check(value, hints[each.name], f"{section}.{each.name}", value)


def unused(settings: Any, section: str) -> list[str]:
    """Return a line for each setting that is not at its default and that nothing reads beside the others."""
    hints, lines = annotations(type(settings)), []
    for each in fields(settings):
        value = getattr(settings, each.name)
        args = typing.get_args(hints[each.name]) if typing.get_origin(hints[each.name]) is Annotated else ()
        conditions = [arg for arg in args if isinstance(arg, ReadIf)]
        if conditions and value != each.default and not any(one.holds(settings) for one in conditions):
            where = ", or ".join(one.described(section) for one in conditions)
            lines.append(
                f"{section}.{each.name} is {shown(value)}, which has no effect: it is read where {where}"
            )
    return lines


@cache
def annotations(settings: type) -> Mapping[str, Any]:
    """Return the annotation of every field, with its range."""
    return typing.get_type_hints(settings, include_extras=True)


def _check(value: Any, hint: Any, where: str, whole: Any) -> None:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [each for each in args[1:] if isinstance(each, Range)]
        for each in ranges if _is_number(value) else ():
            _check_range(value, each, where, whole)
        _check(value, args[0], where, whole)
    elif origin in (typing.Union, types.UnionType):
        member = next((each for each in args if _is_of(value, each)), None)
        if member is not None:
            _check(value, member, where, whole)
    elif origin is tuple and isinstance(value, tuple):
        if args == (str, ...):
            _check_distinct(value, where)
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        for each, kind in zip(value, kinds, strict=False):
            _check(each, kind, where, whole)
    elif origin is dict and isinstance(value, Mapping):
        for each in value.values():
            _check(each, args[1], where, whole)


def _check_distinct(names: tuple[str, ...], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where} names {shown(twice)} twice; expected each once")


def _check_range(value: float, expected: Range, where: str, whole: Any) -> None:
    largest = INT32_MAX if isinstance(value, int) else FLOAT32_MAX
    if isinstance(value, int) and expected.high is not None:
        largest = max(largest, expected.high)
    is_small = -largest <= value <= largest
    if is_small and expected.holds(value):
        return
    kind = f"at most {INT32_MAX:,}" if isinstance(value, int) else "finite in float32"
    limit = "" if is_small or value != value or expected.high is not None else f", {kind}"
    each = "" if whole is value else " for each"
    raise UserError(f"{where} is {shown(whole)}; expected {expected.described()}{limit}{each}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_of(value: Any, hint: Any) -> bool:
    """Return whether a value can be of an annotation, by its outermost type."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    kind = typing.get_origin(hint) or hint
    if kind is float:
        return _is_number(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
