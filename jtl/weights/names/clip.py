"""The image towers of CLIP and SigLIP as origins of family "vit", and what their `config.json` says.

The text tower of the same file is left out: `names.text` reads it. Where features are not projected, or not
pooled by attention, the tensors for that are left out too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.weights.contract import Origin
from jtl.weights.names import towers

OF_TEXT = "text tower, which images do not need"
# As `transformers.CLIPVisionConfig` and `SiglipVisionConfig` begin (5.23): files name only what differs.
CLIP_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SIGLIP_DEFAULTS: dict[str, Any] = {
    **CLIP_DEFAULTS,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
GELUS = {
    "quick_gelu": "quick",
    "gelu": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
}
FIELDS = {"dim": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads"}

ORIGINS: dict[str, Origin] = {
    "huggingface_clip": Origin(
        title="Hugging Face CLIP names",
        rows=towers.HUGGING_FACE_CLIP_IMAGE,
        left_out=(
            *towers.others(towers.HUGGING_FACE_CLIP_TEXT, OF_TEXT),
            *towers.HUGGING_FACE_COUNTERS,
        ),
    ),
    "huggingface_clip_tower": Origin(
        title="Hugging Face names of a CLIP image tower", rows=towers.hugging_face_clip_image("")
    ),
    "huggingface_siglip": Origin(
        title="Hugging Face SigLIP names",
        rows=towers.HUGGING_FACE_SIGLIP_IMAGE,
        left_out=(
            *towers.others(towers.HUGGING_FACE_SIGLIP_TEXT, OF_TEXT),
            *towers.HUGGING_FACE_COUNTERS,
        ),
    ),
    "huggingface_siglip_tower": Origin(
        title="Hugging Face names of a SigLIP image tower", rows=towers.hugging_face_siglip_image("")
    ),
    "openai": Origin(
        title="OpenAI CLIP names",
        rows=towers.OPENAI_IMAGE,
        left_out=(*towers.others(towers.OPENAI_TEXT, OF_TEXT), *towers.OPENAI_COUNTERS),
    ),
    "big_vision_siglip": Origin(
        title="big_vision SigLIP names",
        rows=towers.BIG_VISION_IMAGE,
        left_out=towers.others(towers.BIG_VISION_TEXT, OF_TEXT),
        position_embedding="bilinear",
    ),
}


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a ViT's settings from the `config.json` of a CLIP or SigLIP; None of another model's.

    Whether features are projected is for the tensors to say: a file of the tower alone has no projection.
    """
    read = CONFIGS.get(values.get("model_type", ""))
    return None if read is None else read(values)


def shared_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that image and text towers have alike, from a tower's own values."""
    return {
        **{ours: tower[theirs] for ours, theirs in FIELDS.items()},
        "mlp_dim": tower["intermediate_size"],
        "gelu": GELUS.get(tower["hidden_act"], tower["hidden_act"]),
        "layer_norm_epsilon": float(tower["layer_norm_eps"]),
    }


def merged(values: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tower's values over the defaults; older files have them twice, the fuller under `…_dict`."""
    old = {key: value for key, value in (values.get(f"{part}_dict") or {}).items() if value is not None}
    new = {key: value for key, value in (values.get(part) or {}).items() if value is not None}
    return {**defaults, **new, **old}


def _image_fields(tower: Mapping[str, Any], size: str) -> dict[str, Any]:
    patch_px, image_px = tower["patch_size"], tower["image_size"]
    if isinstance(patch_px, int) and isinstance(image_px, int):
        # PyTorch's convolution does not read what is left over at the edges (384 px of patches of 14).
        image_px -= image_px % patch_px
    return {
        "size": size,
        **shared_fields(tower),
        "patch_px": _pair(patch_px),
        "image_px": _pair(image_px),
    }


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _clip(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields(merged(values, "vision_config", CLIP_DEFAULTS), "clip_b32")


def _siglip(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields(merged(values, "vision_config", SIGLIP_DEFAULTS), "siglip_b16")


def _clip_tower(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields({**CLIP_DEFAULTS, **values}, "clip_b32")


def _siglip_tower(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields({**SIGLIP_DEFAULTS, **values}, "siglip_b16")


CONFIGS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "clip": _clip,
    "clip_vision_model": _clip_tower,
    "siglip": _siglip,
    "siglip_vision_model": _siglip_tower,
}
