"""Names of the plain convolutional network: jtl's own alone, for libraries have no names for it in common."""

from collections.abc import Mapping
from typing import Any

from jtl.models import conv_net
from jtl.weights.contract import FamilyNames

INPUT_KERNEL = "params/block1/conv/kernel"
PREFIX, SUFFIX = "params/block", "/conv/kernel"


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the network with these leaves; None where they are none of its."""
    if INPUT_KERNEL not in shapes:
        return None
    blocks = sum(name.startswith(PREFIX) and name.endswith(SUFFIX) for name in shapes)
    found = {"blocks": blocks, "width": shapes[INPUT_KERNEL][-1]}
    for name, size in conv_net.SIZES.items():
        if size == found:
            return {"size": name}, f"Conv-{name}"
    return {"size": "4", **found}, f"convolutional network of {blocks} blocks"


NAMES = FamilyNames(
    origins={},
    marker=INPUT_KERNEL,
    recognise=recognise,
    input_kernel=INPUT_KERNEL,
)
