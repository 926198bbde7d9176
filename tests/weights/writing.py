"""Writing a model's leaves under another library's names, for the tests of loading."""

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jtl import tree
from jtl.models import MODELS
from jtl.weights import FAMILIES, convert
from jtl.weights.contract import Origin
from jtl.weights.formats.safetensors_file import DTYPES

NUM_CLASSES = 3
CLIP = {"has_pre_norm": True, "has_patch_bias": False}
DINOV2 = {"has_layer_scale": True, "mlp": "swiglu"}
ROBERTA = {"num_segments": 1}
DISTILBERT = {"size": "distilbert_base", "pool": "pooler"}
# Origins that have no names for the family's tiny model: how theirs differs, and its number of outputs.
CHANGES: dict[tuple[str, str], tuple[dict[str, Any], int]] = {
    ("vit", "huggingface_clip"): ({**CLIP, "projection_dim": 12}, 0),
    ("vit", "huggingface_clip_tower"): (CLIP, 0),
    ("vit", "flax_clip"): ({**CLIP, "projection_dim": 12}, 0),
    ("vit", "flax_dinov2"): ({**DINOV2, "pool": "cls_gap"}, NUM_CLASSES),
    ("vit", "huggingface_siglip"): ({"pool": "map"}, 0),
    ("vit", "huggingface_siglip_tower"): ({"pool": "map"}, 0),
    ("vit", "openai"): ({**CLIP, "projection_dim": 12}, 0),
    ("vit", "big_vision_siglip"): ({"pool": "map"}, 0),
    ("vit", "timm_swiglu"): ({"mlp": "swiglu"}, NUM_CLASSES),
    ("vit", "huggingface_deit"): ({"is_distilled": True}, NUM_CLASSES),
    ("vit", "huggingface_deit_teacher"): ({"pool": "distilled"}, NUM_CLASSES),
    ("vit", "huggingface_dinov2"): ({**DINOV2, "pool": "cls_gap"}, NUM_CLASSES),
    ("vit", "huggingface_dinov2_registers"): ({**DINOV2, "num_registers": 2}, NUM_CLASSES),
    ("vit", "facebook_dinov2"): ({**DINOV2, "num_registers": 2}, NUM_CLASSES),
    ("vit", "facebook_deit3"): ({"has_layer_scale": True, "has_class_position": False}, NUM_CLASSES),
    ("resnet", "flax_resnet_basic"): ({"unit": "basic"}, NUM_CLASSES),
    **{("bert", f"{library}_roberta"): (ROBERTA, 0) for library in ("huggingface", "flax")},
    **{
        ("bert", f"{library}_roberta_classifier"): (ROBERTA, NUM_CLASSES)
        for library in ("huggingface", "flax")
    },
    **{("bert", f"{library}_distilbert"): (DISTILBERT, NUM_CLASSES) for library in ("huggingface", "flax")},
}


def model_of(family: str, key: str) -> dict[str, Any]:
    """Return the config and the number of outputs of a tiny model that an origin has all names for."""
    changes, num_outputs = CHANGES.get((family, key), ({}, NUM_CLASSES))
    fields = {**changes, **FAMILIES[family].origins[key].config_fields}
    return {"config": replace(MODELS[family].tiny(), **fields), "num_outputs": num_outputs}


def leaves_of(
    family: str, config: Any = None, num_outputs: int = NUM_CLASSES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return a model's leaves by full name, filled with positive noise (variances among them)."""
    random = np.random.default_rng(seed)
    shapes = _shapes(family, config or MODELS[family].tiny(), num_outputs)
    return {
        name: np.abs(random.standard_normal(shape)).astype(np.float32) + 0.5 for name, shape in shapes.items()
    }


@cache
def _shapes(family: str, config: Any, num_outputs: int) -> dict[str, tuple[int, ...]]:
    params, model_state = MODELS[family].build(config, num_outputs).init(jax.random.key(0))
    return {
        name: leaf.shape
        for name, leaf in tree.flatten({"params": params, "model_state": model_state}).items()
    }


def trees_of(leaves: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (params, model_state) of leaves by full name."""
    both = tree.unflatten(leaves)
    return both["params"], both.get("model_state", {})


def named(origin: Origin, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the leaves under the origin's names and in its layout (prefix included)."""
    arrays, missing = convert.to_origin(origin, leaves)
    assert not missing, missing
    return {name: array for name, array in arrays.items() if not name.endswith(convert.COUNTER)}


def save_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    save_file(dict(arrays), path)
    return str(path)


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    np.savez(path, **arrays)
    return str(path)


def save_torch(path: Path, root: Mapping[str, Any]) -> str:
    """Write what torch.save writes since 1.6 of nested dicts, lists, arrays and plain values."""
    stored: list[np.ndarray] = []
    content = b"\x80\x02" + _pickled(root, stored) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(stored):
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return str(path)


def _pickled(value: Any, stored: list[np.ndarray]) -> bytes:
    """Return the opcodes of a value; arrays become tensors, whose values come to `stored`."""
    if isinstance(value, Mapping):
        items = (_pickled(each, stored) for pair in value.items() for each in pair)
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(each, stored) for each in value) + b"e"
    if not isinstance(value, np.ndarray):
        return pickle.dumps(value, 2)[2:-1]
    stored.append(np.ascontiguousarray(value).reshape(value.shape))
    kind = {"float32": b"FloatStorage", "int64": b"LongStorage"}[value.dtype.name]
    key, size = _pickled(str(len(stored) - 1), stored), _pickled(value.size, stored)
    storage = b"(" + _pickled("storage", stored) + b"ctorch\n" + kind + b"\n" + key
    storage += _pickled("cpu", stored) + size + b"tQ"
    strides = tuple(each // value.itemsize for each in stored[-1].strides)
    place = b"".join(_pickled(each, stored) for each in (0, value.shape, strides, False, {}))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"tR"


def save_raw(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write safetensors of any dtype, those among them that the library's numpy part has no name for."""
    header, end = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": next(each for each, dtype in DTYPES.items() if dtype == array.dtype),
            "shape": array.shape,
            "data_offsets": (end, end := end + array.nbytes),
        }
    text = json.dumps(header).encode()
    content = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path
