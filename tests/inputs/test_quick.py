"""OpenCV in place of Pillow: the same pixels of files, and crops that differ little. Skipped without it."""

import io

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.inputs import image, pixels, quick
from jtl.inputs.contract import Unreadable
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess

needs_opencv = pytest.mark.skipif(quick._library() is None, reason="OpenCV (extra `fast`) is not installed")


def _picture(size: tuple[int, int] = (150, 200)) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def _jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    _picture().convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@needs_opencv
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("min_px", [0, 70, 30, 15])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1, "progressive": True}])
def test_files_are_decoded_to_pillows_pixels(mode: str, min_px: int, options: dict[str, object]) -> None:
    options = options if mode == "RGB" else {}
    data = _jpeg(mode, **options)
    ours, theirs = (pixels.decode(data, min_px, is_quick=each) for each in (True, False))
    np.testing.assert_array_equal(ours, theirs)


@needs_opencv
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright_all_the_same(turn: int) -> None:
    exif = Image.Exif()
    exif[quick.ORIENTATION] = turn
    data = _jpeg(exif=exif)
    np.testing.assert_array_equal(pixels.decode(data, is_quick=True), pixels.decode(data))


@needs_opencv
def test_real_photos_are_decoded_to_pillows_pixels(real_path: object) -> None:
    folder = real_path("images/hymenoptera/val/ants")  # pyright: ignore[reportCallIssue]
    for path in sorted(folder.iterdir())[:20]:
        data = path.read_bytes()
        np.testing.assert_array_equal(pixels.decode(data, is_quick=True), pixels.decode(data))


@needs_opencv
@pytest.mark.parametrize("at", [300, 0.5, -10])
def test_what_is_cut_is_refused_as_without_it(at: float) -> None:
    data = _jpeg()
    place = int(at * len(data)) if 0 < at < 1 else int(at)
    with pytest.raises(Unreadable):
        pixels.decode(data[:place], is_quick=True)


@needs_opencv
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("num_channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(60, 80), (100, 90), (300, 260)])
def test_crops_differ_from_pillows_by_little(
    interpolation: str, num_channels: int, size: tuple[int, int]
) -> None:
    """Reduced, and enlarged: 2 of 255 in the mean."""
    whole = np.asarray(_picture())
    picture = np.concatenate([whole, whole], axis=-1)[..., :num_channels]
    box = (10, 20, 170, 140)
    ours = quick.resized(picture, size, interpolation, box)
    theirs = image.resized(picture, size, interpolation, box)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() < 2


@needs_opencv
def test_training_takes_it_where_it_is_asked_for() -> None:
    preprocess = Preprocess((48, 48), 48)
    both = [
        image.transform(preprocess, Augment(resizer=each))(_jpeg(), np.random.default_rng(0))
        for each in image.RESIZERS
    ]
    difference = np.abs(both[0].astype(int) - both[1])
    assert 0 < difference.mean() < 2


def test_it_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_library", lambda: None)
    with pytest.raises(UserError, match=r"augment\.resizer is 'opencv', which is not installed; install"):
        image.transform(Preprocess(), Augment(resizer="opencv"))
    np.testing.assert_array_equal(pixels.decode(_jpeg(), is_quick=True), pixels.decode(_jpeg()))


def test_unknown_resizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.resizer 'opencw' is unknown; nearest: 'opencv'"):
        Augment(resizer="opencw")
