"""How an image becomes an input, by `preprocessor_config.json` (Hugging Face's) or `config.json` (timm's).

The kinds of processors and their defaults are those of transformers 5.23; timm's are those of timm 1.0.31.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.errors import UserError
from jtl.inputs.preprocess import INTERPOLATIONS, Preprocess
from jtl.weights.hub.objects import cure, damaged, read_object

NAMES = ("preprocessor_config.json", "processor_config.json")
PROCESSOR_NAME, PROCESSORS_NAME = NAMES
# Pillow's numbers, as the processors give them.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
SUFFIXES = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")
# From this size on ConvNeXT's processor squashes instead of cropping.
CONVNEXT_SQUASHES_FROM = 384
TIMM_CROP_PCT = 0.875

HALF, IMAGENET = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ALWAYS = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


def _kind(size: dict[str, int], resample: int, statistics: Any, crop: int = 0, **more: Any) -> dict[str, Any]:
    cropped = {"do_center_crop": True, "crop_size": crop} if crop else {}
    return {
        "size": size,
        "resample": resample,
        "image_mean": statistics[0],
        "image_std": statistics[1],
        **cropped,
        **more,
    }


# What a processor does where its file does not say; the keys of `size` tell what one number means.
KINDS: dict[str, dict[str, Any]] = {
    "ViT": _kind({"height": 224, "width": 224}, 2, HALF),
    "DeiT": _kind({"height": 256, "width": 256}, 3, HALF, crop=224),
    "Siglip": _kind({"height": 224, "width": 224}, 3, HALF),
    "CLIP": _kind({"shortest_edge": 224}, 3, OPENAI, crop=224),
    "Bit": _kind({"shortest_edge": 224}, 3, OPENAI, crop=224),
    "ConvNext": _kind({"shortest_edge": 384}, 3, HALF, crop_pct=224 / 256),
    "MobileNetV2": _kind({"shortest_edge": 256}, 2, HALF, crop=224),
}
# Which one a model's file means where it names none (`AutoImageProcessor`).
KIND_OF_MODEL = {
    **dict.fromkeys(("vit", "vit_mae", "vit_msn"), "ViT"),
    **dict.fromkeys(("bit", "dinov2", "dinov2_with_registers"), "Bit"),
    **dict.fromkeys(("convnext", "convnextv2", "resnet"), "ConvNext"),
    **{"deit": "DeiT", "clip": "CLIP", "siglip": "Siglip", "mobilenet_v2": "MobileNetV2"},
}


# What every file of an image processor says something of.
OF_IMAGES = ("size", "resample", "image_mean", "image_std", "crop_size")


def of_folder(config: Mapping[str, Any], folder: Path) -> Preprocess | None:
    """Return the pre-processing that a folder states; None where it has no image processor.

    Raises:
        UserError: its file is damaged, or asks for what jtl does not do.
    """
    processor = read_object(folder / PROCESSOR_NAME)
    if processor is None:
        processor = (read_object(folder / PROCESSORS_NAME) or {}).get("image_processor")
    kind = KIND_OF_MODEL.get(str(config.get("model_type")), "")
    if processor is None or is_of_others(processor, kind):
        return timm_preprocess(config, str(folder / "config.json"))
    return huggingface_preprocess(processor, str(folder / PROCESSOR_NAME), kind)


def is_of_others(values: Any, kind: str) -> bool:
    """Return whether a processor's file is of sound or the like: of no known kind, and it says no size.

    `kind` is whose it is where it names none.
    """
    if not isinstance(values, Mapping):
        return True
    return (_kind_named(values) or kind) not in KINDS and not any(name in values for name in OF_IMAGES)


def _kind_named(values: Mapping[str, Any]) -> str:
    named = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    for suffix in SUFFIXES:
        named = named.removesuffix(suffix)
    return named


def timm_preprocess(config: Mapping[str, Any], where: str) -> Preprocess | None:
    """Return the evaluation pre-processing of timm's `config.json`; None where it is none of timm's.

    As timm's `create_transform`: `input_size` over `crop_pct` is resized to, then the centre is cut.

    Raises:
        UserError: it asks for what jtl does not do.
    """
    values = timm_part(config)
    if "input_size" not in values:
        return None
    try:
        _, height, width = (int(each) for each in values["input_size"])
        crop_pct = float(values.get("crop_pct") or TIMM_CROP_PCT)
        mean, std = _statistics(values["mean"], values["std"])
        interpolation, crop_mode = values["interpolation"], values.get("crop_mode") or "center"
        resize_px = math.floor(min(height, width) / crop_pct)
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged(where, error) from error
    if crop_mode not in ("center", "squash"):
        raise UserError(
            f"{where!r} has crop_mode {crop_mode!r}; expected 'center' or 'squash'; {cure(where)}"
        )
    is_squashed = crop_mode == "squash"
    return _made(
        where,
        image_px=(height, width),
        resize_px=0 if is_squashed and crop_pct == 1 else resize_px,
        mean=mean,
        std=std,
        interpolation=interpolation,
        is_squashed=is_squashed and crop_pct != 1,
    )


def huggingface_preprocess(values: Mapping[str, Any], where: str, kind: str = "") -> Preprocess:
    """Return the pre-processing of a `preprocessor_config.json`; `kind` is whose it is where it names none.

    Raises:
        UserError: it is damaged, of an unknown kind that leaves something open, or asks for what jtl does
            not do.
    """
    named = _kind_named(values) or kind
    defaults = KINDS.get(named, {})
    full = {**ALWAYS, **defaults, **{key: value for key, value in values.items() if value is not None}}
    missing = [key for key in ("size", "resample", "image_mean", "image_std") if key not in full]
    if missing or not full["do_resize"]:
        raise UserError(
            f"{where!r} (a processor of kind {named!r}) "
            f"{f'does not say {missing[0]}' if missing else 'does not resize images'}; {cure(where)}"
        )
    try:
        is_edge = "shortest_edge" in defaults.get("size", {})
        size = _size(full["size"], is_edge if defaults else None)
        crop = _size(full["crop_size"], False) if full["do_center_crop"] else None
        mean, std = _scaled_statistics(full)
        resample = RESAMPLE[int(full["resample"])]
        crop_pct = float(full.get("crop_pct", 0))
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged(where, error) from error
    return _made(where, **_geometry(size, crop, crop_pct, where), mean=mean, std=std, interpolation=resample)


def _geometry(
    size: int | tuple[int, int], crop: int | tuple[int, int] | None, crop_pct: float, where: str
) -> dict[str, Any]:
    """Return image_px, resize_px and is_squashed of a size (one number: of the short side) and a crop."""
    if crop_pct and isinstance(size, int):
        is_squashed = size >= CONVNEXT_SQUASHES_FROM
        return {"image_px": (size, size), "resize_px": 0 if is_squashed else int(size / crop_pct)}
    if isinstance(size, tuple) and crop in (None, size):
        return {"image_px": size, "resize_px": 0}
    if crop is None:
        raise UserError(
            f"{where!r} resizes the short side to {size} px and crops nothing; expected one size for all "
            f"images; {cure(where)}"
        )
    assert isinstance(crop, tuple), "the size of a crop has two sides"
    short = size if isinstance(size, int) else size[0]
    is_square = crop[0] == crop[1] and (isinstance(size, int) or size[0] == size[1])
    if not is_square or short < crop[0]:
        raise UserError(
            f"{where!r} resizes to {size} px and crops {crop}; expected a square crop out of a larger "
            f"square; {cure(where)}"
        )
    return {"image_px": crop, "resize_px": short, "is_squashed": isinstance(size, tuple)}


def _size(value: Any, is_edge: bool | None) -> int | tuple[int, int]:
    """Return the short side, or both sides; `is_edge` says what one number means, None where nothing does."""
    if isinstance(value, Mapping):
        if value.keys() == {"shortest_edge"}:
            return int(value["shortest_edge"])
        if value.keys() != {"height", "width"}:
            raise ValueError(f"a size of {', '.join(value)}; expected shortest_edge, or height and width")
        return int(value["height"]), int(value["width"])
    if isinstance(value, Sequence) and len(value) == 2:
        return int(value[0]), int(value[1])
    if not isinstance(value, int | float) or is_edge is None:
        raise ValueError(f"size {value!r}; expected the sides it is of")
    return int(value) if is_edge else (int(value), int(value))


def _scaled_statistics(full: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for values in [0, 1], whatever the processor scales its values to."""
    mean, std = _statistics(full["image_mean"], full["image_std"])
    if not full["do_normalize"]:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    scale = 255 * float(full["rescale_factor"]) if full["do_rescale"] else 255.0
    # 255 / 255.0 is not exactly 1 in floating point: keep the file's own numbers.
    scale = 1.0 if math.isclose(scale, 1.0) else scale
    return tuple(each / scale for each in mean), tuple(each / scale for each in std)


def _statistics(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    means, stds = tuple(float(each) for each in mean), tuple(float(each) for each in std)
    if len(means) != len(stds) or not means or min(stds) <= 0 or not all(map(math.isfinite, means + stds)):
        raise ValueError(f"mean {mean} and std {std}")
    return means, stds


def _made(where: str, **fields: Any) -> Preprocess:
    if fields["interpolation"] not in INTERPOLATIONS:
        raise UserError(
            f"{where!r} resizes by {fields['interpolation']!r}; expected one of "
            f"{', '.join(INTERPOLATIONS)}; {cure(where)}"
        )
    if min(fields["image_px"]) < 1:
        raise damaged(where, ValueError(f"an input of {fields['image_px']} px"))
    return Preprocess(**fields)


def timm_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return timm's part of a `config.json`: once the whole file was."""
    inner = config.get("pretrained_cfg")
    return inner if isinstance(inner, Mapping) else config if "architecture" in config else {}
