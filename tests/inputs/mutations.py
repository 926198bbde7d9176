"""Image files of every format, and seeded damage to them."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the picture as a file of that format."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photo(side: int = 96) -> Image.Image:
    """Return a picture with the smooth parts and the edges of a photo."""
    rows, columns = np.mgrid[0:side, 0:side]
    values = np.stack([rows * 2, columns * 2, 255 * ((rows - 48) ** 2 + (columns - 40) ** 2 < 900)], -1)
    noise = np.random.default_rng(0).normal(0, 6, values.shape)
    return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))


def files() -> dict[str, bytes]:
    """Return a file of every format and of the kinds of compression that cameras and editors write."""
    picture = photo()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    return {
        "jpeg": encoded(picture, "JPEG", quality=85, exif=exif),
        "jpeg_progressive": encoded(picture, "JPEG", quality=85, progressive=True),
        "jpeg_restarts": encoded(picture, "JPEG", quality=85, restart_marker_blocks=4),
        "png": encoded(picture, "PNG"),
        "webp": encoded(picture, "WEBP", quality=85),
        "webp_lossless": encoded(picture, "WEBP", lossless=True),
        "gif": encoded(picture, "GIF"),
        "bmp": encoded(picture, "BMP"),
        "tiff": encoded(picture, "TIFF"),
        "tiff_lzw": encoded(picture, "TIFF", compression="tiff_lzw"),
        "tiff_deflate": encoded(picture, "TIFF", compression="tiff_adobe_deflate"),
        "avif": encoded(picture, "AVIF"),
        "jpeg2000": encoded(picture, "JPEG2000"),
        "ppm": encoded(picture, "PPM"),
    }


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the file with one damage of a random kind."""
    change = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    return bytes(change(bytearray(data), rng))


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Return a place, in every third case one of the header's."""
    return int(rng.integers(min(len(data), 64) if rng.random() < 1 / 3 else len(data)))


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[_place(data, rng)] = int(rng.integers(256))
    return data


def _fill(data: bytearray, rng: np.random.Generator) -> bytearray:
    place, length = _place(data, rng), int(rng.integers(1, 32))
    data[place : place + length] = bytes([int(rng.choice([0, 255]))]) * length
    return data


def _delete(data: bytearray, rng: np.random.Generator) -> bytearray:
    place = _place(data, rng)
    del data[place : place + int(rng.integers(1, 32))]
    return data


def _insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    place = _place(data, rng)
    data[place:place] = rng.bytes(int(rng.integers(1, 32)))
    return data


def _truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


MUTATIONS: tuple[Mutation, ...] = (_flip, _flip, _overwrite, _fill, _delete, _insert, _truncate)


def bombs(side: int) -> dict[str, bytes]:
    """Return a small file of every format whose picture has that many pixels a side."""
    picture = Image.new("1", (side, side))
    return {
        "PNG": encoded(picture, "PNG"),
        "TIFF": encoded(picture, "TIFF", compression="group4"),
        "GIF": encoded(picture.convert("P"), "GIF"),
        "BMP": encoded(picture, "BMP"),
        "JPEG": encoded(picture.convert("L"), "JPEG", quality=1),
        "PPM": encoded(picture, "PPM"),
        "WEBP": encoded(picture.convert("RGB"), "WEBP", method=0, quality=0),
    }
