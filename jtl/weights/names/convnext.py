"""ConvNeXt's tables of names: timm, Hugging Face, Facebook's own; how to recognise one."""

import re
from collections.abc import Mapping
from typing import Any

from jtl.models import convnext
from jtl.weights.contract import FamilyNames, LeftOut, Op, Origin, Row
from jtl.weights.names import convnets_written, hub_config, ops, rows

INPUT_KERNEL = "params/conv_root/kernel"
UNIT = "block{s+1}/unit{u+1}"


def _mlp(source: str, number: int, kernel: Op) -> tuple[Row, Row]:
    return (
        Row(f"{source}.weight", (f"params/{UNIT}/fc{number}/kernel",), kernel),
        Row(f"{source}.bias", (f"params/{UNIT}/fc{number}/bias",), ops.SAME),
    )


def _response_norm(scale: str, bias: str, op: Op) -> tuple[Row, Row]:
    return (
        Row(scale, (f"params/{UNIT}/grn/scale",), op),
        Row(bias, (f"params/{UNIT}/grn/bias",), op),
    )


TIMM_UNIT = "stages.{s}.blocks.{u}"
TIMM = Origin(
    title="timm names",
    rows=(
        *rows.conv("stem.0", "conv_root"),
        *rows.norm("stem.1", "norm_root"),
        *rows.norm("stages.{s}.downsample.0", "block{s+1}/norm_down"),
        *rows.conv("stages.{s}.downsample.1", "block{s+1}/conv_down"),
        *rows.conv(f"{TIMM_UNIT}.conv_dw", f"{UNIT}/conv_depthwise"),
        *rows.norm(f"{TIMM_UNIT}.norm", f"{UNIT}/norm"),
        *_mlp(f"{TIMM_UNIT}.mlp.fc1", 1, rows.POINTWISE),
        *_mlp(f"{TIMM_UNIT}.mlp.fc2", 2, rows.POINTWISE),
        *_response_norm(f"{TIMM_UNIT}.mlp.grn.weight", f"{TIMM_UNIT}.mlp.grn.bias", ops.SAME),
        Row(f"{TIMM_UNIT}.gamma", (f"params/{UNIT}/gamma",), ops.SAME),
        *rows.norm("head.norm", "norm_final"),
        *rows.dense("head.fc", "head"),
    ),
    left_out=tuple(
        LeftOut(f"head.pre_logits.fc.{leaf}", "layer before the source's head", of_head=True)
        for leaf in ("weight", "bias")
    ),
)

HUGGING_FACE_UNIT = "encoder.stages.{s}.layers.{u}"
HUGGING_FACE_ROWS = (
    *rows.conv("embeddings.patch_embeddings", "conv_root"),
    *rows.norm("embeddings.layernorm", "norm_root"),
    *rows.norm("encoder.stages.{s}.downsampling_layer.0", "block{s+1}/norm_down"),
    *rows.conv("encoder.stages.{s}.downsampling_layer.1", "block{s+1}/conv_down"),
    *rows.conv(f"{HUGGING_FACE_UNIT}.dwconv", f"{UNIT}/conv_depthwise"),
    *rows.norm(f"{HUGGING_FACE_UNIT}.layernorm", f"{UNIT}/norm"),
    *_mlp(f"{HUGGING_FACE_UNIT}.pwconv1", 1, rows.POINTWISE_DENSE),
    *_mlp(f"{HUGGING_FACE_UNIT}.pwconv2", 2, rows.POINTWISE_DENSE),
    Row(f"{HUGGING_FACE_UNIT}.layer_scale_parameter", (f"params/{UNIT}/gamma",), ops.SAME),
    *rows.norm("layernorm", "norm_final"),
    *rows.dense("classifier", "head"),
)
HUGGING_FACE_GRN = _response_norm(
    f"{HUGGING_FACE_UNIT}.grn.weight", f"{HUGGING_FACE_UNIT}.grn.bias", rows.VECTOR
)
# transformers' own default, of the last normalisation alone.
HUGGING_FACE_FIELDS = {"final_norm_epsilon": 1e-12}
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="convnext.",
    rows=HUGGING_FACE_ROWS,
    config_fields=HUGGING_FACE_FIELDS,
)
HUGGING_FACE_V2 = Origin(
    title="Hugging Face names of V2",
    prefix="convnextv2.",
    rows=(*HUGGING_FACE_ROWS, *HUGGING_FACE_GRN),
    config_fields=HUGGING_FACE_FIELDS,
)

FACEBOOK_UNIT = "stages.{s}.{u}"
FACEBOOK = Origin(
    title="Facebook's names",
    rows=(
        *rows.conv("downsample_layers.0.0", "conv_root"),
        *rows.norm("downsample_layers.0.1", "norm_root"),
        *(
            row
            for stage in (1, 2, 3)
            for row in (
                *rows.norm(f"downsample_layers.{stage}.0", f"block{stage + 1}/norm_down"),
                *rows.conv(f"downsample_layers.{stage}.1", f"block{stage + 1}/conv_down"),
            )
        ),
        *rows.conv(f"{FACEBOOK_UNIT}.dwconv", f"{UNIT}/conv_depthwise"),
        *rows.norm(f"{FACEBOOK_UNIT}.norm", f"{UNIT}/norm"),
        *_mlp(f"{FACEBOOK_UNIT}.pwconv1", 1, rows.POINTWISE_DENSE),
        *_mlp(f"{FACEBOOK_UNIT}.pwconv2", 2, rows.POINTWISE_DENSE),
        *_response_norm(f"{FACEBOOK_UNIT}.grn.gamma", f"{FACEBOOK_UNIT}.grn.beta", rows.VECTOR),
        Row(f"{FACEBOOK_UNIT}.gamma", (f"params/{UNIT}/gamma",), ops.SAME),
        *rows.norm("norm", "norm_final"),
        *rows.dense("head", "head"),
    ),
)

MODEL_TYPES = ("convnext", "convnextv2")
TIMM_ARCHITECTURE = re.compile(r"convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large|xlarge|huge)")


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a `config.json` says of a ConvNeXt beyond its tensors; None where it is of another family.

    Raises:
        UserError: it describes one that jtl has not got.
    """
    if values.get("model_type") in MODEL_TYPES:
        hub_config.refuse_others(values, {"hidden_act": "gelu"}, "ConvNeXts")
        stated = values.get("layer_norm_eps", HUGGING_FACE_FIELDS["final_norm_epsilon"])
        return {"final_norm_epsilon": float(stated)}
    is_known = TIMM_ARCHITECTURE.fullmatch(str(values.get("architecture", "")))
    return hub_config.timm_image_px(values) if is_known else None


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the ConvNeXt with these leaves; None where they are none of a ConvNeXt's.

    How the MLP's kernels are kept follows from the size; both ways load into either.
    """
    depthwise = "params/{}/conv_depthwise/kernel"
    if INPUT_KERNEL not in shapes or depthwise.format("block1/unit1") not in shapes:
        return None
    stages = sorted({name.split("/")[1] for name in shapes if name.endswith("/conv_depthwise/kernel")})
    kernels = [name.split("/")[1] for name in shapes if name.endswith("/conv_depthwise/kernel")]
    fields: dict[str, Any] = {
        "version": 2 if "params/block1/unit1/grn/scale" in shapes else 1,
        "units": tuple(kernels.count(stage) for stage in stages),
        "widths": tuple(shapes[depthwise.format(f"{stage}/unit1")][-1] for stage in stages),
    }
    title = "ConvNeXt V2" if fields["version"] == 2 else "ConvNeXt"
    for name, size in convnext.SIZES.items():
        if {**size, **fields} == size:
            return {"size": name}, f"{title}-{name.removeprefix('v2_')}"
    if len(shapes.get("params/block1/unit1/fc1/kernel", ())) == 4:
        fields["mlp"] = convnext.CONV
    return {"size": "tiny", **fields}, f"{title} of units {fields['units']} and widths {fields['widths']}"


NAMES = FamilyNames(
    origins={
        "timm": TIMM,
        "huggingface": HUGGING_FACE,
        "huggingface_v2": HUGGING_FACE_V2,
        "facebook": FACEBOOK,
    },
    marker=INPUT_KERNEL,
    input_kernel=INPUT_KERNEL,
    recognise=recognise,
    of_config=of_config,
    writers=convnets_written.CONVNEXT_WRITERS,
)
