"""The contract every method of explanation keeps."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from jtl.models import Model


class Method(NamedTuple):
    """One way to say what a model's logit of a class hangs on.

    `is_offered(model)` is whether the model has what it looks at. `explain(predictor, values, inputs, blank,
    classes)` → relevance of the parts of each example's input, for use inside jit: inputs are normalised,
    `blank` are the same with nothing said in them, `classes` [batch] are those explained; the result is
    [batch, rows, columns] of a picture, [batch, tokens] of a text. `is_signed` is whether negative values
    speak against the class; otherwise there are none. `source` is the paper.
    """

    is_offered: Callable[[Model], bool]
    explain: Callable[..., Array]
    is_signed: bool
    source: str
