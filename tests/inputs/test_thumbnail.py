"""What a report shows of examples: small, upright, never enlarged; and the mirror image averaged over."""

import io

import numpy as np
import pytest
from PIL import Image

from jtl.inputs import INPUTS, Unreadable
from jtl.inputs.raw_text import MAX_SHOWN

IMAGE, TEXT = INPUTS["image"], INPUTS["tokens"]


def _jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(("orientation", "upright"), [(1, (400, 300)), (3, (400, 300)), (6, (300, 400))])
def test_size_and_picture_are_upright(orientation: int, upright: tuple[int, int]) -> None:
    found = IMAGE.glimpse(_jpeg(400, 300, orientation))
    assert found.size == dict(zip(("width", "height"), upright, strict=True))
    small = Image.open(io.BytesIO(found.picture))
    assert max(small.size) == 176
    assert (small.width > small.height) == (upright[0] > upright[1])
    assert IMAGE.glimpse(_jpeg(400, 300, orientation), is_shown=False).picture == b""


@pytest.mark.parametrize("num_channels", [1, 2, 3, 5])
def test_pixels_of_any_channels_are_shown_and_never_enlarged(num_channels: int) -> None:
    found = IMAGE.glimpse(np.zeros((28, 20, num_channels), np.uint8))
    assert found.size == {"width": 20, "height": 28}
    assert Image.open(io.BytesIO(found.picture)).size == (20, 28)


def test_long_text_is_cut_and_its_length_is_that_of_the_whole() -> None:
    found = TEXT.glimpse("a" * 10_000)
    assert (len(found.text), found.size) == (MAX_SHOWN, {"letters": 10_000})
    assert TEXT.glimpse("a" * 10_000, is_shown=False).text == ""


def test_example_that_cannot_be_read_says_so() -> None:
    with pytest.raises(Unreadable):
        IMAGE.glimpse(b"no image")


def test_mirror_image_twice_is_the_image() -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
    flip = IMAGE.views["flip"]
    np.testing.assert_array_equal(flip(images)[:, :, 0], images[:, :, -1])
    np.testing.assert_array_equal(flip(flip(images)), images)
