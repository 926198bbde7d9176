"""`policy` inside the compiled step: the same operations with the same reach, on one image of whole numbers.

An image is float32 [height, width, channels] of 0 … 255. Under `vmap` every image takes the way of every
operation, so these are joined to three: one warp, one blend with a duller image, one table of values. Pillow
rounds the same way; no pixel differs by more than 1 (the tests).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jtl.inputs import policy

Image = Float[Array, "height width channels"]
# Luma of ITU-R 601 in 65,536ths, as Pillow has it.
LUMA, LUMA_ONE = (19595, 38470, 7471), 65_536
NUM_VALUES = 256


def jitter(key: Key[Array, ""], image: Image, strength: float) -> Image:
    """Scale brightness, contrast and saturation by factors within `strength` of 1, in random order."""
    order_key, factor_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(_JITTERED))
    levels = jax.random.uniform(factor_key, (len(_JITTERED),), minval=-strength, maxval=strength)
    for place in range(len(_JITTERED)):
        dull = jnp.stack([_DULL[name](image) for name in _JITTERED])[order[place]]
        image = _blended(dull, image, 1 + levels[place])
    return image


def randaugment(key: Key[Array, ""], image: Image, num_ops: int, magnitude: float) -> Image:
    """Apply `num_ops` random operations, all at `magnitude` of `policy.MAX_MAGNITUDE`."""
    for each in jax.random.split(key, num_ops):
        strength = jnp.asarray(magnitude / policy.MAX_MAGNITUDE, jnp.float32)
        image = _random(policy.RANDAUGMENT, each, image, strength)
    return image


def trivialaugment(key: Key[Array, ""], image: Image, num_ops: int, magnitude: float) -> Image:
    """Apply one random operation at a random strength."""
    del num_ops, magnitude
    strength_key, key = jax.random.split(key)
    return _random(policy.TRIVIALAUGMENT, key, image, jax.random.uniform(strength_key))


def none(key: Key[Array, ""], image: Image, num_ops: int, magnitude: float) -> Image:
    """Return the image as it is."""
    del key, num_ops, magnitude
    return image


POLICIES: Mapping[str, Callable[..., Image]] = {
    "none": none,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}


def applied(names: tuple[str, ...], index: Int[Array, ""], level: Float[Array, ""], image: Image) -> Image:
    """Return the image after the operation `names[index]` at a level."""
    height, width, _ = image.shape
    unmoved = jnp.asarray((1, 0, 0, 0, 1, 0), jnp.float32)
    moves = [
        jnp.stack(jnp.broadcast_arrays(*map(jnp.float32, _AFFINE[name](level, height, width))))
        if name in _AFFINE
        else unmoved
        for name in names
    ]
    moved = _warped(image, jnp.stack(moves)[index])
    dulls = [_DULL[name](image) if name in _DULL else image for name in names]
    blended = _blended(jnp.stack(dulls)[index], image, 1 + level)
    whole = image.astype(jnp.int32)
    tables = {name: _TABLES[name](level, _counts(whole)) for name in names if name in _TABLES}
    same = jnp.broadcast_to(jnp.arange(NUM_VALUES), (image.shape[-1], NUM_VALUES))
    table = jnp.stack([tables.get(name, same) for name in names])[index]
    looked_up = jax.vmap(lambda values, plane: values[plane], (0, 2), 2)(table, whole).astype(image.dtype)
    group = jnp.asarray([_group(name) for name in names])[index]
    return jnp.stack([image, moved, blended, looked_up])[group]


def _random(
    operations: Mapping[str, policy.Operation], key: Key[Array, ""], image: Image, strength: Float[Array, ""]
) -> Image:
    index_key, sign_key = jax.random.split(key)
    names = tuple(operations)
    index = jax.random.randint(index_key, (), 0, len(names))
    reach = jnp.asarray([each.reach for each in operations.values()], jnp.float32)[index]
    is_signed = jnp.asarray([each.is_signed for each in operations.values()])[index]
    sign = jnp.where(is_signed & jax.random.bernoulli(sign_key), -1.0, 1.0)
    return applied(names, index, sign * strength * reach, image)


def _group(name: str) -> int:
    return next((place for place, names in enumerate((_AFFINE, _DULL, _TABLES), 1) if name in names), 0)


def _blended(dull: Image, image: Image, factor: Float[Array, ""]) -> Image:
    return jnp.floor(jnp.clip(dull + factor * (image - dull), 0, 255))


def _grey(image: Image) -> Image:
    """Return the luma, in as many channels as the image has."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.asarray(LUMA, jnp.int32)
    sums = (image.astype(jnp.int32) * weights[None, None]).sum(axis=-1, keepdims=True) + LUMA_ONE // 2
    return jnp.broadcast_to((sums // LUMA_ONE).astype(image.dtype), image.shape)


def _black(image: Image) -> Image:
    return jnp.zeros_like(image)


def _mean_grey(image: Image) -> Image:
    luma = _grey(image)[..., 0].astype(jnp.int32)
    mean = jnp.floor(luma.sum() / luma.size + 0.5)
    return jnp.full_like(image, mean.astype(image.dtype))


def _smooth(image: Image) -> Image:
    """Return the image smoothed by Pillow's 3 x 3 filter, which leaves the edge as it is."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    height, width, _ = image.shape
    sums = 4 * image
    for down in range(3):
        for across in range(3):
            sums += padded[down : down + height, across : across + width]
    rows, columns = jnp.arange(height), jnp.arange(width)
    is_inside = ((rows > 0) & (rows < height - 1))[:, None] & ((columns > 0) & (columns < width - 1))[None]
    return jnp.where(is_inside[..., None], jnp.floor(sums / 13 + 0.5), image)


def _warped(image: Image, move: Float[Array, " 6"]) -> Image:
    """Return the image whose pixel (x, y) is that of `move`, between its four neighbours; 0 outside."""
    height, width, channels = image.shape
    x = jnp.arange(width)[None, :] + 0.5
    y = jnp.arange(height)[:, None] + 0.5
    from_x = move[0] * x + move[1] * y + move[2]
    from_y = move[3] * x + move[4] * y + move[5]
    is_inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    left, top = jnp.floor(from_x - 0.5), jnp.floor(from_y - 0.5)
    right_share, lower_share = from_x - 0.5 - left, from_y - 0.5 - top
    flat = image.reshape(-1, channels)

    def at(down: int, across: int) -> Array:
        row = jnp.clip(top + down, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(left + across, 0, width - 1).astype(jnp.int32)
        return flat[row * width + column]

    across = right_share[..., None]
    upper = at(0, 0) + (at(0, 1) - at(0, 0)) * across
    lower = at(1, 0) + (at(1, 1) - at(1, 0)) * across
    found = jnp.floor(upper + (lower - upper) * lower_share[..., None])
    return jnp.where(is_inside[..., None], found, 0)


def _rotation(level: Array, height: int, width: int) -> tuple[Array | float, ...]:
    turn = -jnp.radians(level)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    middle_x, middle_y = width / 2, height / 2
    right = middle_x - cos * middle_x - sin * middle_y
    down = middle_y + sin * middle_x - cos * middle_y
    return cos, sin, right, -sin, cos, down


def _counts(image: Int[Array, "height width channels"]) -> Int[Array, "channels values"]:
    """Return how often each value stands in each channel."""
    planes = image.reshape(-1, image.shape[-1]).T
    return jax.vmap(lambda plane: jnp.zeros(NUM_VALUES, jnp.int32).at[plane].add(1))(planes)


def _posterized(level: Array, counts: Array) -> Array:
    dropped = jnp.round(level).astype(jnp.int32)
    values = (jnp.arange(NUM_VALUES) >> dropped) << dropped
    return jnp.broadcast_to(values, counts.shape)


def _solarized(level: Array, counts: Array) -> Array:
    values = jnp.arange(NUM_VALUES)
    kept = jnp.where(values < jnp.round(256 - level), values, 255 - values)
    return jnp.broadcast_to(kept, counts.shape)


def _stretched(level: Array, counts: Array) -> Array:
    del level
    values = jnp.arange(NUM_VALUES)[None]
    least = jnp.argmax(counts > 0, axis=-1, keepdims=True)
    most = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=-1, keepdims=True)
    span = jnp.maximum(most - least, 1)
    return jnp.where(most > least, jnp.clip((values - least) * 255 // span, 0, 255), values)


def _equalized(level: Array, counts: Array) -> Array:
    del level
    values = jnp.arange(NUM_VALUES)[None]
    last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=-1, keepdims=True)
    last_count = jnp.take_along_axis(counts, last, axis=-1)
    step = (counts.sum(axis=-1, keepdims=True) - last_count) // 255
    below = jnp.cumsum(counts, axis=-1) - counts
    found = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, found, values)


_AFFINE: Mapping[str, Callable[..., tuple[Array | float, ...]]] = {
    "shear_x": lambda level, height, width: (1.0, level, -level * height / 2, 0.0, 1.0, 0.0),
    "shear_y": lambda level, height, width: (1.0, 0.0, 0.0, level, 1.0, -level * width / 2),
    "translate_x": lambda level, height, width: (1.0, 0.0, level * width, 0.0, 1.0, 0.0),
    "translate_y": lambda level, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, level * height),
    "rotate": _rotation,
}
# What an image is blended with: at factor 1 nothing changes, beyond it the difference grows.
_DULL: Mapping[str, Callable[[Image], Image]] = {
    "brightness": _black,
    "contrast": _mean_grey,
    "saturation": _grey,
    "sharpness": _smooth,
}
_TABLES: Mapping[str, Callable[[Array, Array], Array]] = {
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _stretched,
    "equalize": _equalized,
}
_JITTERED = ("brightness", "contrast", "saturation")
