"""What a `config.json` says of a model, written: for each origin of names, what its library builds it by.

The way back of `of_config`. A function takes the family's settings, resolved, and gives the file without what
it says of classes; it refuses a model that the library has not got. References: transformers 5.24, timm
1.0.31.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.errors import UserError
from jtl.models import layers

Values = dict[str, Any]
Writer = Callable[[Any], Values]
GELUS = {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
TIMM_GELUS = {"exact": "gelu", "tanh": "gelu_tanh", "quick": "quick_gelu"}
# Of heads: what libraries build is linear, on the model's own features.
PLAIN_HEAD = {"features": (), "head_widths": (), "adapter": "none"}


def only(config: Any, library: str, expected: Mapping[str, Any]) -> None:
    """Raise UserError unless the settings have the only values that the library's models have."""
    for name, value in {**PLAIN_HEAD, **expected}.items():
        found = getattr(config, name)
        if found not in (value, None if value is False else value):
            raise UserError(
                f"model.{name} is {found!r}; {library} has such models with {value!r} only; choose another "
                f"--to"
            )


def one_or_two(sides: Any) -> int | list[int]:
    """Return a square's side, or height and width.

    >>> one_or_two((224, 224)), one_or_two((224, 448))
    (224, [224, 448])
    """
    height, width = layers.pair(sides)
    return height if height == width else [height, width]


def transformers(model_type: str, kind: str, **values: Any) -> Values:
    """Return the file for a class of transformers."""
    return {"model_type": model_type, "architectures": [kind], "dtype": "float32", **values}


def timm(architecture: str, **model_args: Any) -> Values:
    """Return the file for an architecture of timm, built with other arguments."""
    return {"architecture": architecture, "model_args": model_args}
