"""The ResNets' tables of names: torchvision and timm, Hugging Face, and pytorch_resnet_cifar10."""

from collections.abc import Mapping
from typing import Any

from jtl.models import cifar_resnet, resnet
from jtl.weights.contract import FamilyNames, LeftOut, Origin, Row
from jtl.weights.names import ops

INPUT_KERNEL = "params/conv_root/kernel"
IMAGENET_ROOT_PX, CIFAR_ROOT_PX = 7, 3


def _conv(source: str, target: str) -> Row:
    return Row(f"{source}.weight", (f"params/{target}/kernel",), ops.CONV)


def _dense(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(f"{source}.weight", (f"params/{target}/kernel",), ops.DENSE),
        Row(f"{source}.bias", (f"params/{target}/bias",), ops.SAME),
    )


def _norm(source: str, target: str) -> tuple[Row, ...]:
    """Return the rows of a batch normalisation: affine parameters and running statistics."""
    return (
        Row(f"{source}.weight", (f"params/{target}/scale",), ops.SAME),
        Row(f"{source}.bias", (f"params/{target}/bias",), ops.SAME),
        Row(f"{source}.running_mean", (f"model_state/batch_stats/{target}/mean",), ops.SAME),
        Row(f"{source}.running_var", (f"model_state/batch_stats/{target}/var",), ops.SAME),
    )


def _counters(*norms: str) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(f"{norm}.num_batches_tracked", "counter, not learned") for norm in norms)


UNIT, TORCH_UNIT = "block{s}/unit{u+1}", "layer{s}.{u}"
TORCH_BODY: tuple[Row, ...] = (
    _conv("conv1", "conv_root"),
    *_norm("bn1", "bn_root"),
    _conv(f"{TORCH_UNIT}.conv{{c}}", f"{UNIT}/conv{{c}}"),
    *_norm(f"{TORCH_UNIT}.bn{{c}}", f"{UNIT}/bn{{c}}"),
)
TORCH_COUNTERS = _counters("bn1", f"{TORCH_UNIT}.bn{{c}}")
TORCH = Origin(
    title="torchvision names",
    rows=(
        *TORCH_BODY,
        _conv(f"{TORCH_UNIT}.downsample.0", f"{UNIT}/conv_proj"),
        *_norm(f"{TORCH_UNIT}.downsample.1", f"{UNIT}/bn_proj"),
        *_dense("fc", "head"),
    ),
    left_out=(*TORCH_COUNTERS, *_counters(f"{TORCH_UNIT}.downsample.1")),
)
PYTORCH_CIFAR = Origin(
    title="pytorch_resnet_cifar10 names",
    rows=(*TORCH_BODY, *_dense("linear", "head")),
    left_out=TORCH_COUNTERS,
)

EMBEDDER, LAYER, LAYER_UNIT = "embedder.embedder", "encoder.stages.{s}.layers.{u}", "block{s+1}/unit{u+1}"
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="resnet.",
    rows=(
        _conv(f"{EMBEDDER}.convolution", "conv_root"),
        *_norm(f"{EMBEDDER}.normalization", "bn_root"),
        _conv(f"{LAYER}.layer.{{c}}.convolution", f"{LAYER_UNIT}/conv{{c+1}}"),
        *_norm(f"{LAYER}.layer.{{c}}.normalization", f"{LAYER_UNIT}/bn{{c+1}}"),
        _conv(f"{LAYER}.shortcut.convolution", f"{LAYER_UNIT}/conv_proj"),
        *_norm(f"{LAYER}.shortcut.normalization", f"{LAYER_UNIT}/bn_proj"),
        *_dense("classifier.1", "head"),
    ),
    left_out=_counters(
        f"{EMBEDDER}.normalization", f"{LAYER}.layer.{{c}}.normalization", f"{LAYER}.shortcut.normalization"
    ),
)


def no_grid(config: Any) -> None:
    """Return None: a ResNet has no position embedding."""


def recognise_imagenet(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the ResNet with these leaves; None where they are none of a ResNet's."""
    found = _stages(shapes, IMAGENET_ROOT_PX)
    if found is None:
        return None
    unit, units, width = found
    fields = {"unit": unit, "units": units, "width": width}
    for name, size in resnet.SIZES.items():
        if size == fields:
            return {"size": name}, f"ResNet-{name}"
    return {"size": "50", **fields}, f"ResNet of {unit} units {units}"


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
    if len(root) != 4 or root[0] != root_px:
        return None
    blocks = [name.split("/")[1:3] for name in shapes if name.endswith("/conv1/kernel")]
    stages = sorted({stage for stage, _ in blocks})
    units = tuple(sum(stage == each for each, _ in blocks) for stage in stages)
    unit = "bottleneck" if any(name.endswith("/conv3/kernel") for name in shapes) else "basic"
    return unit, units, root[3]


RESNET = FamilyNames(
    origins={"torchvision": TORCH, "huggingface": HUGGING_FACE},
    input_kernel=INPUT_KERNEL,
    position_embedding="",
    grid=no_grid,
    recognise=recognise_imagenet,
)
CIFAR_RESNET = FamilyNames(
    origins={"pytorch_resnet_cifar10": PYTORCH_CIFAR},
    input_kernel=INPUT_KERNEL,
    position_embedding="",
    grid=no_grid,
    recognise=recognise_cifar,
)
