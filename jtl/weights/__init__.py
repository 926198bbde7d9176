"""Weights: settings and records of loading, and the explicit dict of the families' names (one file each)."""

from jtl.weights.contract import Config, FamilyNames, Loaded
from jtl.weights.names import bert, bit, conv_net, convnext, mobilenet_v2, resnet, vit
from jtl.weights.report import LoadReport

__all__ = ["FAMILIES", "Config", "FamilyNames", "LoadReport", "Loaded"]

FAMILIES: dict[str, FamilyNames] = {
    "vit": vit.NAMES,
    "resnet": resnet.RESNET,
    "cifar_resnet": resnet.CIFAR_RESNET,
    "conv_net": conv_net.NAMES,
    "bit": bit.NAMES,
    "convnext": convnext.NAMES,
    "mobilenet_v2": mobilenet_v2.NAMES,
    "bert": bert.NAMES,
}
