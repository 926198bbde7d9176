"""Decoding: every format and pixel type by one rule, what is lost in it, and what is refused."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from jtl.errors import UserError
from jtl.inputs import pixels as decoding
from jtl.inputs.contract import Unreadable
from jtl.inputs.pixels import decode
from jtl.inputs.preprocess import Changes, Preprocess
from tests.data.conftest import pixels


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    """Return an image that survives JPEG."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1).astype(
        np.uint8
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_format_is_decoded(kind: str) -> None:
    picture = smooth(40, 60)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    found = decode(encoded(Image.fromarray(picture), kind, **options))
    assert found.shape == (40, 60, 3)
    tolerance = {"JPEG": 12, "GIF": 40}.get(kind, 0)
    assert np.abs(found.astype(int) - picture.astype(int)).max() <= tolerance


def test_only_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    found = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (found == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(pixels(0, 5, 7))
    found = decode(encoded(stored, "PNG", exif=exif))
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]
    expected = stored if turns is None else stored.transpose(Image.Transpose(turns))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_sixteen_bits_are_scaled_and_not_saturated() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(ramp), kind))
        np.testing.assert_array_equal(found[..., 0], ramp // 256)


def test_other_modes_become_grey_or_rgb() -> None:
    grey, alpha = Image.fromarray(pixels(0)[..., 0]), Image.fromarray(pixels(1)[..., 0])
    colour = Image.fromarray(pixels(2))
    np.testing.assert_array_equal(decode(encoded(grey, "PNG"))[..., 0], np.asarray(grey))
    np.testing.assert_array_equal(
        decode(encoded(Image.merge("LA", (grey, alpha)), "PNG"))[..., 0], np.asarray(grey)
    )
    np.testing.assert_array_equal(
        decode(encoded(Image.merge("RGBA", (*colour.split(), alpha)), "PNG")), np.asarray(colour)
    )
    two = grey.point(lambda value: 255 * (value > 99)).convert("1")
    np.testing.assert_array_equal(decode(encoded(two, "PNG"))[..., 0], np.asarray(two) * np.uint8(255))
    palette = colour.quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    found = decode(encoded(palette, "PNG", transparency=bytes(range(16))))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    assert decode(encoded(colour.convert("CMYK"), "JPEG")).shape == (9, 12, 3)


def test_damaged_bytes_are_unreadable_and_named() -> None:
    jpeg = encoded(Image.fromarray(smooth(64, 64)), "JPEG")
    png = encoded(Image.fromarray(pixels(0, 64, 64)), "PNG")
    for data in (b"", b"not an image", jpeg[:400], png[: len(png) // 2], png[:100] + b"\0" * 50 + png[150:]):
        with pytest.raises(Unreadable):
            decode(data)
    with pytest.raises(
        Unreadable, match="it is none of JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, JPEG2000, PPM"
    ):
        decode(encoded(Image.fromarray(pixels(0)), "PCX"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty; copy it again"),
        (
            b"\0\0\0\x18ftypheic" + bytes(64),
            r"it is HEIF; install pillow-heif \(pip install pillow-heif, or 'jtl\[heif\]'\)",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is Git LFS pointer; .*git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "it is web page; download the image again"),
        (b"%PDF-1.7", "it is PDF, none of JPEG, .*; save it as one of them"),
        (b"GIF89a", "it is damaged: it is cut short"),
        (
            b"MM\0*" + bytes(20),
            "it is a damaged TIFF file, or one of a kind of pixels that Pillow does not read",
        ),
    ],
)
def test_what_a_file_is_instead_of_an_image_is_said_with_the_cure(data: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        decode(data)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM"])
def test_formats_of_cameras_and_older_sets_are_decoded(kind: str) -> None:
    assert (
        np.abs(decode(encoded(Image.fromarray(smooth(40, 60)), kind)).astype(int) - smooth(40, 60)).max()
        <= 40
    )


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """Write a PNG of 16 bits a channel, which Pillow itself cannot."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = width.to_bytes(4) + height.to_bytes(4) + bytes((16, kind, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


TWELVE_BITS = (np.arange(64 * 64) % 4096).reshape(64, 64)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(TWELVE_BITS.astype(np.uint16)), "PNG"),
        encoded(Image.fromarray(TWELVE_BITS.astype(np.uint16)), "TIFF"),
        encoded(Image.fromarray(TWELVE_BITS.astype(np.int32)), "TIFF"),
        sixteen_bit_png(np.repeat(TWELVE_BITS[..., None], 3, -1)),
        sixteen_bit_png(np.concatenate([*[TWELVE_BITS[..., None]] * 3, np.full((64, 64, 1), 65535)], -1)),
    ],
    ids=["grey_png", "grey_tiff", "int32_tiff", "rgb_png", "rgba_png"],
)
def test_twelve_bits_in_a_deeper_file_are_scaled_by_what_they_use(data: bytes) -> None:
    facts = decoding.examine(data)
    assert facts.peak == 4095
    with pytest.raises(
        Unreadable, match=r"reach 4095, and what white is is not known; set config.preprocess.white_level"
    ):
        decode(data)
    preprocess, lines = decoding.fitted(Preprocess(), [facts], Changes(), is_trained=False)
    assert preprocess.white_level == 4095
    assert lines == [
        "1 image holds more than 8 bits, values up to 4095: scaled to 8 bits by preprocess.white_level=4095 "
        "(from what they use)"
    ]
    found = decode(data, white_level=preprocess.white_level)
    np.testing.assert_array_equal(found, np.repeat(TWELVE_BITS[..., None] >> 4, found.shape[-1], -1))
    with pytest.raises(Unreadable, match=r"values reach 4095 and preprocess.white_level is 1023"):
        decode(data, white_level=1023)


def test_all_sixteen_bits_in_use_are_the_upper_eight() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3))
    for level in (0.0, 65535.0):
        np.testing.assert_array_equal(decode(sixteen_bit_png(values), white_level=level), values >> 8)


def test_floats_are_scaled_to_white_and_others_than_numbers_refused() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    data = encoded(Image.fromarray(values), "TIFF")
    preprocess, _ = decoding.fitted(Preprocess(), [decoding.examine(data)], Changes(), is_trained=False)
    assert preprocess.white_level == 1
    np.testing.assert_array_equal(decode(data, white_level=1.0)[..., 0], np.floor(values * 255 + 0.5))
    with pytest.raises(Unreadable, match=r"float32 values reach 1 and preprocess.white_level is 4095"):
        decode(data, white_level=4095.0)
    for value, message in ((np.nan, "are not finite"), (-1.0, "go down to -1; expected 0 or more")):
        data = encoded(Image.fromarray(np.where(values == 0, np.float32(value), values)), "TIFF")
        with pytest.raises(Unreadable, match=message):
            decoding.examine(data)


def test_a_black_picture_of_many_bits_needs_no_white() -> None:
    assert not decode(encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG")).any()


def test_zero_is_white_in_a_deep_tiff_that_says_so() -> None:
    data = encoded(Image.fromarray(np.array([[0, 65535]], np.uint16)), "TIFF", tiffinfo={262: 0})
    assert decode(data)[..., 0].tolist() == [[255, 0]]


def facts_of(peak: float, *, is_float: bool = False) -> decoding.Facts:
    return decoding.Facts((), peak, is_float)


def test_white_stays_what_a_user_or_a_training_made_it() -> None:
    grown, _ = decoding.fitted(Preprocess(white_level=1023), [facts_of(4000)], Changes(), is_trained=False)
    assert grown.white_level == 4095
    kept, lines = decoding.fitted(Preprocess(white_level=4095), [facts_of(900)], Changes(), is_trained=True)
    assert kept.white_level == 4095
    assert "(as set)" in lines[0]
    for changes, is_trained in ((Changes(), True), (Changes(white_level=1023), False)):
        with pytest.raises(
            UserError, match=r"values up to 4000 and preprocess.white_level is 1023; expected none"
        ):
            decoding.fitted(Preprocess(white_level=1023), [facts_of(4000)], changes, is_trained=is_trained)
    with pytest.raises(UserError, match="some images hold floats and others integers"):
        decoding.fitted(
            Preprocess(), [facts_of(4000), facts_of(1.0, is_float=True)], Changes(), is_trained=False
        )
    eight_bits = Preprocess()
    assert decoding.fitted(eight_bits, [decoding.Facts()], Changes(), is_trained=False) == (eight_bits, [])


def test_transparent_pixels_are_told_and_can_be_laid_on_a_background() -> None:
    colours = np.full((2, 2, 4), (10, 20, 30, 0), np.uint8)
    palette = Image.fromarray(colours[..., :3]).quantize(2)
    grey = Image.merge("LA", [Image.new("L", (2, 2), 10), Image.new("L", (2, 2), 0)])
    for data in (
        encoded(Image.fromarray(colours), "PNG"),
        encoded(palette, "PNG", transparency=bytes(2)),
        encoded(grey, "PNG"),
        encoded(Image.fromarray(colours[..., :3]), "PNG", transparency=(10, 20, 30)),
    ):
        assert decoding.examine(data).remarks == (decoding.HIDDEN,)
        assert decode(data)[0, 0, 0] == 10
        assert (decode(data, background=255) == 255).all()
    opaque = encoded(Image.fromarray(np.full((2, 2, 4), 255, np.uint8)), "PNG")
    assert decoding.examine(opaque).remarks == ()


def test_what_is_lost_in_reading_is_told_with_the_names() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    several = [
        encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "TIFF", "WEBP")
    ]
    wide = encoded(Image.fromarray(pixels(0)), "PNG", icc_profile=b"Display P3" + bytes(128))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        **{f"{place}.gif": data for place, data in enumerate(several)},
        "wide.png": wide,
        "srgb.png": encoded(Image.fromarray(pixels(0)), "PNG", icc_profile=srgb),
        "print.jpg": encoded(Image.fromarray(pixels(0)).convert("CMYK"), "JPEG"),
        "plain.png": encoded(Image.fromarray(pixels(0)), "PNG"),
    }
    assert decoding.told([(name, decoding.examine(data)) for name, data in files.items()]) == [
        f"3 images {decoding.SEVERAL} (0.gif, 1.gif, 2.gif)",
        f"1 image {decoding.NO_PROFILE.replace('carry', 'carries')} (wide.png)",
        f"1 image {decoding.CMYK.replace('are', 'is', 1)} (print.jpg)",
    ]


def test_lab_is_converted_and_a_raw_files_preview_refused() -> None:
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert (decode(encoded(lab, "TIFF")) >= 250).all()
    with pytest.raises(Unreadable, match="its first picture is a preview"):
        decode(encoded(Image.fromarray(pixels(0)), "TIFF", tiffinfo={254: 1}))


def test_an_image_over_the_pixel_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 99)
    assert decode(encoded(Image.fromarray(pixels(0, 9, 11)), "PNG")).shape == (9, 11, 3)
    with pytest.raises(Unreadable, match="its 10 x 10 pixels are over the limit of 99"):
        decode(encoded(Image.fromarray(pixels(0, 10, 10)), "PNG"))


def test_a_decompression_bomb_is_unreadable() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(Unreadable):
        decode(bytes(data))


def test_a_reduced_jpeg_keeps_the_sides_it_was_asked_for() -> None:
    data = encoded(Image.fromarray(smooth(400, 600)), "JPEG")
    assert decode(data).shape == (400, 600, 3)
    assert decode(data, min_px=150).shape == (200, 300, 3)
    assert decode(data, min_px=201).shape == (400, 600, 3)
    full = np.asarray(Image.fromarray(decode(data)).resize((300, 200), Image.Resampling.BOX)).astype(int)
    assert np.abs(decode(data, min_px=150) - full).mean() < 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_size_is_upright_and_asks_for_no_pixels(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.fromarray(smooth(40, 60))
    turned = encoded(picture, kind, exif=exif)
    assert (decoding.size_of(encoded(picture, kind)), decoding.size_of(turned)) == ((60, 40), (40, 60))
    # All but the last of its pixels.
    assert decoding.size_of(encoded(picture, kind)[:-20]) == (60, 40)
