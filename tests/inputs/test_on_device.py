"""Normalising, mixing and erasing inside the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jtl.inputs import on_device
from jtl.inputs.preprocess import Preprocess

BATCH, HEIGHT, WIDTH, CLASSES = 8, 12, 10, 5
# Every image is one constant, so that the share of its own pixels can be read off.
IMAGES = jnp.broadcast_to(
    jnp.arange(BATCH, dtype=jnp.float32)[:, None, None, None], (BATCH, HEIGHT, WIDTH, 3)
)
TARGETS = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(CLASSES), BATCH), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 40)

mix = jax.jit(on_device.mix, static_argnums=(3, 4))
erase = jax.jit(on_device.erase, static_argnums=2)


def test_normalising_is_the_formula_for_each_channel() -> None:
    preprocess = Preprocess(mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 0.3))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = (images / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    found = on_device.normalise(jnp.asarray(images), preprocess)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 20.0])
def test_proportions_are_drawn_from_the_beta_distribution(alpha: float) -> None:
    keys = jax.random.split(jax.random.key(1), 4000)
    found = np.sort(jax.vmap(lambda key: on_device.draw_beta(key, alpha))(keys))
    # Kolmogorov-Smirnov at a level of 1 in 1000.
    assert scipy.stats.kstest(found, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_conserves_the_mass_of_labels(alphas: tuple[float, float]) -> None:
    for key in KEYS[:8]:
        _, targets = mix(key, IMAGES, TARGETS, *alphas)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(targets.sum(axis=0), TARGETS.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_take_exactly_the_share_of_pixels_kept(alphas: tuple[float, float]) -> None:
    for key in KEYS:
        images, targets = mix(key, IMAGES, TARGETS, *alphas)
        # Row 3 mixes constants 3 and 2: its mean is 2 + share.
        share = np.asarray(images[3], np.float64).mean() - 2
        assert -1e-5 <= share <= 1 + 1e-5
        np.testing.assert_allclose(
            targets, TARGETS * share + jnp.roll(TARGETS, 1, 0) * (1 - share), atol=1e-5
        )


def test_mixup_blends_and_cutmix_pastes() -> None:
    blended = [mix(key, IMAGES, TARGETS, 0.8, 0.0)[0][3] for key in KEYS[:5]]
    assert all(float(jnp.ptp(image)) == 0 for image in blended)
    pasted = [mix(key, IMAGES, TARGETS, 0.0, 1.0)[0][3] for key in KEYS]
    assert all(set(np.unique(image)) <= {2.0, 3.0} for image in pasted)
    for image in pasted:
        is_cut = np.asarray(image[..., 0]) == 2
        rows, columns = np.flatnonzero(is_cut.any(1)), np.flatnonzero(is_cut.any(0))
        assert is_cut.sum() == len(rows) * len(columns), "the pasted part is one box"


def test_with_both_on_about_half_of_the_batches_are_pasted() -> None:
    pasted = [float(jnp.ptp(mix(key, IMAGES, TARGETS, 50.0, 50.0)[0][3])) > 0 for key in KEYS]
    assert 0.25 < np.mean(pasted) < 0.75


def test_the_mean_share_kept_by_cutmix_is_over_half() -> None:
    shares = [float(mix(key, IMAGES, TARGETS, 0.0, 1.0)[0][3].mean()) - 2 for key in KEYS]
    # The box has half the area in the mean, before the edges of the image cut it.
    assert 0.55 < np.mean(shares) < 0.8


def test_switched_off_is_the_identity() -> None:
    images, targets = mix(KEYS[0], IMAGES, TARGETS, 0.0, 0.0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)
    np.testing.assert_array_equal(erase(KEYS[0], IMAGES, 0.0), IMAGES)


def test_both_are_the_same_for_a_sharded_batch() -> None:
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    expected = mix(KEYS[0], IMAGES, TARGETS, 0.8, 1.0)
    found = mix(KEYS[0], jax.device_put(IMAGES, sharding), jax.device_put(TARGETS, sharding), 0.8, 1.0)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_array_equal(
        erase(KEYS[0], jax.device_put(IMAGES, sharding), 0.5), erase(KEYS[0], IMAGES, 0.5)
    )


def test_erasing_sets_one_box_of_the_right_area_in_as_many_images_as_asked() -> None:
    images = jnp.ones((400, 30, 40, 3))
    found = np.asarray(erase(KEYS[0], images, 0.25))
    is_erased = (found == 0).any(axis=(1, 2, 3))
    assert abs(is_erased.mean() - 0.25) < 0.08
    for image in found[is_erased]:
        cut = (image == 0).all(-1)
        assert (cut == (image == 0).any(-1)).all()
        rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
        assert cut.sum() == len(rows) * len(columns)
        assert 0.015 < cut.mean() < 0.35


def test_erased_boxes_reach_every_pixel() -> None:
    found = np.asarray(erase(KEYS[0], jnp.ones((1000, 10, 10, 1)), 1.0))
    erased = (found == 0).mean(axis=0)[..., 0]
    assert erased.min() > 0.02
    np.testing.assert_allclose(erased, erased[::-1, ::-1], atol=0.08)


def test_both_are_functions_of_their_key() -> None:
    for name, function in (
        ("mix", lambda key: mix(key, IMAGES, TARGETS, 0.8, 1.0)),
        ("erase", lambda key: erase(key, IMAGES, 0.5)),
    ):
        first, again, other = (jax.tree.leaves(function(key))[0] for key in (KEYS[0], KEYS[0], KEYS[1]))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any(), name
