"""Floating-point operations of a traced program, which nothing is compiled for.

Those of its matrix products and convolutions: they are nearly all that a step of a model takes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def counted(program: Any) -> int:
    """Return the operations of a program (a jaxpr), a multiplication and an addition as two.

    What a loop runs counts as often as it is run, where that stands in the program, else once; what nothing
    is made of does not count, as no compiler leaves it.
    """
    total, needed = 0, {id(each) for each in program.outvars}
    for operation in reversed(program.eqns):
        if not any(id(each) in needed for each in operation.outvars):
            continue
        needed |= {id(each) for each in operation.invars}
        count = COUNTS.get(operation.primitive.name)
        if count is not None:
            total += count(operation)
        times = operation.params.get("length", 1)
        total += sum(times * counted(inner) for inner in _inner(operation))
    return total


def _product(operation: Any) -> int:
    """Return the operations of `dot_general`: each output sums over the contracted dims."""
    (contracted, _), _ = operation.params["dimension_numbers"]
    left = operation.invars[0].aval.shape
    return 2 * operation.outvars[0].aval.size * math.prod(left[dim] for dim in contracted)


def _convolution(operation: Any) -> int:
    """Return the operations of a convolution: each output sums over a window of one group's channels."""
    numbers, kernel = operation.params["dimension_numbers"], operation.invars[1].aval.shape
    num_outputs = kernel[numbers.rhs_spec[0]]
    return 2 * operation.outvars[0].aval.size * math.prod(kernel) // num_outputs


def _inner(operation: Any) -> Iterator[Any]:
    """Yield the programs that an operation runs."""
    for value in operation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            found = getattr(each, "jaxpr", each)
            if hasattr(found, "eqns"):
                yield found


COUNTS: Mapping[str, Callable[[Any], int]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
