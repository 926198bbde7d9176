"""Hugging Face's Flax files: opened as their repositories have them, equal to the classes that wrote them.

`tests/goldens/make_flax.py` says how `flax.npz` was made.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.weights import Config, convert, text_towers
from jtl.weights.hub import beside, objects
from jtl.weights.load import load
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens" / "flax.npz"
IMAGES = (2, 32, 32, 3)
CLASSIFIERS = {
    "flax_vit": "vit",
    "flax_dinov2": "vit",
    "flax_resnet": "resnet",
    "flax_resnet_basic": "resnet",
}
# The layers whose outputs transformers calls hidden states, in order; a ResNet's are channels first.
LAYERS = {"vit": ("embedding", "block0", "block1"), "resnet": ("root", "stage1", "stage2")}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, goldens: dict[str, np.ndarray]) -> dict[str, Path]:
    """Folders with flax_model.msgpack and config.json."""
    made = {}
    for name in (*CLASSIFIERS, "flax_clip"):
        made[name] = tmp_path_factory.mktemp(name)
        shapes = json.loads(str(goldens[f"{name}/shapes"]))
        values = {key: draws.keras_tensor(name, key, tuple(shape)) for key, shape in shapes.items()}
        packed = msgpack_serialize(tree.unflatten({key: np.asarray(value) for key, value in values.items()}))
        (made[name] / "flax_model.msgpack").write_bytes(packed)
        (made[name] / "config.json").write_text(str(goldens[f"{name}/config"]))
    return made


def filled(folder: Path, **changes: Any) -> tuple[Any, Any, Any]:
    """Return the model a folder describes, with its weights."""
    found = recognise(str(folder))
    config = MODELS[found.family].Config(**{**found.config_fields, **changes})
    model = MODELS[found.family].build(config, found.num_outputs)
    params, model_state = model.init(jax.random.key(0))
    loaded = load(
        str(folder),
        family=found.family,
        config=config,
        model_params=params,
        model_state=model_state,
        settings=Config(head="load" if found.num_outputs else "new"),
    )
    return model, loaded.params, loaded.model_state


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_model_is_the_flax_classes_layer_by_layer(
    name: str, folders: dict[str, Path], goldens: dict[str, np.ndarray]
) -> None:
    # A ResNet's config.json says no image size: its processor does.
    model, params, model_state = filled(folders[name], image_px=IMAGES[1])
    outputs = jax.jit(model.apply)(params, model_state, draws.images(name, IMAGES))
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)
    family = CLASSIFIERS[name]
    for index, layer in enumerate(LAYERS[family]):
        values = np.asarray(outputs.intermediates[layer])
        values = values.transpose(0, 3, 1, 2) if family == "resnet" else values
        golden = goldens[f"{name}/layers/{index}"]
        found = draws.sampled(str(index), values)
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max(), err_msg=layer)


@pytest.mark.parametrize("name", [*CLASSIFIERS, "flax_clip"])
def test_every_tensor_comes_back_bit_for_bit(name: str, folders: dict[str, Path]) -> None:
    found, file = recognise(str(folders[name])), open_path(folders[name])
    assert found.origin == name
    leaves, left_out = convert.read_leaves(file, found, name)
    _, arrays = convert.named(found.family, (name,), leaves)
    assert all(array.size for array in arrays.values())
    assert arrays.keys() == file.tensors.keys() - left_out.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, file.tensors[key].read(), err_msg=key)


def test_both_towers_of_clip_are_the_flax_classes(
    folders: dict[str, Path], goldens: dict[str, np.ndarray]
) -> None:
    model, params, _ = filled(folders["flax_clip"], has_unit_features=True)
    images = jax.jit(model.apply)(params, {}, draws.images("flax_clip", IMAGES)).features
    np.testing.assert_allclose(images, goldens["flax_clip/image"], rtol=0, atol=1e-5)
    loaded = text_towers.load(str(folders["flax_clip"]), Config())
    words = loaded.model.apply(loaded.params, goldens["flax_clip/ids"]).embeddings
    np.testing.assert_allclose(words, goldens["flax_clip/text"], rtol=0, atol=1e-5)


def test_config_of_a_text_tower_has_the_cap_of_all_others(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_JSON_BYTES", 8)
    # The file of weights is opened without what lies beside it.
    monkeypatch.setattr(beside, "describe", lambda file, folder: file)
    with pytest.raises(UserError, match="bytes; expected at most 8"):
        text_towers.load(str(folders["flax_clip"]), Config())


def test_the_goldens_say_what_made_them(goldens: dict[str, np.ndarray]) -> None:
    made_with = json.loads(str(goldens["made_with"]))
    assert (made_with["script"], made_with["transformers"]) == ("tests/goldens/make_flax.py", "4.56.2")
