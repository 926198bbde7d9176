"""A classifier that can only have learnt from one quarter of a picture is said to look at that quarter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.explain import METHODS, examples
from jtl.models import MODELS
from jtl.strategies.contract import TRAIN
from jtl.training import optim
from tests import tiny

NUM_STEPS, BATCH = 150, 32
# With the least share of pictures, of which one in four would be right by chance: where tokens exchange what
# they hold, as in a ViT, a quarter's colour also stands in the other tokens.
CASES = [("vit", "attention_gradient", 8, 0.6), ("resnet", "grad_cam", 16, 0.9)]


def drawn(random: np.random.Generator, size: int, side: int) -> tuple[Any, Any, Any]:
    """Return pictures of noise with one quarter of a class's colour, the classes, and which quarter it is."""
    images = random.integers(96, 160, (size, side, side, 3)).astype(np.uint8)
    labels, places = random.integers(0, 3, size), random.integers(0, 4, size)
    half = side // 2
    for image, label, place in zip(images, labels, places, strict=True):
        row, column = divmod(int(place), 2)
        quarter = image[row * half : (row + 1) * half, column * half : (column + 1) * half]
        quarter[:] = 20
        quarter[..., label] = 235
    return images, labels, places


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method", "side", "least"), CASES)
def test_explanation_points_to_what_was_learnt(family: str, method: str, side: int, least: float) -> None:
    optimizer = optim.Config(learning_rate=3e-3, schedule="constant", warmup=0.0)
    parts, params, model_state = tiny.make_parts(family, num_steps=NUM_STEPS, optimizer=optimizer)
    random = np.random.default_rng(0)
    batches = []
    for _ in range(NUM_STEPS):
        images, labels, _ = drawn(random, BATCH, side)
        whole = {"inputs": images, "label": labels, "mask": np.ones(BATCH, bool), "id": np.arange(BATCH)}
        batches.append({TRAIN: whole})
    state, _ = tiny.Trainer(parts).train(tiny.make_state(parts, params, model_state), batches)
    predictor = tiny.make_predictor(family)
    trained = {"params": jax.device_get(state.trainable), "model_state": jax.device_get(state.model_state)}
    predictor = predictor._replace(values=trained)
    images, labels, places = drawn(random, 64, side)
    step = examples.make_step(predictor, method)
    predictions, classes, relevance = (np.asarray(each) for each in step(trained, jnp.asarray(images)))
    assert predictions.shape == (64, 3)
    is_right = classes == labels
    assert is_right.mean() > 0.9, "the model has not learnt it"
    rows, columns = relevance.shape[1:]
    quarters = relevance.reshape(64, 2, rows // 2, 2, columns // 2).sum(axis=(2, 4)).reshape(64, 4)
    assert np.mean(quarters.argmax(axis=1)[is_right] == places[is_right]) > least
    assert METHODS[method].is_offered(MODELS[family].build(MODELS[family].tiny(), 3))
