"""Augmentation and normalisation inside the training step: pure, jit-able, sharded like the batch they get.

Shapes: images [batch, height, width, channels].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jtl.inputs.preprocess import Preprocess

# Zhong et al. 2020, "Random Erasing Data Augmentation": area and aspect ratio of the erased box.
ERASE_AREA = (0.02, 1 / 3)
ERASE_RATIO = (0.3, 1 / 0.3)
_NUM_QUANTILES = 4097
RESIZE_METHODS = {"bilinear": "linear", "bicubic": "cubic"}


def normalise(
    images: UInt8[Array, "batch height width channels"], preprocess: Preprocess
) -> Float[Array, "batch height width channels"]:
    """Scale bytes to [0, 1], subtract each channel's mean and divide by its deviation, in float32."""
    mean = jnp.asarray(preprocess.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(preprocess.std, jnp.float32).reshape(1, 1, 1, -1)
    return (images.astype(jnp.float32) / 255 - mean) / std


def renormalise(
    images: Float[Array, "batch height width channels"], before: Preprocess, after: Preprocess
) -> Float[Array, "batch new_height new_width channels"]:
    """Return images normalised and sized as `before` has it, as `after` has it; equal ones keep their bits.

    They are resized whole, with antialiasing, in the interpolation of `after`.
    """
    if (before.mean, before.std, before.image_px) == (after.mean, after.std, after.image_px):
        return images
    of_before, of_after = (
        [jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (each.mean, each.std)]
        for each in (before, after)
    )
    pixels = images * of_before[1] + of_before[0]
    if before.image_px != after.image_px:
        shape = (len(images), *after.image_px, images.shape[-1])
        pixels = jax.image.resize(pixels, shape, RESIZE_METHODS[after.interpolation])
    return (pixels - of_after[0]) / of_after[1]


def mix(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Mix every example with its neighbour in the batch, one proportion a batch; alphas are static (0: off).

    Mixup (Zhang et al. 2018) blends with weight Beta(alpha, alpha). CutMix (Yun et al. 2019) pastes a box;
    targets take the share of pixels that were really kept. With both on, a fair coin decides for the batch.
    """
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    choose_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    other_images, other_targets = jnp.roll(images, 1, axis=0), jnp.roll(targets, 1, axis=0)
    keeps = []
    if mixup_alpha:
        keeps.append(jnp.full(images.shape[1:3], draw_beta(mixup_key, mixup_alpha)))
    if cutmix_alpha:
        keeps.append(_kept_pixels(cutmix_key, images.shape[1], images.shape[2], cutmix_alpha))
    keep = keeps[0] if len(keeps) == 1 else jnp.where(jax.random.bernoulli(choose_key), *keeps)
    share = keep.mean()
    weight = keep.astype(images.dtype)[None, :, :, None]
    return images * weight + other_images * (1 - weight), targets * share + other_targets * (1 - share)


def draw_beta(key: Key[Array, ""], alpha: float) -> Float[Array, ""]:
    """Draw from Beta(alpha, alpha) by its inverse distribution function, tabulated while tracing.

    `jax.random.beta` draws by rejection, whose loops take 2 s to compile.
    """
    from scipy.special import betaincinv

    shares = np.linspace(0, 1, _NUM_QUANTILES)
    quantiles = betaincinv(alpha, alpha, shares)
    draw = jax.random.uniform(key)
    return jnp.interp(draw, jnp.asarray(shares, jnp.float32), jnp.asarray(quantiles, jnp.float32))


def erase(
    key: Key[Array, ""], images: Float[Array, "batch height width channels"], probability: float
) -> Float[Array, "batch height width channels"]:
    """Set a random box of an image to 0 (the mean colour, once normalised) with this static probability."""
    if not probability:
        return images
    batch, height, width, _ = images.shape
    draws = jax.random.uniform(key, (5, batch))
    area = (ERASE_AREA[0] + draws[0] * (ERASE_AREA[1] - ERASE_AREA[0])) * height * width
    low, high = jnp.log(ERASE_RATIO[0]), jnp.log(ERASE_RATIO[1])
    ratio = jnp.exp(low + draws[1] * (high - low))
    rows = _inside(draws[2], jnp.round(jnp.sqrt(area * ratio)), height)
    columns = _inside(draws[3], jnp.round(jnp.sqrt(area / ratio)), width)
    is_erased = rows[:, :, None] & columns[:, None, :] & (draws[4] < probability)[:, None, None]
    return jnp.where(is_erased[..., None], jnp.zeros((), images.dtype), images)


def _inside(draw: Float[Array, " batch"], length: Float[Array, " batch"], size: int) -> Array:
    """Return which of `size` places lie in an interval of `length` put there by a uniform draw."""
    length = jnp.minimum(length, size)
    start = jnp.floor(draw * (size - length + 1))
    places = jnp.arange(size)[None, :]
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def _kept_pixels(key: Key[Array, ""], height: int, width: int, alpha: float) -> Float[Array, "height width"]:
    """Return 0 in CutMix's box, of area 1 - Beta(alpha, alpha) before the edges cut it, and 1 elsewhere."""
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - draw_beta(share_key, alpha))
    is_cut = []
    for length, centre_key in ((height, row_key), (width, column_key)):
        half = jnp.floor(length * side) // 2
        centre = jax.random.randint(centre_key, (), 0, length)
        places = jnp.arange(length)
        is_cut.append((places >= centre - half) & (places < centre + half))
    return 1.0 - (is_cut[0][:, None] & is_cut[1][None, :])
