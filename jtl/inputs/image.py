"""Pixels → the uint8 input of a model. Host side, Pillow only; `pixels` decodes, `on_device` normalises.

Shapes are [height, width, channels]. The evaluation transform equals timm 1.0.31 and torchvision on Pillow
images bit for bit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jtl.errors import UserError
from jtl.inputs import formats, pixels, policy, thumbnail
from jtl.inputs.contract import Input, Inputs, Storage, Transform
from jtl.inputs.preprocess import Changes, Preprocess, settled
from jtl.inputs.resize import LUMA, RESIZERS, resized, to_pillow
from jtl.inputs.variation import Augment, blended, redrawn, strong, varied

# The endings of files that count as images where nothing else says so.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# A picture that resizing would make larger than this is resized where the crop is, and nowhere else: one of
# 1 x 4,000 pixels becomes 2 GB otherwise. The pixels are the same to within 2 of 255.
MAX_RESIZED_PIXELS = 1 << 24

CROP_ATTEMPTS = 10


def check(raw: bytes | np.ndarray) -> pixels.Facts:
    """Return what of an example, an image file's bytes or its pixels, is lost or decided in reading it.

    Raises:
        Unreadable: it cannot be decoded.
    """
    if isinstance(raw, bytes):
        return pixels.examine(raw)
    pixels.checked(raw)
    return pixels.Facts()


def transform(preprocess: Preprocess, augment: Augment | None) -> Transform:
    """Return the transform of an image file's bytes, or of pixels, to the uint8 input.

    In evaluation (`augment` is None) the image is resized, and then its centre is cut out. A square input
    follows torchvision's `Resize(resize_px)`, `CenterCrop`. For another, both sides scale by
    `resize_px / min(image_px)` and the image is resized to just cover that, as timm's `ResizeKeepRatio` does;
    a squashed one is resized to just that, whatever its own shape.

    Raises:
        UserError: colours are to change, but the model reads neither grey nor RGB images.
    """
    if augment is None:
        return _Eval(preprocess)
    if preprocess.num_channels not in LUMA and (augment.color_jitter or augment.policy != "none"):
        raise UserError(
            "augment.color_jitter and augment.policy (in a strong view augment.strong_policy) need 1 or 3 "
            f"channels, the model reads {preprocess.num_channels}; "
            "set them to 0 and 'none'"
        )
    RESIZERS[augment.resizer][1]()
    return _Train(preprocess, augment)


def spec(preprocess: Preprocess) -> Any:
    """Return shape and dtype of one input before it is normalised: bytes [height, width, channels]."""
    import jax

    return jax.ShapeDtypeStruct((*preprocess.image_px, preprocess.num_channels), np.uint8)


def normalise(images: Inputs, preprocess: Preprocess) -> Inputs:
    """Return what the model reads of bytes [batch, height, width, channels] (`on_device.normalise`)."""
    from jtl.inputs import on_device

    return on_device.normalise(images, preprocess)


def augment_batch(
    key: Any,
    streams: dict[str, Inputs],
    targets: Any,
    settings: Mapping[str, Augment],
    preprocess: Preprocess,
) -> tuple[dict[str, Inputs], Any]:
    """Return the streams of normalised images, the first blended with its targets, all with erased boxes.

    `key` is the step's. Streams of equal settings are erased alike, or a discriminator could tell one from
    the other by the boxes.
    """
    import jax

    from jtl.inputs import on_device

    del preprocess
    first, *_ = streams
    alphas = settings[first].mixup_alpha, settings[first].cutmix_alpha
    mixed, targets = on_device.mix(jax.random.fold_in(key, 0), streams[first], targets, *alphas)
    streams = {**streams, first: mixed}
    erased = {
        name: on_device.erase(jax.random.fold_in(key, index), images, settings[name].erase_probability)
        for index, (name, images) in enumerate(streams.items(), start=1)
    }
    return erased, targets


def storage(preprocess: Preprocess, augment: Augment) -> Storage:
    """Return how images that are varied so are kept (`stored`)."""
    from jtl.inputs import stored

    return stored.storage(preprocess, augment)


def converter(before: Preprocess, after: Preprocess) -> Callable[[Inputs], Inputs]:
    """Return what makes of images normalised and sized for one model those for another.

    Raises:
        UserError: one reads another number of channels.
    """
    if before.num_channels != after.num_channels:
        raise UserError(
            f"one model reads images of {before.num_channels} channels, the other of {after.num_channels}; "
            f"expected as many: set preprocess.mean and preprocess.std, or give other weights"
        )
    from jtl.inputs import on_device

    return partial(on_device.renormalise, before=before, after=after)


def model_options(changes: Changes) -> dict[str, Any]:
    """Return the number of channels that the model must read, where the user's statistics say it."""
    return {"num_channels": len(changes.mean)} if changes.mean else {}


def to_channels(
    image: UInt8[np.ndarray, "height width found"], num_channels: int
) -> UInt8[np.ndarray, "height width channels"]:
    """Return the image with as many channels as the model reads: grey is repeated, RGB becomes luma.

    Raises:
        UserError: the number differs in any other way.
    """
    found = image.shape[-1]
    if found == num_channels:
        return image
    if (found, num_channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (found, num_channels) == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    raise UserError(
        f"images have {found} channels, the model reads {num_channels}; change the data or the model's input"
    )


@dataclass(frozen=True)
class _Eval:
    preprocess: Preprocess

    def __call__(self, raw: bytes | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        del rng
        preprocess = self.preprocess
        image = to_channels(pixels_of(raw, preprocess), preprocess.num_channels)
        resized_size = _resized_size(image.shape[:2], preprocess)
        height, width = preprocess.image_px
        # Python's round, half to even, is part of torchvision's CenterCrop.
        top, left = round((resized_size[0] - height) / 2), round((resized_size[1] - width) / 2)
        if math.prod(resized_size) > MAX_RESIZED_PIXELS:
            down, across = (
                found / wanted for found, wanted in zip(image.shape[:2], resized_size, strict=True)
            )
            box = (left * across, top * down, (left + width) * across, (top + height) * down)
            return np.ascontiguousarray(resized(image, preprocess.image_px, preprocess.interpolation, box))
        whole = resized(image, resized_size, preprocess.interpolation)
        return np.ascontiguousarray(whole[top : top + height, left : left + width])


@dataclass(frozen=True)
class _Train:
    """`min_px` is the side below which decoding an image smaller would blur the smallest crop."""

    preprocess: Preprocess
    augment: Augment
    min_px: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_px", least_px(self.preprocess, self.augment))

    def __call__(self, raw: bytes | np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        assert rng is not None, "training varies its images"
        augment, preprocess = self.augment, self.preprocess
        # What is trained on was looked at before (`check`).
        image = pixels_of(raw, preprocess, self.min_px, is_checked=True, is_quick=True)
        box = random_crop(image.shape[:2], preprocess.image_px, augment, rng)
        interpolation = augment.interpolation or preprocess.interpolation
        resize, channels = RESIZERS[augment.resizer][0], preprocess.num_channels
        found = resize(to_channels(image, channels), preprocess.image_px, interpolation, box)
        if rng.random() < augment.flip:
            found = found[:, ::-1]
        if augment.color_jitter or augment.policy != "none":
            varied = to_pillow(np.ascontiguousarray(found))
            if augment.color_jitter:
                varied = policy.jitter(varied, augment.color_jitter, rng)
            apply = policy.POLICIES[augment.policy]
            varied = apply(varied, rng, num_ops=augment.policy_num_ops, magnitude=augment.policy_magnitude)
            found = np.asarray(varied).reshape(found.shape)
        return np.ascontiguousarray(found)


def least_px(preprocess: Preprocess, augment: Augment) -> int:
    """Return the short side that an image needs so that its smallest crop is not enlarged."""
    least_side = math.sqrt(augment.crop_scale[0] * min(1.0, augment.crop_ratio[0]))
    return math.ceil(max(preprocess.image_px) / least_side)


def random_crop(
    size: tuple[int, int], target: tuple[int, int], augment: Augment, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop (left, top, right, bottom) of an image of `size`, as Inception's training does.

    After ten draws that do not fit, it is the largest centred crop whose aspect ratio is allowed.
    """
    height, width = size
    shape = target[1] / target[0]
    low, high = augment.crop_ratio[0] * shape, augment.crop_ratio[1] * shape
    for _ in range(CROP_ATTEMPTS):
        area = height * width * rng.uniform(*augment.crop_scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(1, round(height * high)))
    crop_height = min(height, max(1, round(width / low)))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _resized_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return the (height, width) an image of `size` is resized to before the centre crop."""
    (height, width), resize_px = size, preprocess.resize_px
    if resize_px == 0:
        return preprocess.image_px
    cover_height, cover_width = (side * resize_px // min(preprocess.image_px) for side in preprocess.image_px)
    if preprocess.is_squashed:
        return cover_height, cover_width
    if preprocess.image_px[0] == preprocess.image_px[1]:
        short = min(height, width)
        return int(resize_px * height / short), int(resize_px * width / short)
    ratio = min(height / cover_height, width / cover_width)
    return round(height / ratio), round(width / ratio)


def pixels_of(
    raw: bytes | np.ndarray,
    preprocess: Preprocess,
    min_px: int = 0,
    *,
    is_checked: bool = False,
    is_quick: bool = False,
) -> np.ndarray:
    """Return the pixels of an example: decoded as `pixels.decode` does, where they are a file's bytes."""
    if isinstance(raw, bytes):
        white_level, background = preprocess.white_level, preprocess.background
        return pixels.decode(
            raw,
            min_px,
            white_level=white_level,
            background=background,
            is_checked=is_checked,
            is_quick=is_quick,
        )
    return pixels.checked(raw)


INPUT = Input(
    Preprocess=Preprocess,
    Augment=Augment,
    Changes=Changes,
    settled=settled,
    holds="image",
    unit="images",
    suffixes=SUFFIXES,
    check=check,
    transform=transform,
    spec=spec,
    described=Preprocess.described,
    normalise=normalise,
    augment=augment_batch,
    strong=strong,
    blended=blended,
    varied=varied,
    redrawn=redrawn,
    converter=converter,
    model_options=model_options,
    recognises=formats.is_image,
    told=pixels.told,
    fitted=pixels.fitted,
    glimpse=thumbnail.glimpse,
    views=thumbnail.VIEWS,
    storage=storage,
)
