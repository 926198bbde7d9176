"""jtl: transfer learning in JAX, from pretrained weights to a model that is good at your own task.

`import jtl` loads no library: what it offers is looked up where it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.api.finetune import finetune
    from jtl.api.model import Model, load
    from jtl.api.records import Explanation, Prediction, Predictions

__version__ = "0.1.0"
__all__ = ["Explanation", "Model", "Prediction", "Predictions", "finetune", "load"]

_PLACES = {
    "finetune": "finetune",
    **dict.fromkeys(("Model", "load"), "model"),
    **dict.fromkeys(("Explanation", "Prediction", "Predictions"), "records"),
}


def __getattr__(name: str) -> Any:
    """Return what is offered under a name."""
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module 'jtl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jtl.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
