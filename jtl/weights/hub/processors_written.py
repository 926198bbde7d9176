"""How an image becomes an input, for others: `preprocessor_config.json`, timm's part of `config.json`.

The way back of `processors`; what neither can say is told.
"""

import math
from typing import Any

from jtl.inputs.preprocess import Preprocess

RESAMPLE = {"bilinear": 2, "bicubic": 3}
# The side of a crop that `int((found - wanted) / 2)` and `round` put one pixel apart, of four.
HALF_DOWN = (
    "transformers cuts the centre one pixel further up or left than timm, torchvision and jtl where a side "
    "leaves 3, 7, 11, … pixels"
)
NO_WHITE = "pictures of more than 8 bits are scaled by their white level, which the file cannot say"
NO_GROUND = "transparent pixels are laid on a grey, which the file cannot say"


def huggingface(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """Return what `preprocessor_config.json` says, and what it cannot say.

    >>> values, lost = huggingface(Preprocess((224, 224), 0))
    >>> values["image_processor_type"], values["size"], lost
    ('ViTImageProcessor', {'height': 224, 'width': 224}, [])
    """
    height, width = preprocess.image_px
    sides = {"height": height, "width": width}
    lost: list[str] = []
    if preprocess.resize_px == 0:
        kind, geometry = "ViTImageProcessor", {"size": sides}
    elif preprocess.is_squashed:
        squashed = [side * preprocess.resize_px // min(preprocess.image_px) for side in (height, width)]
        size = dict(zip(("height", "width"), squashed, strict=True))
        kind, geometry = "DeiTImageProcessor", {"size": size, "do_center_crop": True, "crop_size": sides}
    else:
        kind = "CLIPImageProcessor"
        geometry = {
            "size": {"shortest_edge": preprocess.resize_px},
            "do_center_crop": True,
            "crop_size": sides,
        }
        lost = [HALF_DOWN] if preprocess.resize_px >= min(height, width) else []
    values = {
        "image_processor_type": kind,
        "do_resize": True,
        **geometry,
        "resample": RESAMPLE[preprocess.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    return values, [*lost, *_lost(preprocess)]


def timm(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """Return what timm's `pretrained_cfg` says, and what it cannot say.

    >>> values, lost = timm(Preprocess((224, 224), 248))
    >>> values["crop_pct"], values["crop_mode"], lost
    (0.903, 'center', [])
    """
    height, width = preprocess.image_px
    is_whole = preprocess.resize_px == 0
    values = {
        "input_size": [preprocess.num_channels, height, width],
        "fixed_input_size": True,
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0 if is_whole else _crop_pct(min(height, width), preprocess.resize_px),
        "crop_mode": "squash" if is_whole or preprocess.is_squashed else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
    return values, _lost(preprocess)


def _crop_pct(side: int, resize_px: int) -> float:
    """Return the shortest fraction from which timm gets that size again: floor(side / fraction)."""
    for digits in range(3, 8):
        found = round(side / resize_px, digits)
        if math.floor(side / found) == resize_px:
            return found
    return side / (resize_px + 0.5)


def _lost(preprocess: Preprocess) -> list[str]:
    white = [NO_WHITE] if preprocess.white_level else []
    return white + ([] if preprocess.background is None else [NO_GROUND])
