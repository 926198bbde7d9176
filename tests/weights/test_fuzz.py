"""Damaged files of every kind, by the thousand: a result or one line that names the file; bounded memory.

Files are damaged by bytes and JSON also by meaning: values of other types, keys lost, numbers without
measure. Everything is drawn from seeds, in this process: what crashes or hangs it fails the tests.
"""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.errors import UserError
from jtl.inputs import Unreadable, prompts, tokens
from jtl.weights import FAMILIES
from jtl.weights.open import open_path
from jtl.weights.recognise import described
from tests.weights import writing
from tests.weights.test_damaged import KINDS, sound_files

GOLDENS = Path(__file__).parents[1] / "goldens"
QUICK, SLOW = 40, 2500
MAX_GROWTH_MIB = 1024
# What takes the place of a value of JSON.
STRANGE = (
    *(None, True, -1, 0, 3.5, 1e308, 10**30, "", "x", "\u0000", "é" * 40, [], {}, [None], {"a": 1}),
    *([1] * 1000, "9" * 5000, float("nan")),
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Return bytes with some changed, lost, doubled or put in, or the end cut."""
    found = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, max(len(found), 1)))
        some = random.integers(0, 256, random.integers(1, 9), np.uint8).tobytes()
        kind = random.integers(0, 5)
        if kind == 0:
            found[at : at + len(some)] = some
        elif kind == 1:
            del found[at : at + len(some)]
        elif kind == 2:
            found[at:at] = some
        elif kind == 3:
            found[at:at] = found[max(at - 40, 0) : at]
        else:
            del found[at:]
    return bytes(found)


def strange(value: Any, random: np.random.Generator) -> Any:
    """Return a JSON value with one of its parts put to something else, or lost."""
    if isinstance(value, dict | list) and value and random.random() < 0.9:
        key = (
            list(value)[random.integers(len(value))]
            if isinstance(value, dict)
            else random.integers(len(value))
        )
        found = dict(value) if isinstance(value, dict) else list(value)
        if random.random() < 0.15:
            del found[key]
        else:
            found[key] = strange(value[key], random)
        return found
    return STRANGE[random.integers(len(STRANGE))]


def damaged_json(content: bytes, random: np.random.Generator) -> bytes:
    if random.random() < 0.4:
        return damaged(content, random)
    return json.dumps(strange(json.loads(content), random)).encode()


def tried(use: Callable[[], Any], name: str) -> None:
    """Use a file: a result, or one error of one line that names it."""
    fault = ""
    try:
        use()
    except UserError as error:
        fault = str(error)
    assert "\n" not in fault
    assert name in fault or not fault, fault


def read_all(path: Path) -> None:
    file = open_path(path)
    for tensor in file.tensors.values():
        assert tensor.read().shape == tensor.shape
    described(file, str(path))


@pytest.fixture(scope="module")
def bounded() -> Iterator[None]:
    """Memory at its peak does not grow without measure."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < MAX_GROWTH_MIB


many = pytest.mark.parametrize("count", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])


@many
@pytest.mark.parametrize("kind", [*KINDS, "wrapped torch", "vit"])
def test_damaged_weights(tmp_path: Path, bounded: None, kind: str, count: int) -> None:
    del bounded
    vit = writing.named(FAMILIES["vit"].origins["timm"], writing.leaves_of("vit"))
    writing.save_torch(
        tmp_path / "a", {"model": vit, "model_ema": {f"module.{key}": vit[key] for key in vit}}
    )
    writing.save_safetensors(tmp_path / "b", vit)
    named = {"wrapped torch": tmp_path / "a", "vit": tmp_path / "b"}
    content = named[kind].read_bytes() if kind in named else sound_files(tmp_path)[kind]
    random = np.random.default_rng(count)
    for _ in range(count):
        (tmp_path / "fuzzed").write_bytes(damaged(content, random))
        tried(partial(read_all, tmp_path / "fuzzed"), "fuzzed")


@many
def test_damaged_orbax(tmp_path: Path, bounded: None, count: int) -> None:
    del bounded
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(
            tmp_path / "sound", args=ocp.args.PyTreeSave({"a": np.arange(6.0), "b": np.ones(4)})
        )
    names = [
        each.relative_to(tmp_path / "sound") for each in (tmp_path / "sound").rglob("*") if each.is_file()
    ]
    random = np.random.default_rng(count)
    for _ in range(count // 4):
        name = names[random.integers(len(names))]
        content = (tmp_path / "sound" / name).read_bytes()
        (tmp_path / "sound" / name).write_bytes(damaged(content, random))
        tried(partial(read_all, tmp_path / "sound"), "sound")
        (tmp_path / "sound" / name).write_bytes(content)


BESIDE: dict[str, dict[str, Any]] = {
    "config.json": {
        "model_type": "vit",
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        **{"image_size": 8, "patch_size": 4, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True},
        "id2label": {"0": "a", "1": "b", "2": "c"},
    },
    "preprocessor_config.json": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        **{"resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_resize": True},
        "rescale_factor": 0.00392,
    },
    "timm.json": {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "pretrained_cfg": {
            **{"input_size": [3, 8, 8], "crop_pct": 0.9, "interpolation": "bicubic", "num_classes": 3},
            **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_mode": "center"},
        },
    },
    "model.safetensors.index.json": {"metadata": {}, "weight_map": {"a": "x.safetensors"}},
}


@many
@pytest.mark.parametrize("name", BESIDE)
def test_damaged_files_beside(tmp_path: Path, bounded: None, name: str, count: int) -> None:
    del bounded
    origin = "timm" if name == "timm.json" else "huggingface"
    vit = writing.named(FAMILIES["vit"].origins[origin], writing.leaves_of("vit"))
    weights = "x.safetensors" if name.endswith("index.json") else "model.safetensors"
    writing.save_safetensors(tmp_path / weights, {"a": np.ones(2)} if name.endswith("index.json") else vit)
    sound = BESIDE[name]
    path = tmp_path / ("config.json" if name == "timm.json" else name)
    if name == "preprocessor_config.json":
        (tmp_path / "config.json").write_text(json.dumps(BESIDE["config.json"]))
    random = np.random.default_rng(count)
    for _ in range(count // 8):
        path.write_bytes(damaged_json(json.dumps(sound).encode(), random))
        tried(lambda: described(open_path(tmp_path), str(tmp_path)), str(tmp_path))


def encode(path: Path) -> None:
    preprocess = tokens.of_file(path, max_tokens=16)
    transform = tokens.transform(preprocess, None)
    for text in ("a film is good", "zz qq \U0001f600 éé", ""):
        # A text that becomes no tokens is a fault of the text, which who reads it names.
        with suppress(Unreadable):
            transform(text, None)


@many
@pytest.mark.parametrize("of", ["words", "pairs"])
def test_damaged_tokenizers(tmp_path: Path, bounded: None, of: str, count: int) -> None:
    del bounded
    content = (GOLDENS / "tokens" / of / "tokenizer.json").read_bytes()
    random = np.random.default_rng(count)
    for number in range(count):
        # Each has a name of its own: what is open is kept by name and digest.
        path = tmp_path / f"{number}.json"
        path.write_bytes(damaged_json(content, random))
        tried(partial(encode, path), path.name)
        path.unlink()


@many
@pytest.mark.parametrize("name", ["clip.json", "siglip.json", "siglip.model"])
def test_damaged_tokenizers_of_towers(tmp_path: Path, bounded: None, name: str, count: int) -> None:
    del bounded
    content = (GOLDENS / "clip" / name).read_bytes()
    change = damaged_json if name.endswith(".json") else damaged
    random = np.random.default_rng(count)
    path = tmp_path / f"fuzzed{Path(name).suffix}"
    for _ in range(count // 4):
        path.write_bytes(change(content, random))
        tried(
            lambda: prompts.open_tokenizer(path, 16).encode(["a photo of a cat", "zz \U0001f600"]), "fuzzed"
        )


@many
@pytest.mark.parametrize(
    ("of", "name"), [("words", "vocab.txt"), ("pairs", "vocab.json"), ("pairs", "merges.txt")]
)
def test_damaged_parts_of_tokenizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None, of: str, name: str, count: int
) -> None:
    del bounded
    from jtl.weights.hub import text_files

    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    shutil.copytree(GOLDENS / "tokens" / of, folder)
    (folder / "tokenizer.json").unlink()
    content = (folder / name).read_bytes()
    random = np.random.default_rng(count)
    for _ in range(count // 4):
        (folder / name).write_bytes((damaged_json if name.endswith(".json") else damaged)(content, random))
        tried(lambda: text_files.of_folder({}, folder), str(tmp_path))
