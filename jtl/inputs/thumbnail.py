"""What a report shows of an image, and other looks at one: small pictures for people, views for averaging."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from jtl.inputs import pixels
from jtl.inputs.contract import Glimpse, Inputs, map_leaves

# The longer side of a small picture; 48 of them are about 300 KB.
SIDE_PX, QUALITY = 176, 80


def glimpse(raw: bytes | np.ndarray, *, is_shown: bool = True) -> Glimpse:
    """Return a small JPEG of an image file's bytes or pixels, and its (width, height) upright.

    Raises:
        Unreadable: it cannot be decoded.
    """
    if isinstance(raw, bytes):
        width, height = pixels.size_of(raw)
    else:
        height, width = pixels.checked(raw).shape[:2]
    size = {"width": width, "height": height}
    if not is_shown:
        return Glimpse(size=size)
    return Glimpse(small(pixels.decode(raw, SIDE_PX) if isinstance(raw, bytes) else raw), size=size)


def small(image: np.ndarray) -> bytes:
    """Return pixels [height, width, channels] as a JPEG of at most `SIDE_PX` a side; never enlarged."""
    # Of other channels than grey and RGB the first is shown.
    shown = image if image.shape[-1] == 3 else image[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def flipped(images: Inputs) -> Inputs:
    """Return normalised images [batch, height, width, channels] seen in a mirror."""

    def mirrored(leaf: Any) -> Any:
        return leaf[:, :, ::-1]

    return map_leaves(mirrored, images)


VIEWS: Mapping[str, Callable[[Inputs], Inputs]] = {"flip": flipped}
