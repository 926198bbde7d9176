"""Models against PyTorch, layer by layer: `tests/goldens/make_models.py` says how `models.npz` was made."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.models import MODELS, Model, cifar_resnet, resnet, vit
from jtl.rng import key
from jtl.weights import FAMILIES
from jtl.weights import Config as WeightsConfig
from jtl.weights.load import load
from jtl.weights.names.assign import assign
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens" / "models.npz"
VIT = {"image_px": (32, 48), "patch_px": 8, "dim": 64, "depth": 4, "heads": 4, "mlp_dim": 256}
RESNETS = {
    "resnet18": resnet.Config(size="18", image_px=128),
    "resnet50": resnet.Config(size="50", image_px=128),
}
VITS = {
    "vit_cls": vit.Config(**VIT),
    "vit_gap": vit.Config(**VIT, pool="gap"),
    "vit_gap_registers": vit.Config(**VIT, pool="gap", num_registers=3),
    "vit_map": vit.Config(**VIT, pool="map"),
}
REAL = {
    "real/vit_ti16": (vit.Config(), "vit_tiny_patch16_224_augreg/vit_tiny_patch16_224.safetensors", 1000),
    "real/cifar_resnet_20": (cifar_resnet.Config(), "cifar10_resnets/resnet20-12fca82f.th", 10),
    "real/cifar_resnet_56": (cifar_resnet.Config(size="56"), "cifar10_resnets/resnet56-4bfd9763.th", 10),
}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


def drawn(name: str, config: Any, goldens: dict[str, np.ndarray]) -> tuple[Model, Any, Any]:
    """Return the model with the weights the script drew, under jtl's names."""
    family = config.name
    model = MODELS[family].build(config, draws.NUM_CLASSES)
    shapes = json.loads(str(goldens[f"{name}/shapes"]))
    tensors = {each: draws.tensor(name, each, tuple(shape)) for each, shape in shapes.items()}
    origin = next(iter(FAMILIES[family].origins.values()))
    assignment = assign(origin, tensors)
    assert assignment.unknown == ()
    params, model_state = model.shapes()
    leaves = tree.flatten({"params": params, "model_state": model_state})
    values = {}
    for source, assigned in assignment.filled.items():
        expected = tuple(leaves[target].shape for target in assigned.targets)
        values |= zip(assigned.targets, assigned.row.op.forward(tensors[source], expected), strict=True)
    assert {leaf: value.shape for leaf, value in values.items()} == {
        leaf: each.shape for leaf, each in leaves.items()
    }
    named = tree.unflatten(values)
    return model, named["params"], named.get("model_state", {})


def assert_layers_match(name: str, intermediates: Any, goldens: dict[str, np.ndarray]) -> None:
    """Check every layer to 1e-5 of its largest value: float32 rounding, grown over a model's depth."""
    prefix = f"{name}/layers/"
    layers = {key.removeprefix(prefix): golden for key, golden in goldens.items() if key.startswith(prefix)}
    assert layers
    for layer, golden in layers.items():
        found = draws.sampled(layer, intermediates[layer])
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max(), err_msg=layer)


def run(model: Model, params: Any, model_state: Any, images: np.ndarray, train: bool = False) -> Any:
    return jax.jit(model.apply, static_argnames="train")(params, model_state, images, train=train)


def test_the_goldens_say_what_made_them(goldens: dict[str, np.ndarray]) -> None:
    made_with = json.loads(str(goldens["made_with"]))
    assert made_with["script"] == "tests/goldens/make_models.py"
    assert made_with["torch"].startswith("2.13.0")
    assert made_with["timm"] == "1.0.31"


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_in_evaluation_is_pytorchs_layer_by_layer(name: str, goldens: dict[str, np.ndarray]) -> None:
    model, params, model_state = drawn(name, RESNETS[name], goldens)
    outputs = run(model, params, model_state, draws.images(name, draws.RESNET_IMAGES))
    assert_layers_match(name, outputs.intermediates, goldens)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_in_training_is_pytorchs_with_its_statistics(
    name: str, goldens: dict[str, np.ndarray]
) -> None:
    model, params, model_state = drawn(name, RESNETS[name], goldens)
    outputs = run(model, params, model_state, draws.images(name, draws.RESNET_IMAGES), train=True)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits_in_training"], rtol=0, atol=1e-4)
    stats = tree.flatten({"model_state": outputs.model_state})
    prefix = f"{name}/stats/"
    sources = [key.removeprefix(prefix) for key in goldens if key.startswith(prefix)]
    assignment = assign(FAMILIES["resnet"].origins["torchvision"], sources)
    assert len(assignment.filled) == len(stats)
    for source, assigned in assignment.filled.items():
        found, golden = draws.sampled(source, stats[assigned.targets[0]]), goldens[f"{prefix}{source}"]
        np.testing.assert_allclose(found, golden, rtol=1e-5, atol=1e-5 * np.abs(golden).max(), err_msg=source)


@pytest.mark.parametrize("name", VITS)
def test_vit_is_timms_layer_by_layer(name: str, goldens: dict[str, np.ndarray]) -> None:
    model, params, model_state = drawn(name, VITS[name], goldens)
    outputs = run(model, params, model_state, draws.images(name, draws.VIT_IMAGES))
    assert_layers_match(name, outputs.intermediates, goldens)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", REAL)
def test_public_weights_give_pytorchs_logits(
    name: str, goldens: dict[str, np.ndarray], real_path: Any
) -> None:
    config, file, num_classes = REAL[name]
    path = real_path(f"weights/{file}")
    model = MODELS[config.name].build(config, num_classes)
    params, model_state = model.init(key(0, "init"))
    loaded = load(
        str(path),
        family=config.name,
        config=config,
        model_params=params,
        model_state=model_state,
        settings=WeightsConfig(head="load"),
    )
    shape = draws.REAL_VIT_IMAGES if config.name == "vit" else draws.CIFAR_IMAGES
    outputs = run(model, loaded.params, loaded.model_state, draws.images(name, shape))
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)
    if config.name == "vit":
        assert_layers_match(name, outputs.intermediates, goldens)
