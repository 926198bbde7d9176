"""BiT's tables of names: Google's .npz, timm, Hugging Face; how to recognise one."""

import math
import re
from collections.abc import Mapping
from typing import Any

from jtl.models import bit
from jtl.weights.contract import FamilyNames, Origin, Row
from jtl.weights.names import convnets_written, hub_config, ops, rows

INPUT_KERNEL = "params/conv_root/kernel"
NUM_GROUPS = 32


def _torch_unit(source: str, target: str) -> tuple[Row, ...]:
    return (
        Row(f"{source}.conv{{c}}.weight", (f"params/{target}/conv{{c}}/kernel",), ops.CONV),
        *rows.norm(f"{source}.norm{{c}}", f"{target}/gn{{c}}"),
        Row(f"{source}.downsample.conv.weight", (f"params/{target}/conv_proj/kernel",), ops.CONV),
    )


TIMM = Origin(
    title="timm names",
    rows=(
        Row("stem.conv.weight", (INPUT_KERNEL,), ops.CONV),
        *_torch_unit("stages.{s}.blocks.{u}", "block{s+1}/unit{u+1}"),
        *rows.norm("norm", "gn_final"),
        Row("head.fc.weight", ("params/head/kernel",), rows.POINTWISE_CONV),
        Row("head.fc.bias", ("params/head/bias",), ops.SAME),
    ),
)
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="bit.",
    rows=(
        Row("embedder.convolution.weight", (INPUT_KERNEL,), ops.CONV),
        *_torch_unit("encoder.stages.{s}.layers.{u}", "block{s+1}/unit{u+1}"),
        *rows.norm("norm", "gn_final"),
        *rows.dense("classifier.1", "head"),
    ),
)


def _google_norm(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(f"resnet/{source}group_norm/gamma", (f"params/{target}/scale",), ops.SAME),
        Row(f"resnet/{source}group_norm/beta", (f"params/{target}/bias",), ops.SAME),
    )


def _google_kernel(source: str, target: str) -> Row:
    return Row(f"resnet/{source}/standardized_conv2d/kernel", (f"params/{target}/kernel",), ops.SAME)


def _google_unit(source: str, target: str) -> tuple[Row, ...]:
    """Return the rows of a unit, whose three layers Google calls a, b and c."""
    return (
        *(
            row
            for letter, number in zip("abc", (1, 2, 3), strict=True)
            for row in (
                _google_kernel(f"{source}/{letter}", f"{target}/conv{number}"),
                *_google_norm(f"{source}/{letter}/", f"{target}/gn{number}"),
            )
        ),
        _google_kernel(f"{source}/a/proj", f"{target}/conv_proj"),
    )


# Google counts units with two digits, and patterns know plain numbers only: the first nine are spelt out.
GOOGLE = Origin(
    title="Google's BiT names",
    rows=(
        _google_kernel("root_block", "conv_root"),
        *(row for u in range(1, 10) for row in _google_unit(f"block{{s}}/unit0{u}", f"block{{s}}/unit{u}")),
        *_google_unit("block{s}/unit{u}", "block{s}/unit{u}"),
        *_google_norm("", "gn_final"),
        Row("resnet/head/conv2d/kernel", ("params/head/kernel",), rows.FLAX_CONV),
        Row("resnet/head/conv2d/bias", ("params/head/bias",), ops.SAME),
    ),
)

MODEL_TYPE = "bit"
TIMM_ARCHITECTURE = re.compile(r"resnetv2_\d+x\d_bit")
# What transformers' BiT can be that is none: post-activation, TensorFlow's padding, dilation.
HUGGING_FACE_SETTINGS = {
    "layer_type": "preactivation",
    "hidden_act": "relu",
    "global_padding": None,
    "embedding_dynamic_padding": False,
    "output_stride": 32,
    "width_factor": 1,
}


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a `config.json` says of a BiT beyond its tensors; None where it is of another family.

    Raises:
        UserError: it describes one that jtl has not got.
    """
    if values.get("model_type") == MODEL_TYPE:
        hub_config.refuse_others(values, HUGGING_FACE_SETTINGS, "BiTs")
        return {"num_groups": int(values.get("num_groups", NUM_GROUPS))}
    is_known = TIMM_ARCHITECTURE.fullmatch(str(values.get("architecture", "")))
    return hub_config.timm_image_px(values) if is_known else None


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the BiT with these leaves; None where they are none of a BiT's.

    No tensor tells the groups: they are taken as 32, or as many as the width allows.
    """
    root = shapes.get(INPUT_KERNEL, ())
    if len(root) != 4 or root[0] != 7 or "params/gn_final/scale" not in shapes:
        return None
    stages = [name.split("/")[1] for name in shapes if name.endswith("/conv1/kernel")]
    fields: dict[str, Any] = {
        "units": tuple(stages.count(stage) for stage in sorted(set(stages))),
        "width": root[3],
    }
    for name, size in bit.SIZES.items():
        if size == fields:
            return {"size": name}, f"BiT-R{name}"
    fields["num_groups"] = math.gcd(NUM_GROUPS, fields["width"])
    return {"size": "50x1", **fields}, f"BiT of units {fields['units']} and width {fields['width']}"


NAMES = FamilyNames(
    origins={"google": GOOGLE, "timm": TIMM, "huggingface": HUGGING_FACE},
    marker=INPUT_KERNEL,
    input_kernel=INPUT_KERNEL,
    recognise=recognise,
    of_config=of_config,
    writers=convnets_written.BIT_WRITERS,
)
