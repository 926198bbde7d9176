"""Resizing of images of 8 bits on the host: by Pillow, antialiased, or by OpenCV where that is asked for."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from jtl.inputs import quick

# Modes of Pillow by number of channels.
LUMA = {1: "L", 3: "RGB"}
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resized(
    image: np.ndarray,
    size: tuple[int, int],
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize with antialiasing; channels do not mix, so any number of them can go one plane at a time."""
    if image.shape[-1] in LUMA:
        found = to_pillow(image).resize((size[1], size[0]), _RESAMPLE[interpolation], box)
        return np.asarray(found).reshape(*size, image.shape[-1])
    planes = [resized(plane[..., None], size, interpolation, box) for plane in np.moveaxis(image, -1, 0)]
    return np.concatenate(planes, axis=-1)


def to_pillow(image: np.ndarray) -> Image.Image:
    """Return the image as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))


def _ready() -> None:
    """Do nothing: what is a dependency is there."""


# What resizes the crops of training, and what raises UserError where that is not installed.
RESIZERS: dict[str, tuple[Callable[..., np.ndarray], Callable[[], object]]] = {
    "pillow": (resized, _ready),
    "opencv": (quick.resized, quick.required),
}
