"""Crops cut on the device: against Pillow's pixels, against the host's draws, and one position at a time."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jtl.inputs import image, resident
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess

# Compiles for long.
pytestmark = pytest.mark.slow

SIZES = ((40, 60), (60, 40), (30, 30), (25, 90), (90, 20), (12, 17))


def _images(channels: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        small = Image.fromarray(random.integers(0, 256, (height // 4, width // 4, 3), np.uint8))
        whole = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
        found.append(whole[..., :channels])
    return found


def _positions(count: int, start: int = 0) -> jax.Array:
    return jnp.stack(
        [jnp.zeros(count, jnp.uint32), jnp.arange(start, start + count, dtype=jnp.uint32)], axis=1
    )


@pytest.mark.parametrize(
    ("interpolation", "image_px"), [("bicubic", (16, 16)), ("bilinear", (24, 12)), ("bicubic", (10, 30))]
)
def test_cut_and_resized_as_pillow_does_it(interpolation: str, image_px: tuple[int, int]) -> None:
    """Any crop, reduced or enlarged, mirrored or not; one rounding between Pillow's two passes apart."""
    preprocess = Preprocess(image_px, min(image_px), interpolation=interpolation)
    augment, images = Augment(crop_scale=(0.2, 1.0)), _images()
    arrays, vary = resident.pack(preprocess, augment, images)
    cut = jax.jit(vary.cut)
    random = np.random.default_rng(1)
    worst, means = 0.0, []
    for place in [*range(len(images)), *range(len(images))]:
        left, top, right, bottom = image.random_crop(SIZES[place], image_px, augment, random)
        is_flipped = bool(random.integers(2))
        box = jnp.asarray([left, top, right - left, bottom - top], jnp.float32)
        ours = np.asarray(cut(arrays, jnp.asarray(place), box, jnp.asarray(is_flipped)))
        theirs = image.resized(images[place], image_px, interpolation, (left, top, right, bottom))
        difference = np.abs(ours - (theirs[:, ::-1] if is_flipped else theirs))
        worst, means = max(worst, difference.max()), [*means, difference.mean()]
    assert worst <= 2
    assert max(means) < 0.3


TARGET, DRAWN = (16, 12), Augment(crop_scale=(0.2, 1.0))


@pytest.fixture(scope="module")
def draw() -> Any:
    def one(key: jax.Array, size: jax.Array) -> jax.Array:
        return resident.random_crop(key, size, TARGET, DRAWN)

    return jax.jit(jax.vmap(one, (0, None)))


@pytest.mark.parametrize("size", SIZES)
def test_crops_are_drawn_as_on_the_host(draw: Any, size: tuple[int, int]) -> None:
    """Each of left, top, width and height has the host's distribution (Kolmogorov-Smirnov, 2,000 draws)."""
    number = 2000
    ours = np.asarray(draw(jax.random.split(jax.random.key(0), number), jnp.asarray(size)))
    random = np.random.default_rng(0)
    boxes = np.array([image.random_crop(size, TARGET, DRAWN, random) for _ in range(number)])
    theirs = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= size[1]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[0]).all()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4


def test_batches_have_the_hosts_colour_statistics_and_share_of_mirrored() -> None:
    preprocess, augment = Preprocess((8, 8), 8), Augment(crop_scale=(0.5, 1.0), color_jitter=0.3, flip=0.3)
    images = [np.broadcast_to(np.linspace(0, 255, 30).astype(np.uint8)[None, :, None], (20, 30, 3))]
    arrays, vary = resident.pack(preprocess, augment, images)
    number = 1500
    found = jax.jit(vary)(jax.random.key(0), arrays, jnp.zeros(number, jnp.int32), _positions(number))
    ours = np.asarray(found, np.float64)
    host = image.transform(preprocess, augment)
    theirs = np.float64([host(images[0], np.random.default_rng(each)) for each in range(number)])
    for some, limit in ((ours, 0.05), (theirs, 0.05)):
        is_mirrored = some[:, :, 0].mean(axis=(1, 2)) > some[:, :, -1].mean(axis=(1, 2))
        assert abs(is_mirrored.mean() - 0.3) < limit
    error = np.sqrt(ours.mean(axis=(1, 2, 3)).var() * 2 / number)
    assert abs(ours.mean() - theirs.mean()) < 5 * error


def test_an_example_depends_on_its_position_alone() -> None:
    preprocess = Preprocess((8, 8), 8)
    augment = Augment(color_jitter=0.2, policy="randaugment")
    arrays, vary = resident.pack(preprocess, augment, _images())
    cut = jax.jit(vary)
    rows = jnp.asarray([3, 1, 4, 1, 5, 0], jnp.int32)
    whole = cut(jax.random.key(7), arrays, rows, _positions(6))
    again = cut(jax.random.key(7), arrays, rows[::-1], _positions(6)[::-1])
    np.testing.assert_array_equal(whole, again[::-1])
    assert (np.asarray(whole[1]) != np.asarray(whole[3])).any()
    upper = cut(jax.random.key(7), arrays, rows, _positions(6).at[:, 0].set(1))
    assert (np.asarray(upper) != np.asarray(whole)).any()


def test_grey_images_become_the_models_channels() -> None:
    preprocess, augment = Preprocess((8, 8), 8), Augment()
    grey, vary = resident.pack(preprocess, augment, _images(1))
    colour, _ = resident.pack(preprocess, augment, [np.repeat(each, 3, axis=-1) for each in _images(1)])
    assert grey["pixels"].shape[1] == 1
    rows, key = jnp.arange(6), jax.random.key(0)
    found = [jax.jit(vary)(key, arrays, rows, _positions(6)) for arrays in (grey, colour)]
    np.testing.assert_array_equal(*found)
    mixed = resident.packed([*_images(1)[:1], *_images(3)[1:]], 1)
    np.testing.assert_array_equal(mixed["pixels"][:60, 0], mixed["pixels"][:60, 2])


def test_little_more_lies_there_than_the_pixels() -> None:
    images = [np.zeros((40, each, 3), np.uint8) for each in (40, 60, 160)]
    arrays = resident.packed(images, 10)
    assert arrays["pixels"].nbytes == sum(each.nbytes for each in images) + 10 * 40 * 3


def test_the_window_holds_the_largest_crop_of_a_long_image() -> None:
    """Far less is read of a panorama than all of its rows, whatever crop is drawn of it."""
    preprocess, augment = Preprocess((16, 16), 16), Augment()
    panorama = np.random.default_rng(0).integers(0, 256, (30, 1000, 3), np.uint8)
    arrays, vary = resident.pack(preprocess, augment, [panorama])
    assert vary.window < 100
    wide = replace(vary, window=1000)
    arrays = {**arrays, "pixels": np.concatenate([arrays["pixels"], np.zeros((1000, 3, 30), np.uint8)])}
    rows = jnp.zeros(50, jnp.int32)
    found = [jax.jit(each)(jax.random.key(0), arrays, rows, _positions(50)) for each in (vary, wide)]
    assert np.abs(np.int32(found[0]) - np.int32(found[1])).max() <= 1
