"""Models: the contract every family keeps, and the explicit dict of families (one file each)."""

from jtl.models import bert, bit, cifar_resnet, conv_net, convnext, mobilenet_v2, resnet, vit
from jtl.models.contract import Family, Model, Outputs

__all__ = ["MODELS", "Family", "Model", "Outputs"]

MODELS: dict[str, Family] = {
    "vit": vit.FAMILY,
    "resnet": resnet.FAMILY,
    "cifar_resnet": cifar_resnet.FAMILY,
    "conv_net": conv_net.FAMILY,
    "bit": bit.FAMILY,
    "convnext": convnext.FAMILY,
    "mobilenet_v2": mobilenet_v2.FAMILY,
    "bert": bert.FAMILY,
}
