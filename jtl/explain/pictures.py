"""Pictures of explanations: the input as the model sees it, and the same under a map of what mattered."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MIN_SIDE, GAP = 224, 8
# How much of the picture shows through where the map is highest and lowest.
OPACITY = 0.65
# Dark blue, violet, orange, pale yellow: values that rise in lightness, so that grey prints tell them too.
COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)


def beside(pixels: UInt8[np.ndarray, "height width channels"], relevance: np.ndarray) -> Image.Image:
    """Return the input and, to its right, the overlay; small inputs enlarged."""
    seen, over = (Image.fromarray(each) for each in (as_rgb(pixels), overlaid(pixels, relevance)))
    scale = max(1, -(-MIN_SIDE // min(seen.size)))
    size = (seen.width * scale, seen.height * scale)
    whole = Image.new("RGB", (2 * size[0] + GAP, size[1]), "white")
    whole.paste(seen.resize(size, Image.Resampling.NEAREST), (0, 0))
    whole.paste(over.resize(size, Image.Resampling.BILINEAR), (size[0] + GAP, 0))
    return whole


def overlaid(
    pixels: UInt8[np.ndarray, "height width channels"], relevance: np.ndarray
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the input under the map, which is stretched over it: the highest value light, 0 clear."""
    height, width = pixels.shape[:2]
    heat = scaled(relevance, (height, width))
    colours = np.stack(
        [np.interp(heat, np.linspace(0, 1, len(COLOURS)), COLOURS[:, channel]) for channel in range(3)],
        axis=-1,
    )
    weight = OPACITY * heat[..., None] ** 0.5
    # Grey underneath: colour is the map's alone.
    grey = np.asarray(Image.fromarray(as_rgb(pixels)).convert("L"), np.float64)[..., None]
    return np.clip(grey * (1 - weight) + colours * weight, 0, 255).astype(np.uint8)


def scaled(relevance: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Return a map stretched to (height, width), what speaks against left out, the highest value 1.

    >>> scaled(np.array([[-1.0, 2.0]]), (1, 2)).tolist()
    [[0.0, 1.0]]
    """
    heat = np.maximum(np.asarray(relevance, np.float32), 0)
    stretched = Image.fromarray(heat).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    found = np.asarray(stretched, np.float64)
    return found / found.max() if found.max() > 0 else found


def as_rgb(pixels: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width 3"]:
    """Return three channels to look at: grey repeated, of more than three the first."""
    channels = pixels.shape[-1]
    return np.ascontiguousarray(pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, axis=-1))


def write(path: Path, pixels: Any, relevance: np.ndarray) -> None:
    """Write the picture as PNG."""
    beside(np.asarray(pixels), relevance).save(path)
