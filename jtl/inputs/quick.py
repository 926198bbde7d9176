"""Training images decoded and resized by OpenCV (extra `fast`), where it is installed.

It decodes JPEG files to the very pixels of Pillow, whole or at 1/2, 1/4 and 1/8, in 0.4 times the time: both
are libjpeg-turbo. Its resizing takes 0.15 times the time and gives other pixels; so that is asked for.
"""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jtl.errors import UserError

# Beyond this reduction what lies between the pixels that are looked at would be lost: areas are averaged.
MAX_REDUCED = 1.5
MAX_CHANNELS = 4
UPRIGHT, ORIENTATION = 1, 0x0112
_MODES = ("RGB", "L")


def decoded(
    data: bytes, opened: Any, whole_size: tuple[int, int]
) -> UInt8[np.ndarray, "height width channels"] | None:
    """Return the pixels of a JPEG file as Pillow gives them; None: that is left to Pillow.

    `opened` is what Pillow opened, with the size at which it would decode, and `whole_size` that of the file.
    """
    library = _library()
    if library is None or opened.format != "JPEG" or opened.mode not in _MODES:
        return None
    if opened.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
        return None
    is_grey, reduced = opened.mode == _MODES[1], round(whole_size[0] / opened.size[0])
    kind = "GRAYSCALE" if is_grey else "COLOR"
    name = f"IMREAD_{kind}" if reduced == 1 else f"IMREAD_REDUCED_{kind}_{reduced}"
    flags = getattr(library, name) | library.IMREAD_IGNORE_ORIENTATION
    found = library.imdecode(np.frombuffer(data, np.uint8), flags)
    if found is None or found.shape[:2] != opened.size[::-1]:
        return None  # Pillow says what is wrong with it
    return found[..., None] if is_grey else library.cvtColor(found, library.COLOR_BGR2RGB)


def resized(
    image: UInt8[np.ndarray, "height width channels"],
    size: tuple[int, int],
    interpolation: str,
    box: tuple[int, int, int, int],
) -> UInt8[np.ndarray, "new_height new_width channels"]:
    """Return a crop (left, top, right, bottom) resized; strong reductions average areas."""
    library = required()
    left, top, right, bottom = box
    cut = image[top:bottom, left:right]
    reduced = max(cut.shape[0] / size[0], cut.shape[1] / size[1])
    methods = {"bilinear": library.INTER_LINEAR, "bicubic": library.INTER_CUBIC}
    method = methods[interpolation] if reduced <= MAX_REDUCED else library.INTER_AREA
    if cut.shape[-1] > MAX_CHANNELS:
        halves = np.split(image, [MAX_CHANNELS], axis=-1)
        return np.concatenate([resized(each, size, interpolation, box) for each in halves], axis=-1)
    return library.resize(cut, size[::-1], interpolation=method).reshape(*size, image.shape[-1])


def required() -> ModuleType:
    """Return OpenCV.

    Raises:
        UserError: it is not installed.
    """
    library = _library()
    if library is None:
        raise UserError(
            "augment.resizer is 'opencv', which is not installed; install the extra `fast` (pip install "
            "opencv-python-headless), or set augment.resizer=pillow"
        )
    return library


@cache
def _library() -> ModuleType | None:
    """Return OpenCV, with one thread a call: whole images are read side by side already."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]  # not a dependency
    except ImportError:
        return None
    cv2.setNumThreads(1)
    return cv2
