"""What every settings class keeps, whatever is written into it: accepted and finite, or refused by name."""

import json
import math
import typing
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Annotated, Any

import pytest

from jtl import ranges
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.ranges import Range
from jtl.training import reading
from tests.test_settings import settings_classes

MAX_MESSAGE = 900
NEEDED = {"data tfds": {"dataset": "cars"}}
NUMBERS = (math.nan, math.inf, -math.inf, -1, -1.5, 0, 0.0, 1, 10**12, 10**30, 10**400, 1e30, 1e300, 1 + 2j)
TEXTS = ("", " ", "x" * 10_000, "9" * 5_000, "(" * 6_000, "-" * 6_000, "1e999", "nan", "0x" + "f" * 5_000)
TEXTS = (*TEXTS, "{[]: 1}", "a\nb", "\x00", "\udcff")
OTHERS = (True, None, b"x", object(), [], (), {}, {"a": math.nan}, {5: 6}, {"x" * 5_000: "x"})
TUPLES = ((math.nan,), (-1,), (0, 0), (1, 1), ("",), (None, None), (10**30,), ((1,),), (("a", math.inf),))
VALUES = (*NUMBERS, *TEXTS, *OTHERS, *TUPLES, (1e999, 1.0), "(1e999, 1.0)", "[" * 100 + "]" * 100)


def sections() -> dict[str, tuple[str, type]]:
    """The section and the settings class of everything there is, by where it stands."""
    found = {}
    for where, settings in settings_classes().items():
        found[where] = (where.partition(" ")[0], settings)
    for name, kind in INPUTS.items():
        found[f"augment {name}"] = ("augment", kind.Augment)
        found[f"preprocess {name}"] = ("preprocess", kind.Changes)
    return found


SECTIONS = sections()


@pytest.mark.parametrize("where", SECTIONS)
def test_any_value_of_a_setting_is_accepted_and_finite_or_refused_by_name(where: str) -> None:
    section, settings = SECTIONS[where]
    for each in fields(settings):
        for value in VALUES:
            try:
                read = reading.section(settings, {**NEEDED.get(where, {}), each.name: value}, section)
            except UserError as error:
                message = str(error)
                assert f"{section}.{each.name}" in message, (each.name, value, message)
                assert len(message) < MAX_MESSAGE, (each.name, len(message))
                continue
            for number in numbers(getattr(read, each.name)):
                assert math.isfinite(number), (each.name, value)
                assert abs(number) <= ranges.FLOAT32_MAX, (each.name, value)
            again = reading.section(settings, json.loads(json.dumps(asdict(read))), section)
            assert again == read, (each.name, value)


@pytest.mark.parametrize("where", SECTIONS)
def test_every_number_among_the_settings_has_a_range(where: str) -> None:
    _, settings = SECTIONS[where]
    hints = ranges.annotations(settings)
    assert [each.name for each in fields(settings) if list(without_range(hints[each.name]))] == []


def test_a_number_without_a_range_is_found() -> None:
    assert list(without_range(tuple[int, ranges.Count] | None)) == [int]
    assert list(without_range(dict[str, float])) == [float]
    assert list(without_range(Annotated[float, Range(0)])) == []


def without_range(hint: Any) -> Iterator[Any]:
    """The number types of an annotation for which no range is declared."""
    if typing.get_origin(hint) is Annotated:
        kind, *declared = typing.get_args(hint)
        if not any(isinstance(each, Range) for each in declared):
            yield from without_range(kind)
        return
    if hint in (int, float):
        yield hint
    for each in typing.get_args(hint):
        yield from without_range(each)


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a value, in tuples and mappings too."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
