"""The `config.json` of a ResNet, BiT, ConvNeXt or MobileNetV2, for timm and for transformers."""

from typing import Any

from jtl.models import bit, convnext, mobilenet_v2, resnet
from jtl.weights.names import written
from jtl.weights.names.written import Values, Writer, one_or_two, only

TIMM, TRANSFORMERS = "timm", "transformers"
RESNET_FIELDS = {"has_conv_bias": False, "norm_epsilon": 1e-5}
STRIDES = 2


def timm_resnet(config: resnet.Config) -> Values:
    """Return timm's file of a ResNet."""
    only(config, TIMM, {**RESNET_FIELDS, "is_v1": False, "width": 64})
    name = _named(config, resnet.SIZES, ("unit", "root", "shortcut"))
    return written.timm(f"resnet{name}", layers=list(config.units))


def transformers_resnet(config: resnet.Config) -> Values:
    """Return the file of a `ResNetForImageClassification`."""
    only(config, TRANSFORMERS, {**RESNET_FIELDS, "root": "plain", "shortcut": "conv"})
    widths = [config.width * STRIDES**stage for stage in range(len(config.units))]
    is_bottleneck = config.unit == resnet.BOTTLENECK
    return written.transformers(
        "resnet",
        "ResNetForImageClassification",
        embedding_size=config.width,
        hidden_sizes=[width * 4 for width in widths] if is_bottleneck else widths,
        depths=list(config.units),
        layer_type=config.unit,
        hidden_act="relu",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=bool(config.is_v1),
    )


def timm_bit(config: bit.Config) -> Values:
    """Return timm's file of a BiT."""
    only(config, TIMM, {"num_groups": 32})
    return written.timm(f"resnetv2_{_named(config, bit.SIZES, ('units', 'width'))}_bit")


def transformers_bit(config: bit.Config) -> Values:
    """Return the file of a `BitForImageClassification`."""
    only(config, TRANSFORMERS, {})
    return written.transformers(
        "bit",
        "BitForImageClassification",
        embedding_size=config.width,
        hidden_sizes=[config.width * 4 * STRIDES**stage for stage in range(len(config.units))],
        depths=list(config.units),
        layer_type="preactivation",
        hidden_act="relu",
        global_padding=None,
        num_groups=config.num_groups,
        embedding_dynamic_padding=False,
        output_stride=32,
        width_factor=1,
    )


def timm_convnext(config: convnext.Config) -> Values:
    """Return timm's file of a ConvNeXt, of either version."""
    only(config, TIMM, {"norm_epsilon": 1e-6, "final_norm_epsilon": 1e-6})
    architecture = "convnextv2_tiny" if config.version > 1 else "convnext_tiny"
    return written.timm(
        architecture,
        depths=list(config.units),
        dims=list(config.widths),
        conv_mlp=config.mlp == convnext.CONV,
        act_layer=written.TIMM_GELUS[config.gelu],
    )


def transformers_convnext(config: convnext.Config) -> Values:
    """Return the file of a `ConvNextForImageClassification`."""
    return _transformers_convnext(config, 1, "convnext", "ConvNextForImageClassification")


def transformers_convnext_v2(config: convnext.Config) -> Values:
    """Return the file of a `ConvNextV2ForImageClassification`."""
    return _transformers_convnext(config, 2, "convnextv2", "ConvNextV2ForImageClassification")


def _transformers_convnext(config: convnext.Config, version: int, model_type: str, kind: str) -> Values:
    only(config, TRANSFORMERS, {"norm_epsilon": 1e-6, "version": version, "gelu": "exact"})
    return written.transformers(
        model_type,
        kind,
        num_stages=len(config.units),
        depths=list(config.units),
        hidden_sizes=list(config.widths),
        patch_size=convnext.ROOT_PX,
        hidden_act="gelu",
        layer_norm_eps=config.final_norm_epsilon,
        image_size=one_or_two(config.image_px),
    )


def timm_mobilenet(config: mobilenet_v2.Config) -> Values:
    """Return timm's file of a MobileNetV2."""
    only(config, TIMM, {"padding": "torch", "norm_epsilon": 1e-5})
    return written.timm(f"mobilenetv2_{_named(config, mobilenet_v2.SIZES, ('width', 'units'))}")


def transformers_mobilenet(config: mobilenet_v2.Config) -> Values:
    """Return the file of a `MobileNetV2ForImageClassification`."""
    only(config, TRANSFORMERS, {"has_fixed_ends": False, "units": mobilenet_v2.UNITS})
    return written.transformers(
        "mobilenet_v2",
        "MobileNetV2ForImageClassification",
        depth_multiplier=config.width,
        tf_padding=config.padding == "same",
        layer_norm_eps=config.norm_epsilon,
        image_size=one_or_two(config.image_px),
        hidden_act="relu6",
        finegrained_output=True,
        first_layer_is_expansion=True,
        classifier_dropout_prob=0.0,
    )


def _named(config: Any, sizes: dict[str, dict[str, Any]], fields: tuple[str, ...]) -> str:
    """Return the size whose fields the model has; raises UserError where none has."""
    found = {name: getattr(config, name) for name in fields}
    known = [name for name, size in sizes.items() if all(size[each] == found[each] for each in fields)]
    if not known:
        only(config, TIMM, {name: sizes[config.size][name] for name in fields})
    return known[0]


RESNET_WRITERS: dict[str, Writer] = {
    "torchvision": timm_resnet,
    "torchvision_d": timm_resnet,
    "huggingface": transformers_resnet,
}
BIT_WRITERS: dict[str, Writer] = {"timm": timm_bit, "huggingface": transformers_bit}
CONVNEXT_WRITERS: dict[str, Writer] = {
    "timm": timm_convnext,
    "huggingface": transformers_convnext,
    "huggingface_v2": transformers_convnext_v2,
}
MOBILENET_WRITERS: dict[str, Writer] = {"timm": timm_mobilenet, "huggingface": transformers_mobilenet}
