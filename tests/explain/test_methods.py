"""Explanations against what they must equal: closed forms, completeness, sums, and PyTorch's goldens."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.explain import METHODS, attention, embeddings, examples, grad_cam, taps
from jtl.models import MODELS
from jtl.predictor import Predictor
from tests import tiny
from tests.goldens import explained_models

# Compiles for long.
pytestmark = pytest.mark.slow

NUM_EXAMPLES = 3
IMAGES = [name for name, family in MODELS.items() if family.input == "image"]


@cache
def built(family: str, **changes: Any) -> Predictor:
    return tiny.make_predictor(family, **changes)


def explained(parts: Predictor, method: Any, classes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the relevance of random inputs, with nothing blank about the blank ones but the kind's own."""
    inputs = tiny.inputs_of(parts.model, len(classes), seed)
    blank = examples.BLANK[MODELS[parts.settings.model.name].input](inputs, parts.preprocess)
    run = jax.jit(lambda values: method(parts, values, inputs, blank, jnp.asarray(classes)))
    return np.asarray(run(parts.values))


@pytest.mark.parametrize("family", ["resnet", "cifar_resnet"])
def test_grad_cam_of_a_linear_head_on_a_mean_is_the_class_activation_map(family: str) -> None:
    """Selvaraju et al. 2017, sec. 3.1: the slope of a mean is the head's own weight, over the places."""
    parts, classes = built(family), np.array([0, 1, 2])
    inputs = tiny.inputs_of(parts.model, NUM_EXAMPLES)
    outputs = parts.model.apply(parts.values["params"], parts.values["model_state"], inputs)
    last = sorted(name for name in outputs.intermediates if name.startswith("stage"))[-1]
    maps = np.asarray(outputs.intermediates[last])
    kernel = np.asarray(parts.values["params"]["head"]["kernel"])
    expected = np.maximum(np.einsum("bhwc,cb->bhw", maps, kernel[:, classes]), 0) / maps[0, ..., 0].size
    np.testing.assert_allclose(explained(parts, grad_cam.explain, classes), expected, atol=1e-5)


@pytest.mark.parametrize("family", IMAGES)
def test_methods_a_family_offers_give_a_map_of_every_image(family: str) -> None:
    parts, offered = built(family), []
    for name, method in METHODS.items():
        if method.is_offered(parts.model):
            found = explained(parts, method.explain, np.array([0, 1, 2]))
            assert found.shape[0] == NUM_EXAMPLES
            assert found.ndim == 3
            assert found.max() > 0, "nothing is relevant"
            assert method.is_signed or found.min() >= 0
            offered.append(name)
    assert offered


def test_features_of_an_inner_stage_are_explained_by_its_map() -> None:
    assert built("resnet", features=("stage1",)).model.inside.feature_map == "block1/unit1"
    assert (
        built("vit", features=("block0",))
        .model.inside.attention.layers[-1]
        .query.startswith("Transformer/encoderblock_0/")
    )
    found = explained(built("resnet", features=("stage1",)), grad_cam.explain, np.array([0]))
    assert found.max() > 0


def test_integrated_gradients_add_up_to_the_difference_of_the_logits() -> None:
    parts, classes = built("bert"), np.array([0, 1, 2])
    inputs = tiny.inputs_of(parts.model, NUM_EXAMPLES)
    blank = examples.BLANK["tokens"](inputs, parts.preprocess)
    both = [
        parts.model.apply(parts.values["params"], parts.values["model_state"], each).logits
        for each in (inputs, blank)
    ]
    expected = (np.asarray(both[0]) - np.asarray(both[1]))[np.arange(3), classes]
    found = explained(parts, embeddings.integrated_gradients, classes)
    np.testing.assert_allclose(found.sum(axis=1), expected, atol=2e-3 * np.abs(expected).max())
    assert np.all(found[~np.asarray(inputs["mask"])] == 0), "padding is told to matter"


def test_special_tokens_have_no_part_in_integrated_gradients() -> None:
    parts = built("bert")
    inputs = tiny.inputs_of(parts.model, NUM_EXAMPLES)
    ids = np.array(inputs["ids"])
    ids[:, 0] = parts.preprocess.special_ids[0]
    inputs = {**inputs, "ids": jnp.asarray(ids)}
    blank = examples.BLANK["tokens"](inputs, parts.preprocess)
    found = embeddings.integrated_gradients(parts, parts.values, inputs, blank, jnp.zeros(NUM_EXAMPLES, int))
    assert np.all(np.asarray(found)[:, 0] == 0)


def test_gradient_times_input_is_the_slope_along_the_embeddings() -> None:
    """Scaling the words' embeddings by 1 + e changes the logit by e times the sum of all tokens' values."""
    parts, step = built("bert"), 1e-2
    inputs, classes = tiny.inputs_of(parts.model, NUM_EXAMPLES), jnp.array([0, 1, 2])
    table = parts.values["params"]["embeddings"]["word_embeddings"]["embedding"]

    def logits(scale: float) -> np.ndarray:
        embeddings = {**parts.values["params"]["embeddings"], "word_embeddings": {"embedding": table * scale}}
        params = {**parts.values["params"], "embeddings": embeddings}
        found = parts.model.apply(params, parts.values["model_state"], inputs).logits
        return np.float64(np.asarray(found)[np.arange(3), np.asarray(classes)])

    expected = (logits(1 + step) - logits(1 - step)) / (2 * step)
    found = embeddings.gradient_x_input(parts, parts.values, inputs, inputs, classes)
    np.testing.assert_allclose(np.asarray(found).sum(axis=1), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("pool", ["cls", "mean", "pooler"])
def test_rollout_sums_to_one_over_the_tokens_that_are_there(pool: str) -> None:
    parts = built("bert", pool=pool)
    mask = np.asarray(tiny.inputs_of(parts.model, NUM_EXAMPLES)["mask"])
    found = explained(parts, attention.rollout, np.zeros(NUM_EXAMPLES, int))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert np.all(found[~mask] == 0)


def test_rolled_rows_sum_to_one() -> None:
    random = np.random.default_rng(0)
    weights = jax.nn.softmax(jnp.asarray(random.normal(size=(2, 3, 5, 5))), axis=-1)
    layer = attention.Attended(weights, weights)
    whole = attention.rolled(attention.rolled(jnp.broadcast_to(jnp.eye(5), (2, 5, 5)), layer), layer)
    np.testing.assert_allclose(whole.sum(axis=-1), 1.0, atol=1e-6)


def test_weights_computed_anew_gather_what_the_layer_gathers() -> None:
    parts = built("vit")
    layer = parts.model.inside.attention.layers[0]
    wanted = attention._taps(layer)
    inputs = tiny.inputs_of(parts.model, NUM_EXAMPLES)
    _, found, slopes = taps.slopes(
        parts, parts.values, inputs, wanted, taps.of_class(jnp.zeros(NUM_EXAMPLES, int))
    )
    seen = parts.model.inside.attention.seen(inputs)
    weights = attention._attended(layer, found, slopes, seen).weights
    gathered = jnp.einsum("bhqk,bkhd->bqhd", weights, found[taps.Tap(layer.value)])
    np.testing.assert_allclose(gathered, found[taps.Tap(layer.out, is_input=True)], atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"num_prompts": 2}, {"pool": "map"}, {"pool": "gap"}, {"num_registers": 2}]
)
def test_attention_is_followed_through_prompts_registers_and_every_pool(changes: dict[str, Any]) -> None:
    parts = built("vit", **changes)
    for method in (attention.rollout, attention.gradient_weighted):
        found = explained(parts, method, np.array([0, 1, 2]))
        assert found.shape == (NUM_EXAMPLES, 2, 2)
        assert np.isfinite(found).all()
    if parts.model.inside.attention.grid.prefix == 0:
        rolled = explained(parts, attention.rollout, np.array([0, 1, 2]))
        np.testing.assert_allclose(rolled.sum(axis=(1, 2)), 1.0, atol=1e-5)


@pytest.mark.parametrize("case", ["convnext", "vit_rollout", "vit_gradient"])
def test_maps_equal_those_of_pytorch(case: str) -> None:
    """Made by `tests/goldens/make_explain.py`: PyTorch's own autograd on timm's models of the same values."""
    path = Path(__file__).parents[1] / "goldens" / "explain.npz"
    with np.load(path) as file:
        parts = golden_parts(case.split("_")[0])
        images, classes = map(jnp.asarray, explained_models.images())
        found = CASES[case](parts, parts.values, images, images, classes)
        expected = file[case]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


CASES = {
    "convnext": grad_cam.explain,
    "vit_rollout": attention.rollout,
    "vit_gradient": attention.gradient_weighted,
}


def golden_parts(family: str) -> Predictor:
    parts = built(family, **explained_models.FIELDS[family])
    leaves = explained_models.leaves(family)
    both = tree.unflatten(leaves)
    return parts._replace(values={"params": both["params"], "model_state": both.get("model_state", {})})
