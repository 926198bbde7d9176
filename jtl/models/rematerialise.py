"""What the backward pass computes again instead of keeping it, by name: memory bought with time."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

NONE, FULL = "none", "full"


def of_blocks(block: type[nn.Module], policy: str) -> Any:
    """Return the module class of a block that keeps for its backward pass what the policy says."""
    wrap = POLICIES[policy]
    return block if wrap is None else wrap(block)


def as_now_written(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a model that were saved when `remat` was true or false."""
    saved = settings.get("remat")
    return {**settings, "remat": FULL if saved else NONE} if isinstance(saved, bool) else settings


def _is_product(primitive: Any, *_: Any, **params: Any) -> bool:
    """Return whether an operation's result is one of a layer: a product with a kernel, or a convolution.

    Attention's own products, of as many values as tokens by tokens, have batch dimensions.
    """
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    if primitive is not jax.lax.dot_general_p:
        return False
    _, (batch, _) = params["dimension_numbers"]
    return not batch


def _keeping_products(block: type[nn.Module]) -> Any:
    return nn.remat(block, policy=_is_product)


POLICIES: Mapping[str, Callable[[type[nn.Module]], Any] | None] = {
    NONE: None,
    "dots": _keeping_products,
    FULL: nn.remat,
}
