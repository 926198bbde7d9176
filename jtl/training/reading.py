"""Plain values, as a config file, the command line and JSON give them, as the annotated types of settings."""

import ast
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from jtl import files
from jtl.errors import UserError, nearest, shown

# What the parser of Python raises on text, beside ValueError: it is deep, or makes too large a value.
PARSE_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError)


def section(settings: type, given: Any, where: str) -> Any:
    """Return the settings of a section from a mapping of names to values; text is parsed by the field's type.

    Raises:
        UserError: a name is unknown or missing, or a value is of another type or out of range.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"config.{where} is {shown(given)}; expected a section with settings")
    hints = _types(settings)
    known = {each.name: each for each in fields(settings)}
    for key in given:
        if key not in known:
            raise UserError(f"unknown config key {where}.{cut(key)}; nearest: {nearest(str(key), known)}")
    missing = [name for name, each in known.items() if name not in given and each.default is MISSING]
    missing = [name for name in missing if known[name].default_factory is MISSING]
    if missing:
        raise UserError(f"config.{where} lacks {', '.join(missing)}")
    return settings(**{key: convert(value, hints[key], f"{where}.{key}") for key, value in given.items()})


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return the value as the annotated type; text is parsed unless the type is text.

    Raises:
        UserError: it is of another type.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(kind), where)
    if isinstance(value, str) and kind is not str:
        value = _parsed(value, where)
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(value, typing.get_args(kind), where)
    if typing.get_origin(kind) is dict:
        return _convert_dict(value, typing.get_args(kind), where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _as_float(value, where)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"config.{where} is {shown(value)}; expected {files.type_name(kind)}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"config.{where} is {shown(value)}; expected text without the character of code 0")
    return value


def cut(name: Any) -> str:
    """Return a name as it stands for a message, a long one cut."""
    text = shown(str(name))
    return text[1:-1] if text.endswith(text[0]) else text


@cache
def _types(settings: type) -> Mapping[str, Any]:
    """Return the type of every field, without its range."""
    return typing.get_type_hints(settings)


def _as_float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"config.{where} is {shown(value)}; expected a number, finite in float32") from error


def _convert_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """Return the value as the first member type that takes it; text last, so that numbers stay numbers."""
    if value is None and type(None) in kinds:
        return None
    for kind in sorted(kinds, key=lambda each: each is str):
        if kind is type(None):
            continue
        try:
            return convert(value, kind, where)
        except UserError:
            continue
    raise UserError(
        f"config.{where} is {shown(value)}; expected {' or '.join(files.type_name(kind) for kind in kinds)}"
    )


def _convert_tuple(value: Any, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"config.{where} is {shown(value)}; expected a tuple such as {_example(kinds)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(convert(each, kinds[0], where) for each in value)
    if len(value) != len(kinds):
        raise UserError(
            f"config.{where} is {shown(value)}; expected {len(kinds)} values such as {_example(kinds)}"
        )
    return tuple(convert(each, kind, where) for each, kind in zip(value, kinds, strict=True))


def _convert_dict(value: Any, kinds: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"config.{where} is {shown(value)}; expected a mapping such as {{'new': 'old'}}")
    return {convert(key, kinds[0], where): convert(each, kinds[1], where) for key, each in value.items()}


def _parsed(value: str, where: str) -> Any:
    lowered = {"true": True, "false": False, "none": None}
    if value.lower() in lowered:
        return lowered[value.lower()]
    try:
        return ast.literal_eval(value)
    except PARSE_ERRORS as error:
        raise UserError(
            f"config.{where} is {shown(value)}; expected a number, true, false, or a tuple in quotes"
        ) from error


def _example(kinds: tuple[Any, ...]) -> str:
    samples = {int: "1", float: "0.5", str: "'name'", bool: "True"}
    return f"({', '.join(samples.get(kind, '…') for kind in kinds if kind is not Ellipsis)},)"
