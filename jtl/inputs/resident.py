"""Images that lie on the devices: how they are laid out there, and how a batch is cut from them and varied.

All rows of all images lie in one array [rows, channels, columns], where the longer side of an image is its
rows, whichever that is: so little more is there than the pixels. A crop is a window of these rows and two
small matrices that resize it, as Pillow does, antialiased, bicubic or bilinear. What is drawn for an image
depends on the run's seed and its position in training alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from jtl.inputs import device_policy
from jtl.inputs.image import CROP_ATTEMPTS, Augment
from jtl.inputs.preprocess import Preprocess

Arrays = Mapping[str, Any]


def packed(examples: Sequence[np.ndarray], margin: int) -> dict[str, np.ndarray]:
    """Return images as they lie on the devices, with `margin` rows behind the last.

    Grey images among others take their channels; where all are grey, there is one.
    """
    sizes = np.array([each.shape[:2] for each in examples], np.int32)
    channels = max(each.shape[-1] for each in examples)
    lengths = sizes.max(axis=1).astype(np.int64)
    first_rows = np.cumsum(lengths) - lengths
    pixels = np.zeros((int(lengths.sum()) + margin, channels, int(sizes.min(axis=1).max())), np.uint8)
    for first, (height, width), each in zip(first_rows.tolist(), sizes.tolist(), examples, strict=True):
        turned = each.transpose((1, 2, 0) if width > height else (0, 2, 1))
        pixels[first : first + len(turned), :, : turned.shape[-1]] = turned
    return {"pixels": pixels, "first_row": first_rows.astype(np.int32), "size": sizes}


def pack(
    preprocess: Preprocess, augment: Augment, examples: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], "Vary"]:
    """Return the arrays of kept examples, and the function (key, arrays, rows, positions) → batch."""
    longest = max(max(each.shape[:2]) for each in examples)
    short = max(min(each.shape[:2]) for each in examples)
    window = _window(short, longest, preprocess, augment)
    return packed(examples, window), Vary(preprocess, augment, window)


@dataclass(frozen=True)
class Vary:
    """The batch of the examples in `rows`, each varied for its position: what the host's transform gives.

    The `window` is how many rows the largest crop reaches over.
    """

    preprocess: Preprocess
    augment: Augment
    window: int

    def __call__(
        self,
        key: Key[Array, ""],
        arrays: Arrays,
        rows: Int[Array, " batch"],
        positions: UInt32[Array, "batch 2"],
    ) -> UInt8[Array, "batch height width channels"]:
        """Return the batch; `key` is the run's, `positions` are of 64 bits, the upper half first."""

        def one(row: Int[Array, ""], position: UInt32[Array, " 2"]) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key, position[0]), position[1])
            crop_key, flip_key, jitter_key, policy_key = jax.random.split(own, 4)
            is_flipped = jax.random.uniform(flip_key) < self.augment.flip
            box = random_crop(crop_key, arrays["size"][row], self.preprocess.image_px, self.augment)
            image = self.cut(arrays, row, box, is_flipped)
            if self.augment.color_jitter:
                image = device_policy.jitter(jitter_key, image, self.augment.color_jitter)
            vary = device_policy.POLICIES[self.augment.policy]
            image = vary(policy_key, image, self.augment.policy_num_ops, self.augment.policy_magnitude)
            return image.astype(jnp.uint8)

        return jax.vmap(one)(rows, positions)

    def cut(
        self, arrays: Arrays, row: Int[Array, ""], box: Float[Array, " 4"], is_flipped: Bool[Array, ""]
    ) -> Float[Array, "height width channels"]:
        """Return a crop (left, top, width, height) resized to the input, in whole numbers."""
        pixels, out = arrays["pixels"], self.preprocess.image_px
        size = arrays["size"][row].astype(jnp.float32)
        is_wide = size[1] > size[0]
        height, width = (
            _Side(box[1], box[3], size[0], out[0], False),
            _Side(box[0], box[2], size[1], out[1], is_flipped),
        )
        along, across = _chosen(is_wide, width, height), _chosen(is_wide, height, width)
        method = FILTERS[self.augment.interpolation or self.preprocess.interpolation]
        reach = method.support * jnp.maximum(along.extent / along.out, 1.0)
        first = jnp.clip(jnp.floor(along.start - reach), 0, along.size - 1)
        start = arrays["first_row"][row] + first.astype(jnp.int32)
        cut = jax.lax.dynamic_slice(pixels, (start, 0, 0), (self.window, *pixels.shape[1:]))
        num_out = max(out)
        down = _weights(method, along, num_out, first + jnp.arange(self.window))
        over = _weights(method, across, num_out, jnp.arange(pixels.shape[2], dtype=jnp.float32))
        found = jnp.einsum("pr,rcq->pcq", down, jnp.einsum("rcs,qs->rcq", cut.astype(jnp.float32), over))
        image = jnp.where(is_wide, found.transpose(2, 0, 1), found.transpose(0, 2, 1))
        image = jnp.clip(jnp.floor(image[: out[0], : out[1]] + 0.5), 0, 255)
        channels = self.preprocess.num_channels
        return image if image.shape[-1] == channels else jnp.repeat(image, channels, axis=-1)


def random_crop(
    key: Key[Array, ""], size: Int[Array, " 2"], target: tuple[int, int], augment: Augment
) -> Float[Array, " 4"]:
    """Draw a crop (left, top, width, height) of an image of `size` as `image.random_crop` does."""
    height, width = size[0].astype(jnp.float32), size[1].astype(jnp.float32)
    shape = target[1] / target[0]
    low, high = augment.crop_ratio[0] * shape, augment.crop_ratio[1] * shape
    draws = jax.random.uniform(key, (4, CROP_ATTEMPTS))
    scales, ends = augment.crop_scale, (math.log(low), math.log(high))
    area = height * width * (scales[0] + draws[0] * (scales[1] - scales[0]))
    ratio = jnp.exp(ends[0] + draws[1] * (ends[1] - ends[0]))
    widths, heights = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    lefts = jnp.minimum(jnp.floor(draws[2] * (width - widths + 1)), width - widths)
    tops = jnp.minimum(jnp.floor(draws[3] * (height - heights + 1)), height - heights)
    is_inside = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    whole_width = jnp.minimum(width, jnp.maximum(1, jnp.round(height * high)))
    whole_height = jnp.minimum(height, jnp.maximum(1, jnp.round(width / low)))
    whole = (
        jnp.floor((width - whole_width) / 2),
        jnp.floor((height - whole_height) / 2),
        whole_width,
        whole_height,
    )
    drawn = jnp.stack([lefts, tops, widths, heights])[:, jnp.argmax(is_inside)]
    return jnp.where(is_inside.any(), drawn, jnp.stack(whole))


class _Side(NamedTuple):
    """A crop along one side of an image: where it starts and how far it goes, of `size` to `out` pixels."""

    start: Any
    extent: Any
    size: Any
    out: Any
    is_flipped: Any


class _Filter(NamedTuple):
    support: float
    weight: Callable[[Array], Array]


def _triangle(distance: Array) -> Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _cubic(distance: Array) -> Array:
    """Return Keys's kernel with a = -0.5."""
    near = jnp.abs(distance)
    inner = (1.5 * near - 2.5) * near * near + 1
    outer = ((-0.5 * near + 2.5) * near - 4) * near + 2
    return jnp.where(near < 1, inner, jnp.where(near < 2, outer, 0.0))


FILTERS: Mapping[str, _Filter] = {"bilinear": _Filter(1.0, _triangle), "bicubic": _Filter(2.0, _cubic)}


def _chosen(is_first: Bool[Array, ""], first: _Side, second: _Side) -> _Side:
    return jax.tree.map(lambda one, other: jnp.where(is_first, one, other), first, second)


def _weights(
    method: _Filter, side: _Side, num_out: int, places: Float[Array, " found"]
) -> Float[Array, "out found"]:
    """Return how much each of the pixels at `places` of a side gives to each pixel of the input."""
    scale = side.extent / side.out
    numbers = jnp.arange(num_out, dtype=jnp.float32)
    numbers = jnp.where(side.is_flipped, side.out - 1 - numbers, numbers)
    centres = side.start + (numbers + 0.5) * scale
    distances = (places[None, :] + 0.5 - centres[:, None]) / jnp.maximum(scale, 1.0)
    is_there = (places >= 0) & (places < side.size)
    weights = jnp.where(is_there[None, :], method.weight(distances), 0.0)
    # Behind the last pixel of the shorter side of an input there may be none.
    sums = weights.sum(axis=1, keepdims=True)
    return weights / jnp.where(sums == 0, 1.0, sums)


def _window(short: int, longest: int, preprocess: Preprocess, augment: Augment) -> int:
    """Return how many rows the largest crop of images reaches over, with what its filter reads around it."""
    height, width = preprocess.image_px
    low, high = (each * width / height for each in augment.crop_ratio)
    extent = min(longest, math.ceil(short * max(high, 1 / low)) + 1)
    support = FILTERS[augment.interpolation or preprocess.interpolation].support
    reach = math.ceil(support * max(extent / min(height, width), 1.0)) + 1
    return min(longest, extent + 2 * reach)
