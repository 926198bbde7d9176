"""Operations inside the compiled step against Pillow's: no pixel differs by more than 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl.inputs import device_policy, policy

# Compiles for long.
pytestmark = pytest.mark.slow

SIZE = (23, 31)
LEVELS = (-1.0, -0.37, 0.2, 1.0)
NAMES = tuple(policy.TRIVIALAUGMENT)


def _image(channels: int, seed: int = 0) -> np.ndarray:
    """A picture with both smooth parts and edges, of few values in one channel."""
    random = np.random.default_rng(seed)
    small = random.integers(20, 230, (4, 5, channels), np.uint8)
    planes = [
        np.asarray(Image.fromarray(small[..., each]).resize(SIZE[::-1], Image.Resampling.BICUBIC))
        for each in range(channels)
    ]
    found = np.stack(planes, axis=-1).copy()
    found[5:9, 4:20] = random.integers(0, 256, (4, 16, channels), np.uint8)
    return found


@pytest.fixture(scope="module")
def applied() -> object:
    """All operations as one program, on several levels at once."""

    def every(index: jax.Array, level: jax.Array, image: jax.Array) -> jax.Array:
        return device_policy.applied(NAMES, index, level, image)

    return jax.jit(jax.vmap(every))


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_equal_pillows_to_within_one(applied: object, channels: int) -> None:
    image = _image(channels)
    cases = [
        (place, (level if each.is_signed else abs(level)) * each.reach)
        for place, each in enumerate(policy.TRIVIALAUGMENT.values())
        for level in LEVELS
    ]
    index, level = (jnp.asarray(values) for values in zip(*cases, strict=True))
    images = jnp.broadcast_to(jnp.float32(image), (len(cases), *image.shape))
    found = np.asarray(applied(index, level.astype(jnp.float32), images))  # pyright: ignore[reportCallIssue]
    for (place, strength), ours in zip(cases, found, strict=True):
        operation = policy.TRIVIALAUGMENT[NAMES[place]]
        pillow = Image.fromarray(image[..., 0] if channels == 1 else image)
        theirs = np.asarray(operation.apply(pillow, strength)).reshape(image.shape)
        differences = np.abs(ours - theirs)
        # Where a warp meets the edge of the picture, a rounding decides whether a pixel is outside.
        num_far = int((differences > 1).any(axis=-1).sum())
        assert num_far <= (3 if NAMES[place] in device_policy._AFFINE else 0), (
            NAMES[place],
            strength,
            num_far,
        )


def test_every_operation_has_its_way_on_the_device() -> None:
    ways = [
        name for way in (device_policy._AFFINE, device_policy._DULL, device_policy._TABLES) for name in way
    ]
    assert sorted([*ways, "identity"]) == sorted(policy.TRIVIALAUGMENT) == sorted(policy.RANDAUGMENT)
    assert policy.POLICIES.keys() == device_policy.POLICIES.keys()


def test_jitter_has_the_hosts_colour_statistics() -> None:
    image, strength, number = _image(3), 0.4, 400
    keys = jax.random.split(jax.random.key(0), number)
    vary = jax.jit(jax.vmap(lambda key: device_policy.jitter(key, jnp.float32(image), strength)))
    ours = np.asarray(vary(keys))
    random = np.random.default_rng(0)
    theirs = np.stack(
        [np.asarray(policy.jitter(Image.fromarray(image), strength, random)) for _ in range(number)]
    )
    _assert_alike(_colours(ours), _colours(np.float64(theirs)))


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_policies_have_the_hosts_colour_statistics(name: str) -> None:
    image, number = _image(3), 600
    apply = device_policy.POLICIES[name]
    vary = jax.jit(jax.vmap(lambda key: apply(key, jnp.float32(image), 2, 6.0)))
    ours = np.asarray(vary(jax.random.split(jax.random.key(1), number)))
    random = np.random.default_rng(1)
    theirs = [
        np.asarray(policy.POLICIES[name](Image.fromarray(image), random, num_ops=2, magnitude=6.0))
        for _ in range(number)
    ]
    _assert_alike(_colours(ours), _colours(np.float64(np.stack(theirs))))


def _colours(images: np.ndarray) -> np.ndarray:
    """Return the means and deviations of each image's channels, [images, 6]."""
    return np.concatenate([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)


def _assert_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Means within five standard errors of their difference, deviations within a fifth."""
    error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.2)
