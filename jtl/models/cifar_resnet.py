"""The ResNets for 32 px images of He et al. 2016, sec. 4.2: three stages, shortcuts without parameters.

Equal to akamaster/pytorch_resnet_cifar10, whose weights are public. Names are those of `resnet.py`.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.inputs.preprocess import Preprocess
from jtl.models import image, layers, resnet
from jtl.models.contract import Family, Model
from jtl.models.resnet import Activations, Transformed
from jtl.ranges import Depth, WidthOr0

SIZES: dict[str, dict[str, Any]] = {
    "20": {"units": (3, 3, 3), "width": 16},
    "32": {"units": (5, 5, 5), "width": 16},
    "44": {"units": (7, 7, 7), "width": 16},
    "56": {"units": (9, 9, 9), "width": 16},
    "110": {"units": (18, 18, 18), "width": 16},
}
PREPROCESS = Preprocess((32, 32), resize_px=32, mean=resnet.IMAGENET_MEAN, std=resnet.IMAGENET_STD)


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a CIFAR ResNet, which mean what they do in `resnet.Config`."""

    name: str = "cifar_resnet"
    size: str = "20"
    unit: str = "basic"
    units: tuple[Depth, ...] = ()
    width: WidthOr0 = 0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        layers.check_choice("model.unit", self.unit, resnet.UNITS)
        resnet.check_stages(self.units)
        image.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    return replace(layers.fill(config, SIZES), image_px=image.image_px_of(config, PREPROCESS))


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        mode = resnet.Mode(layers.compute_dtype(full.dtype), train, frozen_stats)
        return resnet.ResNet(full, num_outputs, _root, _padded, mode)

    return resnet.assemble(make_module, full, PREPROCESS.with_channels(num_channels), resnet.ROOT_NAMES)


def tiny() -> Config:
    """Return a model of two stages of one unit over 8 px, for tests."""
    return Config(image_px=8, units=(1, 1), width=4)


def _root(x: Activations, width: int, mode: resnet.Mode) -> Transformed:
    return jax.nn.relu(resnet.conv_norm(x, width, 3, 1, "_root", mode))


def _padded(x: Activations, channels: int, stride: int, mode: resnet.Mode) -> Transformed:
    """Return the input, subsampled and with zero channels on both sides (the paper's option A)."""
    del mode
    missing = channels - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
