"""CLIP's and SigLIP's towers against transformers, layer by layer: `make_clip.py` says how."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.models import text_tower, vit
from jtl.weights.names import clip, text
from jtl.weights.names.assign import assign
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens" / "clip.npz"
IMAGES = (2, 32, 32, 3)
ORIGINS = {
    "clip": "huggingface_clip",
    "clip_gelu": "huggingface_clip",
    "clip_legacy": "huggingface_clip",
    "siglip": "huggingface_siglip",
    "openai": "openai",
}
# What OpenAI's files do not say.
OPENAI_IMAGE = {
    "size": "clip_b32",
    "patch_px": 8,
    "image_px": 32,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "mlp_dim": 64,
}
OPENAI_TEXT = {
    "vocabulary": 225, "num_tokens": 12, "dim": 40, "depth": 2, "heads": 4, "mlp_dim": 80,
    "projection_dim": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


def settings(name: str, goldens: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of image and text tower, from the model's own config.json where it has one."""
    if name == "openai":
        return OPENAI_IMAGE, OPENAI_TEXT
    values = json.loads(str(goldens[f"{name}/config"]))
    image, words = clip.of_config(values), text.of_config(values)
    assert image is not None
    assert words is not None
    return image, words


def filled(name: str, origin: Any, shapes: Any, goldens: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the model's tree with the weights the script drew, every tensor of which has its place."""
    drawn = json.loads(str(goldens[f"{name}/shapes"]))
    assignment = assign(origin, drawn)
    assert assignment.unknown == ()
    leaves = tree.flatten({"params": shapes})
    values = {}
    for source, assigned in assignment.filled.items():
        array = np.asarray(draws.tensor(name, source, tuple(drawn[source])))
        expected = tuple(leaves[target].shape for target in assigned.targets)
        values |= zip(assigned.targets, assigned.row.op.forward(array, expected), strict=True)
    assert {leaf: value.shape for leaf, value in values.items()} == {
        leaf: each.shape for leaf, each in leaves.items()
    }
    return tree.unflatten(values)["params"]


def assert_layers_match(prefix: str, intermediates: Any, goldens: dict[str, np.ndarray]) -> None:
    """Check every layer to 1e-5 of its largest value."""
    layers = {key.removeprefix(prefix): golden for key, golden in goldens.items() if key.startswith(prefix)}
    assert len(layers) >= 4
    for layer, golden in layers.items():
        tower = prefix.rstrip("/").rpartition("/")[2]
        found = draws.sampled(f"{tower}/{layer}", intermediates[layer])
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max(), err_msg=layer)


@pytest.mark.parametrize("name", ORIGINS)
def test_both_towers_are_the_references_layer_by_layer(name: str, goldens: dict[str, np.ndarray]) -> None:
    of_image, of_text = settings(name, goldens)
    projection_dim = 0 if name == "siglip" else 24
    config = vit.Config(**of_image, projection_dim=projection_dim, has_unit_features=True)
    model, words = vit.build(config, 0), text_tower.build(text_tower.Config(**of_text))
    params = filled(name, clip.ORIGINS[ORIGINS[name]], model.shapes()[0], goldens)
    text_params = filled(name, text.ORIGINS[ORIGINS[name]], words.shapes(), goldens)
    seen = jax.jit(model.apply)(params, {}, draws.images(name, IMAGES))
    read = jax.jit(words.apply)(text_params, goldens[f"{name}/ids"])
    if name != "openai":
        assert_layers_match(f"{name}/layers/image/", seen.intermediates, goldens)
        assert_layers_match(f"{name}/layers/text/", read.intermediates, goldens)
    scale, bias = words.similarity(text_params)
    image_embeddings, text_embeddings = np.asarray(seen.features), np.asarray(read.embeddings)
    for found, which in ((image_embeddings, "image_embeddings"), (text_embeddings, "text_embeddings")):
        np.testing.assert_allclose(found, goldens[f"{name}/{which}"], rtol=0, atol=1e-5)
    logits = scale * image_embeddings @ text_embeddings.T + bias
    np.testing.assert_allclose(logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)
