"""Colour and geometry operations on training images, and the policies that choose among them.

RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller and Hutter 2021, the wide space). Every operation
takes an image and a strength in [-1, 1] or [0, 1]; its reach is in the tables below.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 10.0


class Operation(NamedTuple):
    """`apply(image, level)`; the level at full strength is `reach`, of either sign if `is_signed`."""

    apply: Callable[[Image.Image, float], Image.Image]
    reach: float = 0.0
    is_signed: bool = False


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Scale brightness, contrast and saturation by factors within `strength` of 1, in random order."""
    for place in rng.permutation(len(_JITTER)):
        image = _JITTER[place](image, rng.uniform(-strength, strength))
    return image


def none(image: Image.Image, rng: np.random.Generator, *, num_ops: int, magnitude: float) -> Image.Image:
    """Return the image as it is."""
    del rng, num_ops, magnitude
    return image


def randaugment(
    image: Image.Image, rng: np.random.Generator, *, num_ops: int, magnitude: float
) -> Image.Image:
    """Apply `num_ops` random operations, all at `magnitude` of `MAX_MAGNITUDE`."""
    for _ in range(num_ops):
        image = _apply_random(RANDAUGMENT, image, magnitude / MAX_MAGNITUDE, rng)
    return image


def trivialaugment(
    image: Image.Image, rng: np.random.Generator, *, num_ops: int, magnitude: float
) -> Image.Image:
    """Apply one random operation at a random strength."""
    del num_ops, magnitude
    return _apply_random(TRIVIALAUGMENT, image, rng.random(), rng)


POLICIES: dict[str, Callable[..., Image.Image]] = {
    "none": none,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}


def _apply_random(
    operations: Mapping[str, Operation], image: Image.Image, strength: float, rng: np.random.Generator
) -> Image.Image:
    operation = list(operations.values())[rng.integers(len(operations))]
    sign = rng.choice((-1.0, 1.0)) if operation.is_signed else 1.0
    return operation.apply(image, float(sign * strength * operation.reach))


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _shear_x(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, (1, level, -level * image.height / 2, 0, 1, 0))


def _shear_y(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, (1, 0, 0, level, 1, -level * image.width / 2))


def _translate_x(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, (1, 0, level * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, level * image.height))


def _rotate(image: Image.Image, level: float) -> Image.Image:
    return image.rotate(level, Image.Resampling.BILINEAR)


def _brightness(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + level)


def _contrast(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + level)


def _saturation(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + level)


def _sharpness(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + level)


def _posterize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(level))


def _solarize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.solarize(image, round(256 - level))


def _autocontrast(image: Image.Image, level: float) -> Image.Image:
    del level
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, level: float) -> Image.Image:
    del level
    return ImageOps.equalize(image)


def _identity(image: Image.Image, level: float) -> Image.Image:
    del level
    return image


_JITTER = (_brightness, _contrast, _saturation)

# At full strength: shears as a slope, translations as a part of the side, rotations in degrees, colours as a
# factor's distance from 1, posterize in bits dropped, solarize as the brightest part inverted.
RANDAUGMENT: Mapping[str, Operation] = {
    "identity": Operation(_identity),
    "shear_x": Operation(_shear_x, 0.3, True),
    "shear_y": Operation(_shear_y, 0.3, True),
    "translate_x": Operation(_translate_x, 0.45, True),
    "translate_y": Operation(_translate_y, 0.45, True),
    "rotate": Operation(_rotate, 30, True),
    "brightness": Operation(_brightness, 0.9, True),
    "saturation": Operation(_saturation, 0.9, True),
    "contrast": Operation(_contrast, 0.9, True),
    "sharpness": Operation(_sharpness, 0.9, True),
    "posterize": Operation(_posterize, 4),
    "solarize": Operation(_solarize, 256),
    "autocontrast": Operation(_autocontrast),
    "equalize": Operation(_equalize),
}
TRIVIALAUGMENT: Mapping[str, Operation] = {
    **RANDAUGMENT,
    "shear_x": Operation(_shear_x, 0.99, True),
    "shear_y": Operation(_shear_y, 0.99, True),
    "rotate": Operation(_rotate, 135, True),
    "brightness": Operation(_brightness, 0.99, True),
    "saturation": Operation(_saturation, 0.99, True),
    "contrast": Operation(_contrast, 0.99, True),
    "sharpness": Operation(_sharpness, 0.99, True),
    "posterize": Operation(_posterize, 6),
}
