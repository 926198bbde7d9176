"""Zero-shot heads against transformers' CLIPModel and SiglipModel, from files as a hub has them."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import prompts
from jtl.models import vit
from jtl.training import build, config
from jtl.training import run as train
from jtl.verbs import evaluate
from jtl.weights import Config, contract, head, text_towers, zero_shot
from jtl.weights.load import load
from jtl.weights.recognise import recognise
from jtl.weights.report import LEFT_OUT, LOADED, NEW
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens"
IMAGES = (2, 32, 32, 3)
TOKENIZERS = {"clip": "clip.json", "siglip": "siglip.json"}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "clip.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, goldens: dict[str, np.ndarray]) -> dict[str, Path]:
    """Folders as a hub has them: weights, config.json and tokenizer.json."""
    made = {}
    for name, tokenizer in TOKENIZERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        shapes = json.loads(str(goldens[f"{name}/shapes"]))
        state = {key: np.asarray(draws.tensor(name, key, tuple(shape))) for key, shape in shapes.items()}
        save_file(state, made[name] / "model.safetensors")
        (made[name] / "config.json").write_text(str(goldens[f"{name}/config"]))
        shutil.copy(GOLDENS / "clip" / tokenizer, made[name] / "tokenizer.json")
    return made


def classifier(folder: Path, class_names: list[str], **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the image model that the folder's files describe and its parameters, zero-shot head included."""
    found = recognise(str(folder))
    config = vit.Config(**{**found.config_fields, **zero_shot.MODEL_FIELDS})
    model = vit.build(config, len(class_names))
    params = tree.map_named(lambda _, leaf: np.zeros(leaf.shape, np.float32), model.shapes()[0])
    loaded = load(
        str(folder), family="vit", config=config, model_params=params, model_state={}, settings=Config()
    )
    head = zero_shot.head(str(folder), class_names, **options)
    assert {name: leaf.shape for name, leaf in head.items()} == {
        name: leaf.shape for name, leaf in params["head"].items()
    }
    return model, {**loaded.params, "head": head}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_zero_shot_probabilities_are_transformers(
    name: str, folders: dict[str, Path], goldens: dict[str, np.ndarray]
) -> None:
    texts = [str(text) for text in goldens["texts"]]
    model, params = classifier(folders[name], texts, templates=["{}"])
    logits = np.asarray(jax.jit(model.apply)(params, {}, draws.images(name, IMAGES)).logits, np.float64)
    np.testing.assert_allclose(logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)
    powers = np.exp(logits)
    by_loss = {"clip": powers / powers.sum(-1, keepdims=True), "siglip": powers / (1 + powers)}
    np.testing.assert_allclose(by_loss[name], goldens[f"{name}/probabilities"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_tower_takes_every_tensor_of_its_own_and_leaves_out_the_images(
    name: str, folders: dict[str, Path]
) -> None:
    loaded = text_towers.load(str(folders[name]), Config())
    rows = loaded.report.rows
    assert {row.status for row in rows} == {LOADED, LEFT_OUT}
    assert all(row.note == "image tower, which texts do not need" for row in loaded.report.of(LEFT_OUT))
    targets = [target.removeprefix("params/") for row in rows for target in row.targets]
    assert sorted(targets) == sorted(tree.flatten(loaded.model.shapes()))


def test_embedding_of_a_class_is_the_mean_of_its_prompts_at_length_one(folders: dict[str, Path]) -> None:
    loaded = text_towers.load(str(folders["clip"]), Config())
    tokenizer = prompts.open_tokenizer(folders["clip"] / "tokenizer.json", loaded.model.num_tokens)
    embed = zero_shot.embedder(loaded, tokenizer)
    templates, names = ("a photo of a {}", "the {}"), ("cat", "dog", "bird")
    found = zero_shot.class_embeddings(embed, names, templates)
    parts = np.stack([embed([template.replace("{}", name) for name in names]) for template in templates])
    expected = parts.mean(0) / np.linalg.norm(parts.mean(0), axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # Five batches, none of which takes more to the device than itself.
    with jax.transfer_guard_host_to_device("disallow"):
        many = zero_shot.class_embeddings(embed, names, templates * 50)
    np.testing.assert_allclose(many, found, rtol=0, atol=1e-5)
    scale, bias = loaded.model.similarity(loaded.params)
    head = zero_shot.head(str(folders["clip"]), names[::-1], templates)
    np.testing.assert_allclose(np.linalg.norm(head["kernel"], axis=0), scale, rtol=1e-5)
    np.testing.assert_allclose(head["kernel"].T, scale * found[::-1], rtol=0, atol=1e-5)
    assert bias == 0
    assert not head["bias"].any()


def test_tokenizer_may_lie_elsewhere(folders: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "weights.safetensors"
    shutil.copy(folders["siglip"] / "model.safetensors", alone)
    with pytest.raises(
        UserError, match=r"no tokenizer lies beside .*weights.safetensors'; expected tokenizer"
    ):
        zero_shot.head(str(alone), ["cat", "dog"])
    path = str(GOLDENS / "clip" / "siglip.model")
    (tmp_path / "config.json").write_text((folders["siglip"] / "config.json").read_text())
    alone.rename(tmp_path / "model.safetensors")
    found = zero_shot.head(str(tmp_path), ["cat", "dog"], settings=Config(tokenizer=path))
    expected = zero_shot.head(str(folders["siglip"]), ["cat", "dog"])
    np.testing.assert_array_equal(found["kernel"], expected["kernel"])


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["cat"], ["{}"], "expected two different names or more"),
        (["cat", "cat"], ["{}"], "expected two different names or more"),
        (["cat", " "], ["{}"], "none empty"),
        (["cat", "dog"], [], "expected one or more"),
        (["cat", "dog"], ["a photo"], r"\['a photo'\]; expected one or more, each with one '{}'"),
    ],
)
def test_names_and_templates_are_checked(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zero_shot.check(names, templates)


def test_weights_without_texts_are_told(tmp_path: Path, folders: dict[str, Path]) -> None:
    save_file({"head.weight": np.ones((3, 4), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="have no text tower jtl knows; expected CLIP or SigLIP"):
        zero_shot.head(str(tmp_path / "x.safetensors"), ["cat", "dog"])
    shutil.copy(folders["siglip"] / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip", "text_config": {"hidden_size": "x"}}')
    with pytest.raises(UserError, match=r"config.json has hidden_size 'x'; expected a positive whole number"):
        zero_shot.head(str(tmp_path), ["cat", "dog"])


def test_tokenizer_of_other_weights_is_told(folders: dict[str, Path]) -> None:
    other = Config(tokenizer=str(folders["clip"]))
    with pytest.raises(UserError, match="the tokenizer has 225 tokens and the text tower 42"):
        zero_shot.head(str(folders["siglip"]), ["cat", "dog"], settings=other)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2 x 6 small images."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("cat", "small dog"):
        (folder / name).mkdir()
        for index in range(6):
            pixels = random.integers(0, 256, (36, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def settings_of(folder: Path, data: Path, **changes: Any) -> config.Config:
    overrides = {"data.path": data, "train.steps": 2, "train.batch_size": 4, "sharding.devices": 1, **changes}
    spec = f"{Path(__file__).parents[2] / 'configs' / 'clip_ft.py'}:{folder}"
    return config.read(spec, [(name, str(value)) for name, value in overrides.items()])


@pytest.mark.slow
def test_fine_tuning_begins_at_the_zero_shot_head(
    folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    settings = settings_of(folders["clip"], data)
    source = build.open_splits(settings)["train"]
    built = build.build(settings, build.label_stats(settings, source), 2)
    expected = zero_shot.head(str(folders["clip"]), ("cat", "small dog"))
    np.testing.assert_array_equal(built.params["head"]["kernel"], expected["kernel"])
    assert built.loaded is not None
    notes = {row.note for row in built.loaded.report.of(NEW)}
    assert notes == {f"zero-shot, from {len(zero_shot.TEMPLATES)} prompts a class"}
    result = train.run(settings, tmp_path / "run")
    assert (result["status"], result["steps"]) == ("finished", 2)
    assert result["parameters"]["trainable"] == tree.num_values(built.params)
    run = str(tmp_path / "run")
    found = evaluate.run(run_folder=run, split="val", overrides=[("sharding.devices", "1")])
    assert found["metrics"]["accuracy"] == pytest.approx(result["best"]["val/accuracy"])
    again = config.read("configs/ft.py", [("model.weights", run)])
    assert again.model.has_unit_features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.has_unit_features": False}, "expected a ViT of CLIP or SigLIP with model.has_unit_features"),
        (
            {"model.head_widths": (8,)},
            r"head is .*hidden0.*kernel and a bias of 2 .*set model.head_widths=\(\)",
        ),
        ({"model.projection_dim": 0}, "model.projection_dim as the weights have it"),
        ({"weights.templates": ("no place",)}, "each with one '{}'"),
    ],
)
def test_model_that_no_zero_shot_head_fits_is_told(
    folders: dict[str, Path], data: Path, changes: dict[str, Any], message: str
) -> None:
    settings = settings_of(folders["clip"], data, **changes)
    source = build.open_splits(settings)["train"]
    with pytest.raises(UserError, match=message):
        build.build(settings, build.label_stats(settings, source), 2)


def test_every_kind_of_head_says_what_becomes_of_the_sources() -> None:
    assert set(contract.HEADS) == set(head.HEADS)
    assert set(build.MADE_HEADS) < set(head.HEADS)
    settings = [Config(head=name, label_map={"a": 0} if name == "map" else {}) for name in head.HEADS]
    assert {each.head for each in settings if head.is_new(each)} == {"new", "zero_shot"}
