"""How images are kept read: their size, their channels, and what is lost."""

import io

import numpy as np
import pytest
from PIL import Image

from jtl.inputs import image, stored
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess

PREPROCESS = Preprocess(image_px=(16, 16), resize_px=18)


def jpeg(height: int, width: int, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 30), (20, 30)), ((32, 90), (32, 90)), ((48, 72), (32, 48)), ((400, 300), (42, 32))],
)
def test_the_short_side_is_bounded_and_the_shape_kept(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert stored.stored_px(PREPROCESS, Augment()) == 32
    found = stored.storage(PREPROCESS, Augment()).read(jpeg(*size))
    assert found.shape == (*expected, 3)


@pytest.mark.parametrize(("mode", "num_channels", "expected"), [("L", 3, 1), ("L", 1, 1), ("RGB", 1, 1)])
def test_grey_is_kept_with_one_channel(mode: str, num_channels: int, expected: int) -> None:
    preprocess = PREPROCESS.with_channels(num_channels)
    data = jpeg(20, 24, mode)
    found = stored.storage(preprocess, Augment()).read(data)
    assert found.shape == (20, 24, expected)
    vary = image.transform(preprocess, Augment())
    there, here = (vary(raw, np.random.default_rng(1)) for raw in (data, found))
    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("size", [(224, 224), (128, 96)])
@pytest.mark.parametrize("scale", [0.08, 0.35, 1.0])
def test_no_crop_is_enlarged_where_the_bound_allows(size: tuple[int, int], scale: float) -> None:
    preprocess, augment = Preprocess(size), Augment(crop_scale=(scale, 1.0), crop_ratio=(1.0, 1.0))
    side, rng = stored.stored_px(preprocess, augment), np.random.default_rng(0)
    assert side <= 2 * max(size)
    if side < 2 * max(size):
        boxes = [image.random_crop((side, side), size, augment, rng) for _ in range(200)]
        assert min(right - left for left, _, right, _ in boxes) >= size[1] - 1
        assert min(bottom - top for _, top, _, bottom in boxes) >= size[0] - 1


def test_crops_of_shrunk_images_differ_little() -> None:
    """Short side 96 kept at 32, in an image of few details: under 2 of 255 in the mean."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC))
    kept = stored.storage(PREPROCESS, Augment()).read(whole)
    assert kept.shape == (32, 32, 3)
    vary = image.transform(PREPROCESS, Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0))
    there, here = (vary(raw, np.random.default_rng(1)).astype(int) for raw in (whole, kept))
    assert np.abs(there - here).mean() < 2
