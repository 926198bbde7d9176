"""The moments of a batch that batch normalisation takes for its running ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import rng
from jtl.models import MODELS
from tests import tiny

# Families with running statistics.
NORMALISED = [name for name, family in MODELS.items() if family.build(family.tiny(), 3).shapes()[1]]


@pytest.mark.parametrize("name", NORMALISED)
def test_moments_are_what_training_normalises_by(name: str) -> None:
    """With the moments of a batch as its statistics, evaluation of that batch is its training pass."""
    config = MODELS[name].tiny()
    model = MODELS[name].build(replace(config, remat="full"), tiny.NUM_CLASSES)
    params, model_state = model.init(rng.key(0, "init"))
    shape = (6, *model.preprocess.image_px, model.preprocess.num_channels)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask = np.array([True, True, True, True, False, False])

    @jax.jit
    def both() -> tuple[jax.Array, jax.Array]:
        measured = model.moments(params, model_state, images, mask)
        expected = model.apply(params, model_state, images[:4], train=True, key=None)
        return model.apply(params, measured, images[:4], train=False).features, expected.features

    found, expected = both()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_moments_of_the_first_layer_are_those_of_its_maps() -> None:
    model = MODELS["cifar_resnet"].build(MODELS["cifar_resnet"].tiny(), tiny.NUM_CLASSES)
    params, model_state = model.init(rng.key(0, "init"))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    moments = jax.jit(model.moments)(params, model_state, images, np.ones(5, bool))
    measured = moments["batch_stats"]["bn_root"]
    maps = tiny.convolved(images, params["conv_root"]["kernel"])
    np.testing.assert_allclose(measured["mean"], maps.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured["var"], maps.var((0, 1, 2)), rtol=1e-5)


def test_model_without_running_statistics_has_no_moments() -> None:
    model = MODELS["vit"].build(MODELS["vit"].tiny(), tiny.NUM_CLASSES)
    shapes = (*model.shapes(), jnp.zeros((1, *model.preprocess.image_px, 3)), jnp.ones(1, bool))
    assert jax.eval_shape(model.moments, *shapes) == {}
