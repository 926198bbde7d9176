"""The ResNets' tables of names: torchvision and timm, Hugging Face, Keras, and pytorch_resnet_cifar10."""

import re
from collections.abc import Mapping
from typing import Any

from jtl.models import cifar_resnet, resnet
from jtl.weights.contract import FamilyNames, Origin, Row
from jtl.weights.names import convnets_written, flax_hub, hub_config, rows

INPUT_KERNEL = "params/conv_root/kernel"
IMAGENET_ROOT_PX, DEEP_ROOT_PX, CIFAR_ROOT_PX = 7, 3, 3

UNIT, TORCH_UNIT = "block{s}/unit{u+1}", "layer{s}.{u}"
TORCH_ROOT = (*rows.conv("conv1", "conv_root"), *rows.batch_norm("bn1", "bn_root"))
DEEP_ROOT = (
    *rows.conv("conv1.0", "conv_root"),
    *rows.batch_norm("conv1.1", "bn_root"),
    *rows.conv("conv1.3", "conv_root2"),
    *rows.batch_norm("conv1.4", "bn_root2"),
    *rows.conv("conv1.6", "conv_root3"),
    *rows.batch_norm("bn1", "bn_root3"),
)
TORCH_UNITS = (
    *rows.conv(f"{TORCH_UNIT}.conv{{c}}", f"{UNIT}/conv{{c}}"),
    *rows.batch_norm(f"{TORCH_UNIT}.bn{{c}}", f"{UNIT}/bn{{c}}"),
)
TORCH_COUNTERS = rows.counters("bn1", f"{TORCH_UNIT}.bn{{c}}")


def _shortcut(conv: int) -> tuple[Row, ...]:
    """Return the rows of a shortcut whose convolution has this place among its layers."""
    return (
        *rows.conv(f"{TORCH_UNIT}.downsample.{conv}", f"{UNIT}/conv_proj"),
        *rows.batch_norm(f"{TORCH_UNIT}.downsample.{conv + 1}", f"{UNIT}/bn_proj"),
    )


TORCH = Origin(
    title="torchvision names",
    rows=(*TORCH_ROOT, *TORCH_UNITS, *_shortcut(0), *rows.dense("fc", "head")),
    left_out=(*TORCH_COUNTERS, *rows.counters(f"{TORCH_UNIT}.downsample.1")),
)
TIMM_D = Origin(
    title="timm's names of -d models",
    rows=(*DEEP_ROOT, *TORCH_UNITS, *_shortcut(1), *rows.dense("fc", "head")),
    left_out=(*TORCH_COUNTERS, *rows.counters("conv1.{c}", f"{TORCH_UNIT}.downsample.2")),
)
PYTORCH_CIFAR = Origin(
    title="pytorch_resnet_cifar10 names",
    rows=(*TORCH_ROOT, *TORCH_UNITS, *rows.dense("linear", "head")),
    left_out=TORCH_COUNTERS,
)

EMBEDDER, LAYER, LAYER_UNIT = "embedder.embedder", "encoder.stages.{s}.layers.{u}", "block{s+1}/unit{u+1}"
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="resnet.",
    rows=(
        *rows.conv(f"{EMBEDDER}.convolution", "conv_root"),
        *rows.batch_norm(f"{EMBEDDER}.normalization", "bn_root"),
        *rows.conv(f"{LAYER}.layer.{{c}}.convolution", f"{LAYER_UNIT}/conv{{c+1}}"),
        *rows.batch_norm(f"{LAYER}.layer.{{c}}.normalization", f"{LAYER_UNIT}/bn{{c+1}}"),
        *rows.conv(f"{LAYER}.shortcut.convolution", f"{LAYER_UNIT}/conv_proj"),
        *rows.batch_norm(f"{LAYER}.shortcut.normalization", f"{LAYER_UNIT}/bn_proj"),
        *rows.dense("classifier.1", "head"),
    ),
    left_out=rows.counters(
        f"{EMBEDDER}.normalization", f"{LAYER}.layer.{{c}}.normalization", f"{LAYER}.shortcut.normalization"
    ),
)

# Flax's classes call the layers of a basic unit otherwise than those of a bottleneck.
BASIC_ROWS = tuple(
    row._replace(source=row.source.replace(".layer.{c}.", ".layer.layer_{c}.")) for row in HUGGING_FACE.rows
)
BASIC = HUGGING_FACE._replace(rows=BASIC_ROWS)

KERAS_UNIT, KERAS_TARGET = "conv{s+1}_block{u+1}", "block{s}/unit{u+1}"
KERAS = Origin(
    title="Keras names",
    rows=(
        *rows.keras_layer("conv1_conv", "conv_root", rows.BLUE_FIRST),
        *rows.keras_batch_norm("conv1_bn", "bn_root"),
        *(
            row
            for source, target in (("1", "1"), ("2", "2"), ("3", "3"), ("0", "_proj"))
            for row in (
                *rows.keras_layer(f"{KERAS_UNIT}_{source}_conv", f"{KERAS_TARGET}/conv{target}"),
                *rows.keras_batch_norm(f"{KERAS_UNIT}_{source}_bn", f"{KERAS_TARGET}/bn{target}"),
            )
        ),
        *rows.keras_layer("predictions", "head"),
    ),
)
# Architectures of timm whose every difference is one of jtl's settings or seen in the tensors.
MODEL_TYPE = "resnet"
TIMM_ARCHITECTURE = re.compile(r"resnet\d+[dt]?")


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a `config.json` says of a ResNet beyond its tensors; None where it is of another family.

    Raises:
        UserError: it describes a ResNet that jtl has not got.
    """
    if values.get("model_type") == MODEL_TYPE:
        expected = {"hidden_act": "relu", "downsample_in_first_stage": False}
        hub_config.refuse_others(values, expected, "ResNets")
        return {"is_v1": True} if values.get("downsample_in_bottleneck", False) else {}
    is_known = TIMM_ARCHITECTURE.fullmatch(str(values.get("architecture", "")))
    return hub_config.timm_image_px(values) if is_known else None


def recognise_imagenet(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the ResNet with these leaves; None where they are none of a ResNet's.

    Convolutions with a bias are Keras's, which strides early; no tensor tells.
    """
    is_deep = "params/conv_root3/kernel" in shapes
    found = _stages(shapes, DEEP_ROOT_PX if is_deep else IMAGENET_ROOT_PX)
    if found is None:
        return None
    unit, units, width = found
    fields: dict[str, Any] = {"unit": unit, "units": units, "width": width}
    if is_deep:
        width = fields["width"] = shapes["params/conv_root3/kernel"][3]
        is_tiered = shapes[INPUT_KERNEL][3] != shapes["params/conv_root2/kernel"][3]
        fields |= resnet.T if is_tiered else resnet.D
    is_keras = "params/conv_root/bias" in shapes
    fields |= resnet.KERAS if is_keras else {}
    full = {"root": "plain", "shortcut": "conv", "norm_epsilon": 1e-5, **fields}
    for name, size in resnet.SIZES.items():
        if size == full:
            return {"size": name}, f"ResNet-{name}"
    return {"size": "keras50" if is_keras else "50", **fields}, f"ResNet of {unit} units {units}"


def recognise_cifar(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the CIFAR ResNet with these leaves; None where they are none of its."""
    found = _stages(shapes, CIFAR_ROOT_PX)
    if found is None:
        return None
    unit, units, width = found
    for name, size in cifar_resnet.SIZES.items():
        if unit == "basic" and size == {"units": units, "width": width}:
            return {"size": name}, f"CIFAR ResNet-{name}"
    return {
        "size": "20",
        "unit": unit,
        "units": units,
        "width": width,
    }, f"CIFAR ResNet of {unit} units {units}"


def _stages(shapes: Mapping[str, tuple[int, ...]], root_px: int) -> tuple[str, tuple[int, ...], int] | None:
    """Return the kind of unit, the units of each stage and the first stage's width."""
    root = shapes.get(INPUT_KERNEL, ())
    if len(root) != 4 or root[0] != root_px or "params/bn_root/scale" not in shapes:
        return None
    blocks = [name.split("/")[1:3] for name in shapes if name.endswith("/conv1/kernel")]
    stages = sorted({stage for stage, _ in blocks})
    units = tuple(sum(stage == each for each, _ in blocks) for stage in stages)
    unit = "bottleneck" if any(name.endswith("/conv3/kernel") for name in shapes) else "basic"
    return unit, units, root[3]


RESNET = FamilyNames(
    origins={
        "torchvision": TORCH,
        "torchvision_d": TIMM_D,
        "huggingface": HUGGING_FACE,
        "flax_resnet": flax_hub.origin_with_statistics(HUGGING_FACE, "", "resnet/"),
        "flax_resnet_basic": flax_hub.origin_with_statistics(BASIC, "", "resnet/"),
        "keras": KERAS,
    },
    marker=INPUT_KERNEL,
    input_kernel=INPUT_KERNEL,
    recognise=recognise_imagenet,
    of_config=of_config,
    writers=convnets_written.RESNET_WRITERS,
)
CIFAR_RESNET = FamilyNames(
    origins={"pytorch_resnet_cifar10": PYTORCH_CIFAR},
    marker=INPUT_KERNEL,
    input_kernel=INPUT_KERNEL,
    recognise=recognise_cifar,
)
