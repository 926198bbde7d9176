"""The settings of a ViT, from its tensors' shapes or from the `config.json` beside them.

Shapes tell everything but heads, epsilon, the kind of GELU, the size of images of unequal sides, and whether
it is the class token or the grid that is pooled, where there are both.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from jtl.errors import UserError, shown
from jtl.models import vit
from jtl.weights.names import clip, vit_torch
from jtl.weights.names.towers import PROJECTION

Shapes = Mapping[str, tuple[int, ...]]

EMBEDDING_KERNEL = f"{vit_torch.EMBEDDING}/kernel"
PROMPTS = f"params/{vit.PROMPTS}"
BLOCK, ATTENTION, MLP, SCALE = (
    each.format(i=0) for each in (vit_torch.BLOCK, vit_torch.ATTENTION, vit_torch.MLP, vit_torch.SCALES[0])
)
HEAD_KERNEL, SECOND_HEAD_KERNEL = f"{vit_torch.HEAD}/kernel", f"{vit_torch.DISTILLED_HEAD}/kernel"
PRE_NORM_SCALE, PROBE = f"{vit_torch.PRE_NORM}/scale", f"{vit_torch.MAP_HEAD}/probe"
# Leaves that only one kind of ViT has, and the size whose switches are that kind's.
BASES = {PRE_NORM_SCALE: "clip_b32", PROBE: "siglip_b16"}
BASE = "ti16"
WIDTHS = ("patch_px", "dim", "depth", "heads", "mlp_dim")
# In all public ViTs heads are 64 wide, but for these widths, which have 16 (timm 1.0.31), and jtl's own mini.
HEAD_DIM = 64
MINI = vit.SIZES["mini"]
HEADS_OF_WIDTH: dict[int, int] = {
    **dict.fromkeys((1152, 1280, 1408, 1664), 16),
    MINI["dim"]: MINI["heads"],
}

# As `transformers.ViTConfig` and those of the others begin (5.23): files may name only what differs.
HUGGING_FACE_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
DINOV2_DEFAULTS = {**HUGGING_FACE_DEFAULTS, "layer_norm_eps": 1e-6}
HUGGING_FACE = {
    "vit": HUGGING_FACE_DEFAULTS,
    "vit_mae": HUGGING_FACE_DEFAULTS,
    "deit": HUGGING_FACE_DEFAULTS,
    "dinov2": DINOV2_DEFAULTS,
    "dinov2_with_registers": DINOV2_DEFAULTS,
}
# timm's architectures that are `VisionTransformer`, and what of them no tensor tells (1.0.31); the first
# pattern that is found in the name counts.
TIMM = re.compile(r"(vit|deit3?|flexivit|eva_large)_\w+")
TIMM_POST_NORM = "_rpn_"
TIMM_GELUS = (
    ("quickgelu", "quick"),
    (r"large_patch16_siglip_(gap_)?512|patch32_siglip|so400m_patch16_siglip|giantopt_", "tanh"),
    ("", "exact"),
)
# As `model_args` call them.
GELUS = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
TIMM_EPSILONS = (("_clip_", 1e-5), ("", 1e-6))
TIMM_PATCH, FLEXI_PX = re.compile(r"patch(\d+)"), 16
TIMM_HEADS = (("vit_giantopt_|vit_base_patch16_gap_", 16), ("", 0))


def recognise(shapes: Shapes) -> tuple[dict[str, Any], str] | None:
    """Return the settings and a title of the ViT with these leaves; None where they are none of a ViT's.

    Heads cannot be told from PyTorch's shapes: they are taken as all public ViTs of that width have them.
    """
    widths = _widths(shapes) if EMBEDDING_KERNEL in shapes else {}
    if not widths.get("mlp_dim"):
        return None
    base = next((size for leaf, size in BASES.items() if leaf in shapes), BASE)
    wanted = {**widths, **{name: value for name, value in vit.SIZES[base].items() if name not in WIDTHS}}
    known = [name for name, size in vit.SIZES.items() if size == wanted]
    fields = {"size": known[0]} if known else {"size": base, **widths}
    expected = {**vars(vit.Config()), **vit.DEFAULTS, **vit.SIZES[fields["size"]]}
    switches = {**_switches(shapes), **_tokens(shapes)}
    fields |= {name: value for name, value in switches.items() if value != expected[name]}
    fields |= _positions(shapes)
    patch_px, dim, depth = (widths[name] for name in ("patch_px", "dim", "depth"))
    title = f"ViT {known[0]}" if known else f"ViT of width {dim}, depth {depth} and patches of {patch_px} px"
    return fields, f"{title} at {fields['image_px']} px" if "image_px" in fields else title


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a `config.json` of transformers or timm says of a ViT; None where it is of another family.

    Raises:
        UserError: it describes a ViT that jtl has not got.
    """
    architecture = str(values.get("architecture"))
    if TIMM.fullmatch(architecture):
        return _of_timm(architecture, values)
    defaults = HUGGING_FACE.get(str(values.get("model_type")))
    return clip.of_config(values) if defaults is None else _of_hugging_face({**defaults, **values})


def _of_timm(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    if TIMM_POST_NORM in architecture:
        raise UserError(
            f"config.json has architecture {shown(architecture)}, whose blocks normalise behind each branch; "
            f"jtl has ViTs that normalise before; choose other weights"
        )
    built = values.get("model_args")
    built = built if isinstance(built, Mapping) else {}
    heads, patch = _first(TIMM_HEADS, architecture), TIMM_PATCH.search(architecture)
    heads, patch_px = built.get("num_heads", heads), int(patch[1]) if patch else FLEXI_PX
    if isinstance(built.get("patch_size"), int):
        patch_px = clip.number(built, "patch_size")
    # Older files have all in one object.
    given = values.get("pretrained_cfg", values)
    input_size = given.get("input_size") if isinstance(given, Mapping) else None
    return {
        "gelu": GELUS.get(str(built.get("act_layer")), _first(TIMM_GELUS, architecture)),
        "layer_norm_epsilon": _first(TIMM_EPSILONS, architecture),
        **({"heads": heads} if heads else {}),
        **({"image_px": _sides("input_size", input_size, patch_px)} if input_size else {}),
    }


def _first(patterns: tuple[tuple[str, Any], ...], name: str) -> Any:
    return next(value for pattern, value in patterns if re.search(pattern, name))


def _of_hugging_face(values: Mapping[str, Any]) -> dict[str, Any]:
    activation, epsilon = values["hidden_act"], values["layer_norm_eps"]
    if str(activation) not in clip.GELUS or not isinstance(epsilon, int | float):
        raise UserError(
            f"config.json has hidden_act {shown(activation)} and layer_norm_eps {shown(epsilon)}; expected "
            f"one of {', '.join(clip.GELUS)} and a number; choose other weights"
        )
    # What tensors tell too: a file of another depth lies beside the wrong weights.
    told = {"dim": "hidden_size", "depth": "num_hidden_layers"}
    return {
        **{name: clip.number(values, key) for name, key in told.items() if key in values},
        "heads": clip.number(values, "num_attention_heads"),
        "gelu": clip.GELUS[activation],
        "layer_norm_epsilon": float(epsilon),
        "image_px": _sides("image_size", values["image_size"], clip.number(values, "patch_size")),
    }


def _sides(name: str, given: Any, patch_px: int) -> int | tuple[int, int]:
    """Return an image's sides, without what PyTorch's convolution does not read at the edges."""
    sides = given[-2:] if isinstance(given, list) else [given, given]
    if not all(type(side) is int and side >= patch_px for side in sides) or len(sides) != 2:
        raise UserError(
            f"config.json has {name} {shown(given)}; expected sides of {patch_px} or more; get it again"
        )
    height, width = (side - side % patch_px for side in sides)
    return height if height == width else (height, width)


def _widths(shapes: Shapes) -> dict[str, Any]:
    """Return the fields that sizes are made of, as far as shapes tell them."""
    rows_px, columns_px, _, dim = shapes[EMBEDDING_KERNEL]
    gate, first = (shapes.get(f"{MLP}/{name}/kernel", (0,)) for name in ("gate", "Dense_0"))
    query = shapes.get(f"{ATTENTION}/query/kernel", (dim, 1, dim))
    return {
        "patch_px": rows_px if rows_px == columns_px else (rows_px, columns_px),
        "dim": dim,
        "depth": sum(name.endswith("/LayerNorm_2/scale") for name in shapes),
        "heads": query[1] if query[1] > 1 else HEADS_OF_WIDTH.get(dim, max(dim // HEAD_DIM, 1)),
        "mlp_dim": gate[-1] or first[-1],
        **({"mlp": "swiglu"} if gate[-1] else {}),
    }


def _switches(shapes: Shapes) -> dict[str, Any]:
    """Return the fields that say which parameters there are."""
    return {
        "has_qkv_bias": f"{ATTENTION}/query/bias" in shapes,
        "has_patch_bias": f"{vit_torch.EMBEDDING}/bias" in shapes,
        "has_pre_norm": PRE_NORM_SCALE in shapes,
        "has_layer_scale": SCALE in shapes,
        "feature_norm": "pooled" if f"{vit_torch.POOLED_NORM}/scale" in shapes else "tokens",
        "projection_dim": shapes.get(f"{PROJECTION}/kernel", (0,))[-1],
    }


def _tokens(shapes: Shapes) -> dict[str, Any]:
    """Return the fields that say which learned tokens there are and what is pooled.

    A norm behind the pooling is of models that pool the grid, also where a class token is left from before.
    """
    has_class, is_distilled = vit_torch.CLS in shapes, vit_torch.DISTILLATION in shapes
    is_pooled = f"{vit_torch.POOLED_NORM}/scale" in shapes
    if SECOND_HEAD_KERNEL in shapes:
        pool = "distilled"
    elif shapes.get(HEAD_KERNEL, (0,))[0] == 2 * shapes[EMBEDDING_KERNEL][-1]:
        pool = "cls_gap"
    elif PROBE in shapes:
        pool = "map"
    else:
        pool = "cls" if has_class and not is_pooled else "gap"
    return {
        "pool": pool,
        "num_registers": shapes.get(vit_torch.REGISTERS, (1, 0))[1],
        "has_class_token": has_class and vit.POOLS[pool].num_class_tokens == 0,
        "is_distilled": is_distilled and pool != "distilled",
        **_prompts(shapes),
    }


def _prompts(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of the prompts of a run of jtl: one set a block, or one in all."""
    if PROMPTS not in shapes:
        return {}
    num_sets, num_prompts, _ = shapes[PROMPTS]
    return {"num_prompts": num_prompts, "has_deep_prompts": num_sets > 1}


def _positions(shapes: Shapes) -> dict[str, Any]:
    """Return the side of a square image, and which tokens before it have positions, where shapes tell it."""
    rows_px, columns_px, *_ = shapes[EMBEDDING_KERNEL]
    num_positions = shapes.get(vit_torch.POSITION_EMBEDDING, (1, 0, 0))[1]
    num_class = int(vit_torch.CLS in shapes) + int(vit_torch.DISTILLATION in shapes)
    num_registers = shapes.get(vit_torch.REGISTERS, (1, 0))[1]
    told: dict[int, dict[str, Any]] = {
        num_class + num_registers: {"has_register_position": True},
        0: {"has_class_position": False},
        num_class: {},
    }
    for num_placed, fields in reversed(told.items()):
        side = math.isqrt(max(num_positions - num_placed, 0))
        if side and side * side == num_positions - num_placed:
            return {**fields, "image_px": side * rows_px} if rows_px == columns_px else fields
    return {}
