"""The text towers' tables of names, and what a `config.json` or a file's tensors say of one."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.models import text_tower
from jtl.weights.contract import FamilyNames, Origin
from jtl.weights.names import clip, flax_hub, towers

OF_IMAGES = "image tower, which texts do not need"
# As `transformers.CLIPTextConfig` and `SiglipTextConfig` begin (5.23).
PROJECTION_DIM = 512
CLIP_DEFAULTS: dict[str, Any] = {
    **clip.CLIP_DEFAULTS,
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
    "projection_dim": PROJECTION_DIM,
}
SIGLIP_DEFAULTS: dict[str, Any] = {
    **clip.SIGLIP_DEFAULTS,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": 0,
}
# Before transformers 4.31 every CLIP said so, and the largest id was taken for the end of text.
LEGACY_EOS_ID = 2
HEAD_DIM = 64
TITLES = {"clip": "CLIP", "siglip": "SigLIP"}

ORIGINS: dict[str, Origin] = {
    "huggingface_clip": Origin(
        title="Hugging Face CLIP names",
        rows=towers.HUGGING_FACE_CLIP_TEXT,
        left_out=(
            *towers.others(towers.HUGGING_FACE_CLIP_IMAGE, OF_IMAGES),
            *towers.HUGGING_FACE_COUNTERS,
        ),
    ),
    "flax_clip": flax_hub.origin(
        Origin(
            title="",
            rows=towers.HUGGING_FACE_CLIP_TEXT,
            left_out=towers.others(towers.HUGGING_FACE_CLIP_IMAGE, OF_IMAGES),
        ),
        "CLIP ",
    ),
    "huggingface_siglip": Origin(
        title="Hugging Face SigLIP names",
        rows=towers.HUGGING_FACE_SIGLIP_TEXT,
        left_out=(
            *towers.others(towers.HUGGING_FACE_SIGLIP_IMAGE, OF_IMAGES),
            *towers.HUGGING_FACE_COUNTERS,
        ),
    ),
    "openai": Origin(
        title="OpenAI CLIP names",
        prefix="text.",
        rows=towers.OPENAI_TEXT,
        left_out=(*towers.others(towers.OPENAI_IMAGE, OF_IMAGES), *towers.OPENAI_COUNTERS),
    ),
    "big_vision_siglip": Origin(
        title="big_vision SigLIP names",
        rows=towers.BIG_VISION_TEXT,
        left_out=towers.others(towers.BIG_VISION_IMAGE, OF_IMAGES),
    ),
}


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a text tower's settings from the `config.json` of a CLIP or SigLIP; None of another model's."""
    read = CONFIGS.get(str(values.get("model_type")))
    return None if read is None else read(values)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return the settings and a title of the text tower with these leaves; None where they are none of one's.

    A bias of the logits tells SigLIP from CLIP. Heads cannot be told from PyTorch's shapes: unless the size
    is a known one, they are taken as 64 wide; nor can LAION's exact GELU be told from OpenAI's.
    """
    mlp = f"{towers.BLOCK.format(i=0)}/MlpBlock_3/Dense_0/kernel"
    needed = (towers.TOKEN_EMBEDDING, towers.POSITION_EMBEDDING, f"{towers.PROJECTION}/kernel", mlp)
    if any(name not in shapes for name in needed):
        return None
    vocabulary, dim = shapes[towers.TOKEN_EMBEDDING]
    kind = "siglip" if towers.LOGIT_BIAS in shapes else "clip"
    query = shapes.get(f"{towers.ATTENTION.format(i=0)}/query/kernel", (dim, 1, dim))
    width = {
        "dim": dim,
        "depth": sum(name.endswith("/LayerNorm_0/scale") and "encoderblock" in name for name in shapes),
        "mlp_dim": shapes[mlp][-1],
        "projection_dim": shapes[f"{towers.PROJECTION}/kernel"][-1],
    }
    known = [
        name
        for name, size in text_tower.SIZES.items()
        if name.startswith(kind) and width.items() <= size.items()
    ]
    heads = {"heads": query[1] if query[1] > 1 else max(dim // HEAD_DIM, 1)}
    fields = {"size": known[0]} if known else {"size": f"{kind}_b", **width, **heads}
    num_tokens = shapes[towers.POSITION_EMBEDDING][1]
    fields |= {"vocabulary": vocabulary, "num_tokens": num_tokens}
    return fields, f"{TITLES[kind]} text tower of width {dim} and depth {width['depth']}"


def _fields(tower: Mapping[str, Any], size: str, projection: str) -> dict[str, Any]:
    """Return a text tower's settings; `projection` is what its file calls the embedding's width."""
    return {
        "size": size,
        **clip.shared_fields(tower),
        "vocabulary": clip.number(tower, "vocab_size"),
        "num_tokens": clip.number(tower, "max_position_embeddings"),
        "projection_dim": clip.number(tower, projection),
    }


def _clip(values: Mapping[str, Any]) -> dict[str, Any]:
    tower = clip.merged(values, "text_config", CLIP_DEFAULTS)
    # The one beside both towers counts, not the text tower's own.
    return _clip_fields({**tower, "projection_dim": values.get("projection_dim") or PROJECTION_DIM})


def _clip_tower(values: Mapping[str, Any]) -> dict[str, Any]:
    return _clip_fields({**CLIP_DEFAULTS, **values})


def _clip_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(tower, "clip_b", "projection_dim")
    eos_id = clip.number(tower, "eos_token_id")
    if eos_id == LEGACY_EOS_ID:
        return {**fields, "pool": "largest_id"}
    return {**fields, "pool": "first_eos", "eos_id": eos_id}


def _siglip(values: Mapping[str, Any]) -> dict[str, Any]:
    tower = clip.merged(values, "text_config", SIGLIP_DEFAULTS)
    return _fields(tower, "siglip_b", "projection_size" if tower["projection_size"] else "hidden_size")


CONFIGS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "clip": _clip,
    "clip_text_model": _clip_tower,
    "siglip": _siglip,
}
NAMES = FamilyNames(
    origins=ORIGINS,
    marker=towers.TOKEN_EMBEDDING,
    recognise=recognise,
    of_config=of_config,
)
