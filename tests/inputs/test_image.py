"""The transforms of evaluation and training."""

import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.image import Augment, to_channels, transform
from jtl.inputs.pixels import decode
from jtl.inputs.preprocess import INTERPOLATIONS, Changes, Preprocess, settled
from tests.data.conftest import pixels

RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def torchvision_eval(picture: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Resize and crop as torchvision does Pillow images for Resize(int) and CenterCrop, written anew."""
    pillow = Image.fromarray(picture)
    width, height = pillow.size
    size = preprocess.resize_px
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    pillow = pillow.resize((new_width, new_height), RESAMPLE[preprocess.interpolation])
    crop_height, crop_width = preprocess.image_px
    top, left = int(round((new_height - crop_height) / 2.0)), int(round((new_width - crop_width) / 2.0))  # noqa: RUF046
    return np.asarray(pillow.crop((left, top, left + crop_width, top + crop_height)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 400), (401, 299), (20, 31), (33, 33), (32, 90), (1, 7)])
def test_evaluation_is_torchvisions_bit_for_bit(size: tuple[int, int], interpolation: str) -> None:
    preprocess = Preprocess((29, 29), resize_px=33, interpolation=interpolation)
    picture = pixels(0, *size)
    np.testing.assert_array_equal(transform(preprocess, None)(picture), torchvision_eval(picture, preprocess))


def test_a_non_square_input_covers_and_crops_as_timms_resize_keep_ratio() -> None:
    preprocess = Preprocess((20, 40), resize_px=25)
    picture = pixels(0, 100, 120)
    # timm 1.0.31 ResizeKeepRatio((25, 50)): ratio = min(100 / 25, 120 / 50) = 2.4 → (42, 50), then
    # CenterCrop((20, 40)).
    resized = np.asarray(Image.fromarray(picture).resize((50, 42), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(transform(preprocess, None)(picture), resized[11:31, 5:45])


def test_every_interpolation_a_model_may_name_is_known() -> None:
    for interpolation in INTERPOLATIONS:
        transform(Preprocess(interpolation=interpolation), None)


def test_resize_px_zero_squashes() -> None:
    found = transform(Preprocess((16, 24), resize_px=0), None)(pixels(0, 50, 30))
    expected = Image.fromarray(pixels(0, 50, 30)).resize((24, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(("image_px", "resized"), [((16, 16), (20, 20)), ((16, 32), (20, 40))])
def test_squashed_input_is_the_centre_of_an_image_resized_whatever_its_shape(
    image_px: tuple[int, int], resized: tuple[int, int]
) -> None:
    found = transform(Preprocess(image_px, resize_px=20, is_squashed=True), None)(pixels(0, 50, 30))
    expected = Image.fromarray(pixels(0, 50, 30)).resize(resized[::-1], Image.Resampling.BICUBIC)
    top, left = (resized[0] - image_px[0]) // 2, (resized[1] - image_px[1]) // 2
    box = (left, top, left + image_px[1], top + image_px[0])
    np.testing.assert_array_equal(found, np.asarray(expected.crop(box)))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels_are_resized_like_single_ones(channels: int) -> None:
    preprocess = Preprocess((8, 8), resize_px=9, mean=(0.5,) * channels, std=(0.5,) * channels)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    found = transform(preprocess, None)(picture)
    assert found.shape == (8, 8, channels)
    for place in range(channels):
        np.testing.assert_array_equal(found[..., place], torchvision_eval(picture[..., place], preprocess))


def test_grey_and_rgb_become_each_other() -> None:
    grey = pixels(0)[..., :1]
    np.testing.assert_array_equal(to_channels(grey, 3), np.concatenate([grey] * 3, -1))
    np.testing.assert_array_equal(to_channels(to_channels(grey, 3), 1), grey)
    luma = (pixels(0) @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(to_channels(pixels(0), 1), luma, atol=0.6)
    with pytest.raises(UserError, match="images have 3 channels, the model reads 4"):
        to_channels(pixels(0), 4)


def test_the_training_transform_is_a_function_of_its_generator() -> None:
    vary = transform(
        Preprocess((16, 16), resize_px=16), Augment(color_jitter=0.4, policy="randaugment", policy_num_ops=3)
    )
    draw = [vary(pixels(0, 40, 50), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()
    assert draw[0].shape == (16, 16, 3)
    assert draw[0].dtype == np.uint8
    assert draw[0].flags.c_contiguous


def test_transforms_are_picklable() -> None:
    preprocess = Preprocess((16, 16), resize_px=16)
    train = pickle.loads(pickle.dumps(transform(preprocess, Augment())))
    assert train(pixels(0), np.random.default_rng(0)).shape == (16, 16, 3)
    assert pickle.loads(pickle.dumps(transform(preprocess, None)))(pixels(0)).shape == (16, 16, 3)


def test_crops_lie_within_the_image_and_cover_the_area_and_ratio_asked_for() -> None:
    augment = Augment(crop_scale=(0.2, 0.35), crop_ratio=(0.5, 2.0))
    areas, ratios = [], []
    for seed in range(400):
        left, top, right, bottom = image.random_crop(
            (300, 400), (10, 10), augment, np.random.default_rng(seed)
        )
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        areas.append((right - left) * (bottom - top) / 120_000)
        ratios.append(math.log((right - left) / (bottom - top)))
    assert 0.195 < min(areas) < 0.22
    assert 0.33 < max(areas) < 0.355
    assert -0.71 < min(ratios) < -0.6
    assert 0.6 < max(ratios) < 0.71
    assert abs(np.mean(areas) - 0.275) < 0.02
    assert abs(np.mean(ratios)) < 0.06


def test_a_crop_that_cannot_fit_is_the_largest_centred_one() -> None:
    augment = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    assert image.random_crop((100, 300), (10, 10), augment, np.random.default_rng(0)) == (100, 0, 200, 100)
    assert image.random_crop((100, 300), (10, 20), augment, np.random.default_rng(0)) == (50, 0, 250, 100)


def test_without_randomness_training_resizes_the_whole_image() -> None:
    augment = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    preprocess = Preprocess((16, 16), resize_px=16)
    found = transform(preprocess, augment)(pixels(0, 40, 40), np.random.default_rng(0))
    np.testing.assert_array_equal(found, transform(preprocess, None)(pixels(0, 40, 40)))
    mirrored = transform(preprocess, Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=1.0))
    np.testing.assert_array_equal(mirrored(pixels(0, 40, 40), np.random.default_rng(0)), found[:, ::-1])


def test_images_are_mirrored_as_often_as_asked() -> None:
    augment = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.25)
    vary = transform(Preprocess((4, 4), resize_px=4), augment)
    draws = [
        (vary(pixels(0, 4, 4), np.random.default_rng(seed)) != pixels(0, 4, 4)).any() for seed in range(400)
    ]
    assert abs(np.mean(draws) - 0.25) < 0.06


def test_decoding_smaller_never_enlarges_the_smallest_crop() -> None:
    augment = Augment(crop_scale=(0.25, 1.0), crop_ratio=(1.0, 1.0))
    assert transform(Preprocess((224, 224)), augment).min_px == 448


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "augment.crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "augment.crop_ratio"),
        ({"flip": 1.5}, "augment.flip is 1.5; expected 0 <= value <= 1"),
        ({"mixup_alpha": -0.1}, "augment.mixup_alpha"),
        ({"policy": "randaug"}, "augment.policy 'randaug' is unknown; nearest: 'randaugment'"),
        ({"interpolation": "nearest"}, "augment.interpolation"),
        ({"policy_magnitude": 11.0}, "augment.policy_magnitude is 11.0; expected 0 <= value <= 10"),
    ],
)
def test_an_augmentation_out_of_range_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augment(**settings)


@pytest.mark.parametrize(
    ("resize_px", "found"),
    [
        (4, r"preprocess.resize_px is 4, expected 0 or at least the shorter side of the crop, \(32, 48\)"),
        (31, r"preprocess.resize_px is 31, expected 0 or at least"),
        (32, 32),
        (0, 0),
        (-1, r"preprocess.resize_px is -1; expected 0 <= value <= 65536"),
        (65_537, r"preprocess.resize_px is 65537; expected 0 <= value <= 65536"),
    ],
)
def test_a_resize_smaller_than_the_crop_or_out_of_range_is_refused(resize_px: Any, found: int | str) -> None:
    own = Preprocess((32, 48), resize_px=40)
    if isinstance(found, int):
        assert settled(own, None, Changes(resize_px=resize_px)).resize_px == found
        return
    with pytest.raises(UserError, match=found):
        settled(own, None, Changes(resize_px=resize_px))


def test_a_preprocessing_that_cannot_be_done_is_an_error() -> None:
    with pytest.raises(UserError, match="need 1 or 3 channels, the model reads 4"):
        transform(Preprocess(mean=(0.5,) * 4, std=(0.5,) * 4), Augment(color_jitter=0.4))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_training_and_evaluation_turn_an_image_alike_as_its_exif_says(kind: str) -> None:
    stored, exif, file = pixels(0, 30, 20), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(stored).save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = decode(file.getvalue())
    assert upright.shape == (20, 30, 3)
    assert kind == "JPEG" or (upright == np.rot90(stored, -1)).all()
    preprocess, still = Preprocess((16, 16), resize_px=16), Augment(crop_scale=(1.0, 1.0), flip=0.0)
    for apply in (transform(preprocess, None), transform(preprocess, still)):
        rng = np.random.default_rng(0)
        np.testing.assert_array_equal(apply(file.getvalue(), rng), apply(upright, np.random.default_rng(0)))


def test_real_photos_are_transformed_as_pillow_alone_would(real_path: Any) -> None:
    preprocess = Preprocess((224, 224), resize_px=248)
    for path in sorted(real_path("images/imagenet_100").glob("*.JPEG"))[:10]:
        upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        found = transform(preprocess, None)(decode(path.read_bytes()))
        np.testing.assert_array_equal(found, torchvision_eval(np.asarray(upright), preprocess))
