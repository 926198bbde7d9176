"""Public weights load whole and give PyTorch's logits; tiny models of transformers give theirs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.models import MODELS, cifar_resnet, resnet, vit
from jtl.weights import Config, Loaded
from jtl.weights.load import load
from jtl.weights.recognise import recognise
from jtl.weights.report import LOADED, NEW, RESAMPLED

GOLDENS = Path(__file__).parents[1] / "goldens" / "weights"
VIT_TI16 = "weights/vit_tiny_patch16_224_augreg/vit_tiny_patch16_224.safetensors"
CIFAR = "weights/cifar10_resnets"
NUM_VIT_PARAMETERS = 5_717_416


def loaded_model(spec: str, config: Any, num_outputs: int, head: str = "load") -> tuple[Any, Loaded]:
    model = MODELS[config.name].build(config, num_outputs)
    params, model_state = model.init(jax.random.key(0))
    loaded = load(
        spec,
        family=config.name,
        config=config,
        model_params=params,
        model_state=model_state,
        settings=Config(head=head),
    )
    return model, loaded


def logits_of(model: Any, loaded: Loaded, count: int, image_px: int) -> np.ndarray:
    images = np.random.default_rng(0).standard_normal((count, image_px, image_px, 3)).astype(np.float32)
    outputs = jax.jit(model.apply)(loaded.params, loaded.model_state, images)
    return np.asarray(outputs.logits)


def golden(file: str, key: str) -> np.ndarray:
    with np.load(GOLDENS / file) as arrays:
        return arrays[key]


def test_vit_ti16_loads_every_tensor_and_gives_pytorchs_logits(real_path: Any) -> None:
    model, loaded = loaded_model(str(real_path(VIT_TI16)), vit.Config(size="ti16"), 1000)
    rows = loaded.report.rows
    assert [row.status for row in rows] == [LOADED] * 152
    assert sum(row.num_values for row in rows) == tree.num_values(loaded.params) == NUM_VIT_PARAMETERS
    assert "loaded 152 tensors, 5.72 M values" in loaded.report.text()
    found = logits_of(model, loaded, 2, 224)
    np.testing.assert_allclose(found, golden("real_logits.npz", "vit_ti16"), atol=1e-4, rtol=0)


def test_vit_ti16_fits_another_size_and_another_head(real_path: Any) -> None:
    config = vit.Config(size="ti16", image_px=(256, 384))
    _, loaded = loaded_model(str(real_path(VIT_TI16)), config, 5, head="new")
    assert [row.note for row in loaded.report.of(RESAMPLED)] == ["14x14 -> 16x24 bicubic"]
    assert sum(row.num_values for row in loaded.report.of(NEW)) == 192 * 5 + 5


@pytest.mark.parametrize(("file", "size"), [("resnet20-12fca82f", "20"), ("resnet56-4bfd9763", "56")])
def test_cifar_resnet_gives_pytorchs_logits(real_path: Any, file: str, size: str) -> None:
    spec = str(real_path(f"{CIFAR}/{file}.th"))
    model, loaded = loaded_model(spec, cifar_resnet.Config(size=size), 10)
    found = logits_of(model, loaded, 4, 32)
    np.testing.assert_allclose(found, golden("real_logits.npz", file), atol=1e-4, rtol=0)


def test_pickle_and_safetensors_of_a_model_fill_the_same_leaves(real_path: Any) -> None:
    """Two training runs of one model: equal names and sizes in a pickle and in safetensors."""
    config = cifar_resnet.Config(size="20")
    _, first = loaded_model(str(real_path(f"{CIFAR}/resnet20-12fca82f.th")), config, 10)
    _, second = loaded_model(str(real_path(f"{CIFAR}/resnet20_cifar10.safetensors")), config, 10)
    assert {row.source for row in first.report.rows} == {row.source for row in second.report.rows}
    assert tree.num_values(first.params) == tree.num_values(second.params)


@pytest.mark.parametrize(
    ("file", "family", "fields", "num_outputs", "origin"),
    [
        (VIT_TI16, "vit", {"size": "ti16", "image_px": 224}, 1000, "timm"),
        (f"{CIFAR}/resnet20-12fca82f.th", "cifar_resnet", {"size": "20"}, 10, "pytorch_resnet_cifar10"),
        (f"{CIFAR}/resnet56-4bfd9763.th", "cifar_resnet", {"size": "56"}, 10, "pytorch_resnet_cifar10"),
    ],
)
def test_public_weights_are_recognised(
    real_path: Any, file: str, family: str, fields: dict[str, Any], num_outputs: int, origin: str
) -> None:
    found = recognise(str(real_path(file)))
    assert (found.family, found.config_fields) == (family, fields)
    assert (found.num_outputs, found.origin) == (num_outputs, origin)
    MODELS[family].build(MODELS[family].Config(**found.config_fields), found.num_outputs)


HUGGING_FACE_VIT = vit.Config(size="mini", image_px=8, dim=8, depth=2, heads=2, mlp_dim=16)
HUGGING_FACE_RESNET = resnet.Config(size="50", image_px=16, units=(1, 2), width=4)


@pytest.mark.parametrize(
    ("name", "config", "image_px"),
    [("huggingface_vit", HUGGING_FACE_VIT, 8), ("huggingface_resnet", HUGGING_FACE_RESNET, 16)],
)
def test_transformers_model_gives_its_logits(name: str, config: Any, image_px: int) -> None:
    model, loaded = loaded_model(str(GOLDENS / f"{name}.safetensors"), config, 3)
    expected = golden("huggingface_logits.npz", name)
    found = logits_of(model, loaded, 2, image_px)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.abs(expected).max()), rtol=0)
    assert recognise(str(GOLDENS / f"{name}.safetensors")).origin == "huggingface"


def test_hugging_face_prefix_is_optional(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(GOLDENS / "huggingface_vit.safetensors")
    bare = {name.removeprefix("vit."): array for name, array in arrays.items() if "classifier" not in name}
    pooler = {f"pooler.dense.{leaf}": np.ones(8, np.float32) for leaf in ("weight", "bias")}
    save_file(bare | pooler, tmp_path / "backbone.safetensors")
    _, loaded = loaded_model(str(tmp_path / "backbone.safetensors"), HUGGING_FACE_VIT, 3, head="new")
    assert {row.note for row in loaded.report.of("left out")} == {"pooler, which classification does not use"}
