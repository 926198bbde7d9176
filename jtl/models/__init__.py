"""Models: the contract every family keeps, and the explicit dict of families (one file each)."""

from jtl.models import cifar_resnet, resnet, vit
from jtl.models.contract import Family, Model, Outputs

__all__ = ["MODELS", "Family", "Model", "Outputs"]

MODELS: dict[str, Family] = {
    "vit": vit.FAMILY,
    "resnet": resnet.FAMILY,
    "cifar_resnet": cifar_resnet.FAMILY,
}
