"""`jtl weights inspect` and `list`: what is said of a file, and the catalogue's own soundness."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.models import MODELS
from jtl.weights import FAMILIES, inspect
from jtl.weights import Config as WeightsConfig
from jtl.weights.hub import catalogue
from jtl.weights.hub import resolve as hub
from tests.weights import writing

MAX_MILLIONS = 12


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> inspect.Inspection:
    arrays = writing.named(FAMILIES["vit"].origins["huggingface"], writing.leaves_of("vit"))
    arrays["vit.pooler.dense.weight"] = np.ones((16, 16), np.float16)
    arrays["vit.surprise"] = np.ones(2, np.float32)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(arrays, path)
    return inspect.inspect(str(path))


def test_every_tensor_has_its_place(found: inspect.Inspection) -> None:
    tensors = {each["name"]: each["place"] for each in inspect.as_json(found)["tensors"]}
    assert tensors.keys() == found.file.tensors.keys()
    assert tensors["classifier.weight"] == "head/kernel"
    assert tensors["vit.pooler.dense.weight"].startswith("left out: pooler")
    assert tensors["vit.surprise"] == inspect.UNKNOWN


def test_text_says_family_settings_dtypes_and_what_has_no_place(found: inspect.Inspection) -> None:
    text = "\n".join(inspect.text(found))
    assert "1 float16" in text
    assert "model.name='vit', model.size=" in text
    assert "unknown (1): vit.surprise" in text


def test_table_hides_what_does_not_fit_and_says_how_much(found: inspect.Inspection) -> None:
    rows, num_hidden = inspect.rows(found, has_all=False)
    assert len(rows) - 1 + num_hidden == len(found.file.tensors)
    assert inspect.rows(found, has_all=True)[1] == 0


def test_file_of_no_known_model_is_still_shown(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    found = inspect.inspect(str(tmp_path / "other.safetensors"))
    assert inspect.as_json(found)["taken_for"] is None
    assert inspect.text(found)[-1].endswith("no model jtl knows")


@pytest.mark.parametrize("name", list(catalogue.entries()))
def test_every_entry_of_the_catalogue_names_a_size_of_a_family(name: str) -> None:
    entry = catalogue.entries()[name]
    assert entry.size in MODELS[entry.family].sizes
    assert entry.spec.partition("://")[0] in hub.SCHEMES
    assert entry.licence


def test_path_goes_before_a_name_of_the_catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name, entry = next(iter(catalogue.entries().items()))
    monkeypatch.chdir(tmp_path)
    assert catalogue.spec_of(name) == entry.spec
    assert catalogue.spec_of("hf://org/name") == "hf://org/name"
    (tmp_path / name).write_bytes(b"")
    assert catalogue.spec_of(name) == name


def test_config_that_is_not_read_is_said(tmp_path: Path) -> None:
    arrays = writing.named(FAMILIES["vit"].origins["huggingface"], writing.leaves_of("vit"))
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text = "\n".join(inspect.text(inspect.inspect(str(tmp_path))))
    assert "(config.json beside says model_type 'llama', which jtl does not know" in text


def test_name_of_the_catalogue_is_a_spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(rest: str, settings: WeightsConfig) -> hub.Cached:
        asked.append(rest)
        return hub.Cached(tmp_path, "0" * 64)

    monkeypatch.setitem(hub.SCHEMES, "hf", fetch)
    hub.resolve("vit_small_patch16_224.dino", WeightsConfig())
    assert asked == ["timm/vit_small_patch16_224.dino"]
    local = tmp_path / "vit_small_patch16_224.dino"
    local.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    hub.resolve("vit_small_patch16_224.dino", WeightsConfig())
    assert len(asked) == 1, "a file of that name is meant before the catalogue's"


def test_sizes_of_the_catalogue_have_the_parameters_it_says() -> None:
    """The smaller entries with a linear head, built from family and size alone, count what is listed."""
    import jax

    checked: set[tuple[str, str]] = set()
    for entry in catalogue.entries().values():
        is_plain = entry.top1 is not None and not {"distilled", "deit3"} & set(entry.name.split("_"))
        if not is_plain or entry.millions > MAX_MILLIONS or (entry.family, entry.size) in checked:
            continue
        config = MODELS[entry.family].Config(size=entry.size, image_px=entry.preprocess.image_px)
        params, _ = MODELS[entry.family].build(config, 1000).shapes()
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert count / 1e6 == pytest.approx(entry.millions, abs=0.006), entry.name
        checked.add((entry.family, entry.size))
    assert len({family for family, _ in checked}) == 4
