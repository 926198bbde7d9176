"""How images are kept read: decoded, upright, uint8, each in its own shape, at most so large.

The short side is as long as the smallest crop of training needs it not to be enlarged, and no more than
`MAX_ENLARGED` times the input; smaller images stay as they are. Crops of images that were not shrunk are bit
for bit those of the files; of shrunk ones docs/images.md says what is lost.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import PIL

from jtl.inputs import image
from jtl.inputs.contract import Storage
from jtl.inputs.preprocess import Preprocess

# Counts what changes the pixels that are kept.
VERSION = 1
MAX_ENLARGED = 2


def storage(preprocess: Preprocess, augment: image.Augment) -> Storage:
    """Return how images that are varied so are kept."""
    side = stored_px(preprocess, augment)
    channels = preprocess.num_channels
    decides = (VERSION, PIL.__version__, side, channels, preprocess.white_level, preprocess.background)
    return Storage(
        decides=json.dumps(decides),
        described=f"short side at most {side} px",
        read=_Read(preprocess, side),
        pack=partial(_pack, preprocess, augment),
    )


def stored_px(preprocess: Preprocess, augment: image.Augment) -> int:
    """Return the short side of images as they are kept.

    >>> stored_px(Preprocess((224, 224)), image.Augment())
    438
    >>> stored_px(Preprocess((224, 224)), image.Augment(crop_scale=(0.08, 1.0)))
    448
    """
    return min(image.least_px(preprocess, augment), MAX_ENLARGED * max(preprocess.image_px))


def _pack(
    preprocess: Preprocess, augment: image.Augment, examples: Sequence[np.ndarray]
) -> tuple[Any, Callable[..., Any]]:
    from jtl.inputs import resident

    return resident.pack(preprocess, augment, examples)


@dataclass(frozen=True)
class _Read:
    """Pixels of an example as they are kept; grey ones with one channel, whatever the model reads."""

    preprocess: Preprocess
    side: int

    def __call__(self, raw: Any) -> np.ndarray:
        found = image.pixels_of(raw, self.preprocess, self.side, is_quick=True)
        if found.shape[-1] != 1:
            found = image.to_channels(found, self.preprocess.num_channels)
        height, width = found.shape[:2]
        ratio = min(height, width) / self.side
        if ratio <= 1:
            return found
        size = (math.floor(height / ratio + 0.5), math.floor(width / ratio + 0.5))
        return image.resized(found, size, "bicubic")
