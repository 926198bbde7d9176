"""Files of CLIP and SigLIP: both towers in one, other resolutions, what config.json says of them."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import text_tower, vit
from jtl.weights import FAMILIES, Config, convert, text_towers, zero_shot
from jtl.weights.hub import catalogue
from jtl.weights.load import load
from jtl.weights.names import clip, text
from jtl.weights.names.assign import assign, best_origin
from jtl.weights.recognise import recognise
from jtl.weights.report import LEFT_OUT
from tests.goldens import draws
from tests.weights import serving, writing
from tests.weights.serving import Server

GOLDENS = Path(__file__).parents[1] / "goldens" / "clip.npz"
TWO_TOWERS = sorted(text.ORIGINS.keys() & clip.ORIGINS.keys())
SIGLIP_TEXT = {"size": "siglip_b", "vocabulary": 64, "num_tokens": 8, "dim": 16, "depth": 2, "heads": 2}
TEXT = {
    "huggingface_clip": text_tower.tiny(),
    "flax_clip": text_tower.tiny(),
    "openai": text_tower.tiny(),
    **dict.fromkeys(
        ("huggingface_siglip", "big_vision_siglip"),
        text_tower.Config(**SIGLIP_TEXT, mlp_dim=32, projection_dim=16),
    ),
}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


def text_leaves(key: str) -> dict[str, np.ndarray]:
    """Return a tiny text tower's leaves by full name, filled with noise."""
    random = np.random.default_rng(3)
    shapes = tree.flatten({"params": text_tower.build(TEXT[key]).shapes()})
    return {name: random.standard_normal(each.shape).astype(np.float32) for name, each in shapes.items()}


def both_towers(key: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the tensors of a file with both towers, and the leaves of each."""
    images, words = writing.leaves_of("vit", **writing.model_of("vit", key)), text_leaves(key)
    of_words, missing = convert.to_origin(text.ORIGINS[key], words)
    assert not missing
    return {**writing.named(clip.ORIGINS[key], images), **of_words}, images, words


@pytest.mark.parametrize("key", TWO_TOWERS)
def test_each_table_reads_one_tower_of_a_file_and_leaves_out_the_other(key: str) -> None:
    arrays, images, words = both_towers(key)
    places = {}
    for origins, leaves in ((clip.ORIGINS, images), (text.ORIGINS, words)):
        found = best_origin(origins, arrays)
        assert found is not None
        assert found[0] == key
        assert found[1].unknown == ()
        targets = [target for each in found[1].filled.values() for target in each.targets]
        assert sorted(targets) == sorted(leaves)
        places[id(origins)] = set(found[1].filled)
    of_images, of_words = places.values()
    assert of_images.isdisjoint(of_words)
    assert of_images | of_words == arrays.keys()


@pytest.mark.parametrize("key", TWO_TOWERS)
def test_both_towers_come_back_bit_by_bit(key: str, tmp_path: Path) -> None:
    arrays, images, words = both_towers(key)
    prefix = "params/" if key.startswith("big_vision") else ""
    save = writing.save_npz if prefix else writing.save_safetensors
    spec = save(tmp_path / "both.npz", {f"{prefix}{name}": array for name, array in arrays.items()})
    found = recognise(spec)
    assert (found.family, found.origin) == ("vit", key)
    model = writing.model_of("vit", key)
    params, _ = writing.trees_of(writing.leaves_of("vit", **model, seed=1))
    loaded = load(
        spec, family="vit", config=model["config"], model_params=params, model_state={}, settings=Config()
    )
    read = text_towers.load(spec, Config())
    for params, leaves in ((loaded.params, images), (read.params, words)):
        filled = tree.flatten({"params": params})
        assert filled.keys() == leaves.keys()
        # PyTorch's shapes do not tell a text tower's heads.
        assert all(np.array_equal(filled[name].reshape(leaf.shape), leaf) for name, leaf in leaves.items())


@pytest.mark.parametrize(
    ("key", "changes", "reason"),
    [
        ("huggingface_clip", {"projection_dim": 0}, "projection of the features; model.projection_dim is 0"),
        ("openai", {"projection_dim": 0}, "projection of the features; model.projection_dim is 0"),
        ("huggingface_siglip", {"pool": "gap"}, "attention pooling; model.pool is another"),
        ("big_vision_siglip", {"pool": "gap"}, "attention pooling; model.pool is another"),
    ],
)
def test_what_a_model_has_no_use_for_is_left_out_with_the_reason(
    key: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    spec = writing.save_safetensors(tmp_path / "x", both_towers(key)[0])
    config = vit.Config(**{**vars(writing.model_of("vit", key)["config"]), **changes})
    params, _ = writing.trees_of(writing.leaves_of("vit", config, 0, seed=1))
    loaded = load(spec, family="vit", config=config, model_params=params, model_state={}, settings=Config())
    reasons = {row.note for row in loaded.report.of(LEFT_OUT)}
    assert reasons == {reason, "text tower, which images do not need"}
    other = vit.Config(**{**vars(config), "projection_dim": 5, "pool": "cls"})
    params, _ = writing.trees_of(writing.leaves_of("vit", other, 0, seed=1))
    with pytest.raises(UserError, match="do not fit the model"):
        load(spec, family="vit", config=other, model_params=params, model_state={}, settings=Config())


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_other_resolution_is_transformers(name: str, goldens: dict[str, np.ndarray], tmp_path: Path) -> None:
    shapes = json.loads(str(goldens[f"{name}/shapes"]))
    state = {key: np.asarray(draws.tensor(name, key, tuple(shape))) for key, shape in shapes.items()}
    spec = writing.save_safetensors(tmp_path / "x", state)
    stated = clip.of_config(json.loads(str(goldens[f"{name}/config"]))) or {}
    fields = {"image_px": (48, 64), "has_unit_features": True, "projection_dim": 24 * (name == "clip")}
    config = vit.Config(**{**stated, **fields})
    model = vit.build(config, 0)
    fresh = tree.map_named(lambda _, leaf: np.zeros(leaf.shape, np.float32), model.shapes()[0])
    loaded = load(spec, family="vit", config=config, model_params=fresh, model_state={}, settings=Config())
    outputs = jax.jit(model.apply)(loaded.params, {}, draws.images(name, (2, 48, 64, 3)))
    np.testing.assert_allclose(outputs.features, goldens[f"{name}/resized_embeddings"], rtol=0, atol=1e-5)


# What config.json of the public repositories states, as far as it differs from transformers' defaults.
L, SO400M = (
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
)
PUBLIC: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai/clip-vit-base-patch32": ({"model_type": "clip"}, {"size": "clip_b32", "image_px": 224}),
    "openai/clip-vit-base-patch16": (
        {"model_type": "clip", "vision_config": {"patch_size": 16}},
        {"size": "clip_b16", "image_px": 224},
    ),
    "openai/clip-vit-large-patch14": (
        {"model_type": "clip", "vision_config": {**L, "patch_size": 14}},
        {"size": "clip_l14", "image_px": 224},
    ),
    "openai/clip-vit-large-patch14-336": (
        {
            "model_type": "clip", "vision_config": None,
            "vision_config_dict": {**L, "patch_size": 14, "image_size": 336},
        },
        {"size": "clip_l14", "image_px": 336},
    ),
    "a tower alone": (
        {"model_type": "clip_vision_model", "hidden_act": "gelu", "patch_size": 16},
        {"size": "clip_b16", "gelu": "exact"},
    ),
    "google/siglip-base-patch16-512": (
        {"model_type": "siglip", "vision_config": {"image_size": 512}},
        {"size": "siglip_b16", "image_px": 512},
    ),
    "google/siglip-large-patch16-384": (
        {"model_type": "siglip", "vision_config": {**L, "image_size": 384}},
        {"size": "siglip_l16", "image_px": 384},
    ),
    "google/siglip-so400m-patch14-384": (
        {"model_type": "siglip_vision_model", **SO400M, "patch_size": 14, "image_size": 384},
        {"size": "siglip_so400m14", "image_px": 378},
    ),
}  # fmt: skip


FIRST_EOS = {"size": "clip_b", "pool": "first_eos", "eos_id": 49407}


@pytest.mark.parametrize("name", PUBLIC)
def test_config_json_gives_the_image_towers_settings(name: str) -> None:
    values, expected = PUBLIC[name]
    found = clip.of_config(values)
    assert found is not None
    assert expected.items() <= found.items()
    of_size = vit.resolve(
        vit.Config(**{"image_px": found["image_px"], "gelu": found["gelu"], "size": found["size"]})
    )
    assert vit.resolve(vit.Config(**found)) == of_size


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "clip"}, FIRST_EOS),
        ({"model_type": "clip", "text_config": {"eos_token_id": 2}}, {"size": "clip_b"}),
        ({"model_type": "clip_text_model", "hidden_act": "gelu"}, {**FIRST_EOS, "gelu": "exact"}),
        (
            {"model_type": "siglip", "text_config": {"vocab_size": 256000}},
            {"size": "siglip_b", "vocabulary": 256000},
        ),
    ],
)
def test_config_json_gives_the_text_towers_settings(values: dict[str, Any], expected: dict[str, Any]) -> None:
    found = text.of_config(values)
    assert found is not None
    of_size = text_tower.resolve(text_tower.Config(**expected))
    assert text_tower.resolve(text_tower.Config(**found)) == of_size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' and layer_norm_eps 1e-05; expected one of quick_gelu"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'; expected one of .* and a number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0; expected a positive whole number"),
        ({"image_size": [224, 224]}, r"image_size \[224, 224\]; expected a positive whole number"),
        ([1], r"vision_config \[1\]; expected an object"),
    ],
)
def test_config_json_that_no_tower_has_is_told(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clip.of_config({"model_type": "clip", "vision_config": values})


def test_config_json_of_another_model_is_none() -> None:
    for values in (
        {"model_type": "bert"},
        {"architecture": "vit_base_patch16_224"},
        {"model_type": ["clip"]},
    ):
        assert clip.of_config(values) is None
        assert text.of_config(values) is None


@pytest.mark.parametrize("size", text_tower.SIZES)
def test_text_tower_of_every_size_is_recognised_from_its_shapes(size: str) -> None:
    shapes = tree.flatten({"params": text_tower.build(text_tower.Config(size=size)).shapes()})
    fields, title = text.recognise({name: tuple(leaf.shape) for name, leaf in shapes.items()}) or ({}, "")
    assert fields["size"] == size
    assert text_tower.resolve(text_tower.Config(**fields)) == text_tower.resolve(text_tower.Config(size=size))
    assert title.startswith("CLIP" if size.startswith("clip") else "SigLIP")


@pytest.mark.parametrize("size", [size for size in vit.SIZES if size.startswith(("clip", "siglip"))])
def test_image_tower_of_every_size_is_recognised_from_pytorchs_shapes(size: str) -> None:
    leaves = tree.flatten({"params": vit.build(vit.Config(size=size), 0).shapes()[0]})
    # PyTorch keeps the heads together.
    shapes = {
        name: (leaf.shape[0], 1, leaf.shape[0]) if name.endswith("/query/kernel") else tuple(leaf.shape)
        for name, leaf in leaves.items()
    }
    fields, _ = FAMILIES["vit"].recognise(shapes) or ({}, "")
    assert fields == {"size": size, "image_px": 224}


@pytest.mark.parametrize(
    ("size", "num_values"),
    # Counted by transformers 5.23: CLIPVisionModel and SiglipVisionModel of the public configurations.
    [
        ("clip_b32", 87_456_000),
        ("clip_b16", 85_799_424),
        ("clip_l14", 303_179_776),
        ("siglip_b16", 92_884_224),
    ],
)
def test_image_towers_have_as_many_values_as_the_public_ones(size: str, num_values: int) -> None:
    assert tree.num_values(vit.build(vit.Config(size=size), 0).shapes()[0]) == num_values


def test_names_of_a_scalar_and_tables_keep_their_shapes() -> None:
    arrays = both_towers("huggingface_clip")[0]
    assert arrays["logit_scale"].shape == ()
    assert arrays["vision_model.embeddings.class_embedding"].shape == (16,)
    assert arrays["text_model.embeddings.position_embedding.weight"].shape == (8, 16)
    assert assign(clip.ORIGINS["huggingface_clip"], arrays).left_out.keys() >= {"logit_scale"}


@pytest.mark.parametrize("tokenizer", ["clip.json", "siglip.model"])
def test_tokenizer_comes_from_the_repository_of_the_weights(
    tokenizer: str, hugging_face: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, suffix = tokenizer.split(".")
    with np.load(GOLDENS) as goldens:
        shapes, stated = json.loads(str(goldens[f"{name}/shapes"])), str(goldens[f"{name}/config"])
    folder = tmp_path / "repository"
    folder.mkdir()
    state = {key: np.asarray(draws.tensor(name, key, tuple(shape))) for key, shape in shapes.items()}
    writing.save_safetensors(folder / "model.safetensors", state)
    (folder / "config.json").write_text(stated)
    file = {"json": "tokenizer.json", "model": "spiece.model"}[suffix]
    shutil.copy(GOLDENS.parent / "clip" / tokenizer, folder / file)
    expected = zero_shot.head(str(folder), ("cat", "dog"))
    serving.publish(hugging_face, {each.name: each.read_bytes() for each in folder.iterdir()})
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    entry = catalogue.entries()["clip-vit-base-patch16"]._replace(spec="hf://org/name@main")
    monkeypatch.setattr(catalogue, "entries", lambda: {"well-known": entry})
    for spec in ("hf://org/name", "well-known"):
        found = zero_shot.head(spec, ("cat", "dog"), settings=Config(cache_dir=str(tmp_path / "cache")))
        np.testing.assert_array_equal(found["kernel"], expected["kernel"])


def test_repository_without_tokenizer_is_told(hugging_face: Server, tmp_path: Path) -> None:
    arrays = both_towers("openai")[0]
    weights = Path(writing.save_safetensors(tmp_path / "x", arrays)).read_bytes()
    serving.publish(hugging_face, {"model.safetensors": weights})
    with pytest.raises(
        UserError, match=r"'hf://org/name' has no tokenizer \(org/name at 'main' has no tokenizer.json"
    ):
        zero_shot.head("hf://org/name", ("cat", "dog"), settings=Config(cache_dir=str(tmp_path / "cache")))


def test_catalogue_prepares_images_as_the_sizes_of_towers_do() -> None:
    entries = [each for each in catalogue.entries().values() if each.size.startswith(("clip", "siglip"))]
    assert len(entries) >= 4
    for entry in entries:
        assert vit.build(vit.Config(size=entry.size), 0).preprocess == entry.preprocess, entry.name
