"""What the convolutional families read of a `config.json` from the hub."""

from collections.abc import Mapping
from typing import Any

from jtl.errors import UserError, shown


def refuse_others(values: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Raise UserError unless the settings that the file states have the only values jtl's models have."""
    for name, only in expected.items():
        if values.get(name, only) != only:
            raise UserError(
                f"config.json has {name} {shown(values[name])}; jtl has {what} with {only!r} only"
            )


def timm_image_px(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting for timm's input size, where it is stated.

    >>> timm_image_px({"pretrained_cfg": {"input_size": [3, 288, 288]}})
    {'image_px': (288, 288)}
    """
    size = values.get("pretrained_cfg", {}).get("input_size")
    return {"image_px": (int(size[1]), int(size[2]))} if size else {}
