"""The image towers of CLIP and SigLIP as origins of family "vit", and what their `config.json` says.

The text tower of the same file is left out: `names.text` reads it. Where features are not projected, or not
pooled by attention, the tensors for that are left out too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.errors import UserError, shown
from jtl.models import vit
from jtl.weights.contract import Origin
from jtl.weights.names import flax_hub, towers

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
FIELDS = {
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
}

ORIGINS: dict[str, Origin] = {
    "huggingface_clip": Origin(
        title="Hugging Face CLIP names",
        rows=towers.HUGGING_FACE_CLIP_IMAGE,
        left_out=(
            *towers.others(towers.HUGGING_FACE_CLIP_TEXT, OF_TEXT),
            *towers.HUGGING_FACE_COUNTERS,
        ),
        position_embedding="bicubic_plain",
    ),
    "flax_clip": flax_hub.origin(
        Origin(
            title="",
            rows=towers.HUGGING_FACE_CLIP_IMAGE,
            left_out=towers.others(towers.HUGGING_FACE_CLIP_TEXT, OF_TEXT),
            position_embedding="bicubic_plain",
        ),
        "CLIP ",
    ),
    "huggingface_clip_tower": Origin(
        title="Hugging Face names of a CLIP image tower",
        rows=towers.hugging_face_clip_image(""),
        position_embedding="bicubic_plain",
    ),
    "huggingface_siglip": Origin(
        title="Hugging Face SigLIP names",
        rows=towers.HUGGING_FACE_SIGLIP_IMAGE,
        left_out=(
            *towers.others(towers.HUGGING_FACE_SIGLIP_TEXT, OF_TEXT),
            *towers.HUGGING_FACE_COUNTERS,
        ),
        position_embedding="bicubic_plain",
    ),
    "huggingface_siglip_tower": Origin(
        title="Hugging Face names of a SigLIP image tower",
        rows=towers.hugging_face_siglip_image(""),
        position_embedding="bicubic_plain",
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
    read = CONFIGS.get(str(values.get("model_type")))
    return None if read is None else read(values)


def shared_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that image and text towers have alike, from a tower's own values.

    Raises:
        UserError: a value is none that jtl's towers can have.
    """
    epsilon, activation = tower["layer_norm_eps"], tower["hidden_act"]
    if activation not in GELUS or not isinstance(epsilon, int | float):
        raise UserError(
            f"config.json has hidden_act {shown(activation)} and layer_norm_eps {shown(epsilon)}; expected "
            f"one of {', '.join(GELUS)} and a number; choose other weights"
        )
    return {
        **{ours: number(tower, theirs) for ours, theirs in FIELDS.items()},
        "gelu": GELUS[activation],
        "layer_norm_epsilon": float(epsilon),
    }


def number(values: Mapping[str, Any], name: str) -> int:
    """Return a positive whole number of a `config.json`.

    Raises:
        UserError: it is none.
    """
    if type(values[name]) is not int or values[name] < 1:
        raise UserError(
            f"config.json has {name} {shown(values[name])}; expected a positive whole number; get it again"
        )
    return values[name]


def merged(values: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tower's values over the defaults; older files have them twice, the fuller under `…_dict`.

    Raises:
        UserError: they are no object.
    """
    found = dict(defaults)
    for name in (part, f"{part}_dict"):
        given = values.get(name) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"config.json has {name} {shown(given)}; expected an object; get it again")
        found |= {key: value for key, value in given.items() if value is not None}
    return found


def _image_fields(tower: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the settings of an image tower; sizes that begin with `kind` have its switches."""
    patch_px, image_px = number(tower, "patch_size"), number(tower, "image_size")
    fields = {**shared_fields(tower), "patch_px": patch_px}
    sizes = {name: size for name, size in vit.SIZES.items() if name.startswith(kind)}
    widths = ("patch_px", *FIELDS)
    known = [name for name, size in sizes.items() if all(size[each] == fields[each] for each in widths)]
    # PyTorch's convolution does not read what is left over at the edges (384 px of patches of 14).
    return {"size": (known or list(sizes))[0], **fields, "image_px": image_px - image_px % patch_px}


def _clip(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields(merged(values, "vision_config", CLIP_DEFAULTS), "clip_")


def _siglip(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields(merged(values, "vision_config", SIGLIP_DEFAULTS), "siglip_")


def _clip_tower(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields({**CLIP_DEFAULTS, **values}, "clip_")


def _siglip_tower(values: Mapping[str, Any]) -> dict[str, Any]:
    return _image_fields({**SIGLIP_DEFAULTS, **values}, "siglip_")


CONFIGS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "clip": _clip,
    "clip_vision_model": _clip_tower,
    "siglip": _siglip,
    "siglip_vision_model": _siglip_tower,
}
