"""ResNet v1.5 (He et al. 2016, but for the stride in the 3x3 convolution), equal to torchvision's and timm's.

The CIFAR variant of the same paper (sec. 4.2) shares these modules: see `cifar_resnet.py`. Names follow
BiT's: `block{stage}/unit{index}/conv1`, counted from 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.models import head, initial, layers, linen
from jtl.models.contract import Family, Model
from jtl.preprocess import Preprocess

Activations: TypeAlias = Float[Array, "batch height width channels"]
Transformed: TypeAlias = Float[Array, "batch new_height new_width new_channels"]

SIZES: dict[str, dict[str, Any]] = {
    "18": {"unit": "basic", "units": (2, 2, 2, 2), "width": 64},
    "34": {"unit": "basic", "units": (3, 4, 6, 3), "width": 64},
    "50": {"unit": "bottleneck", "units": (3, 4, 6, 3), "width": 64},
    "101": {"unit": "bottleneck", "units": (3, 4, 23, 3), "width": 64},
    "152": {"unit": "bottleneck", "units": (3, 8, 36, 3), "width": 64},
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESS = Preprocess(
    (224, 224), resize_px=256, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear"
)
RULES: initial.Rules = (
    *head.RULES,
    (r"(^|/)conv\w*/kernel$", initial.he_normal),
    (r"/(scale|var)$", initial.ones),
    (r"/(bias|mean)$", initial.zeros),
)


@dataclass(frozen=True)
class Config(head.Settings):
    """Settings of a ResNet beside those of every family; 0 and empty mean "as the size has it".

    `unit` is the kind of residual unit, "basic" (two 3x3 convolutions) or "bottleneck"; `units` counts them a
    stage, `width` is the channels of the first stage, doubled in each that follows.
    """

    name: str = "resnet"
    size: str = "50"
    unit: str = ""
    units: tuple[int, ...] = ()
    width: int = 0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        if self.unit:
            layers.check_choice("model.unit", self.unit, UNITS)
        check_stages(self.units, self.width)
        head.check(self)


def check_stages(units: tuple[int, ...], width: int) -> None:
    """Raise UserError unless the numbers of units and channels are in range (empty and 0: from the size)."""
    if any(count < 1 for count in units):
        raise UserError(f"model.units is {units}; expected one unit or more in every stage")
    if width < 0:
        raise UserError(f"model.width is {width}; expected 1 or more, or 0 for the size's own")


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    return replace(layers.fill(config, SIZES), image_px=image_px_of(config, PREPROCESS))


def image_px_of(config: Any, preprocess: Preprocess) -> tuple[int, int]:
    """Return the input's (height, width): the config's, or where that is 0 the default pre-processing's."""
    image_px = layers.pair(config.image_px)
    return image_px if any(image_px) else preprocess.image_px


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)
    return assemble(
        partial(ResNet, full, num_outputs, _root, _projected), full, PREPROCESS.with_channels(num_channels)
    )


def assemble(
    make_module: Callable[[bool, frozenset[str]], nn.Module], config: Any, preprocess: Preprocess
) -> Model:
    """Return the Model around a ResNet module of a resolved config."""
    units = [
        f"block{stage + 1}/unit{index + 1}"
        for stage, count in enumerate(config.units)
        for index in range(count)
    ]
    names = (("conv_root", "bn_root"), *((unit,) for unit in units), ("head",))
    return linen.as_model(make_module, RULES, names, preprocess.at(config.image_px))


def tiny() -> Config:
    """Return a model of two stages of one unit over 16 px, for tests."""
    return Config(size="50", image_px=16, units=(1, 1), width=4)


class Mode(NamedTuple):
    """How one forward pass runs: the compute dtype, and what batch normalisation does."""

    dtype: Any
    train: bool
    frozen_stats: frozenset[str]


class ResNet(nn.Module):
    """The whole model, of a resolved config; `root` and `shortcut` are what the families differ in."""

    config: Any
    num_outputs: int
    root: Callable[..., Array]
    shortcut: Callable[..., Array]
    train: bool
    frozen_stats: frozenset[str]

    @nn.compact
    def __call__(
        self, images: Activations
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        """Return features, logits, and the output of root, units ("block1/unit1") and stages ("stage1")."""
        config = self.config
        mode = Mode(layers.DTYPES[config.dtype], self.train, self.frozen_stats)
        x = self.root(images.astype(mode.dtype), config.width, mode)
        intermediates = {"root": x}
        for stage, num_units in enumerate(config.units):
            name = f"block{stage + 1}"
            outputs = _Stage(config, stage, num_units, self.shortcut, mode, name=name)(x)
            intermediates |= {f"{name}/{unit}": output for unit, output in outputs.items()}
            x = intermediates[f"stage{stage + 1}"] = list(outputs.values())[-1]
        features = jnp.mean(x.astype(jnp.float32), (1, 2))
        return head.read_out(config, self.num_outputs, self.train, features, intermediates)


def conv(x: Activations, channels: int, size: int, stride: int, name: str) -> Transformed:
    """Apply a convolution padded as PyTorch's `size // 2` ("SAME" would shift it where it strides)."""
    padding = [(size // 2, size // 2)] * 2
    declared = {"kernel_init": layers.declared, "use_bias": False}
    return nn.Conv(channels, (size, size), stride, padding, dtype=x.dtype, name=name, **declared)(x)


def norm(x: Activations, mode: Mode, name: str) -> Activations:
    """Apply batch normalisation in this pass's mode."""
    return layers.BatchNorm(mode.train, mode.frozen_stats, dtype=mode.dtype, name=name)(x)


class _Stage(nn.Module):
    """Units at one resolution; gives their outputs by name, in order."""

    config: Any
    stage: int
    num_units: int
    shortcut: Callable[..., Array]
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> dict[str, Array]:
        unit_type = UNITS[self.config.unit]
        unit_type = nn.remat(unit_type) if self.config.remat else unit_type
        outputs = {}
        for index in range(self.num_units):
            stride = 2 if self.stage > 0 and index == 0 else 1
            name = f"unit{index + 1}"
            width = self.config.width * 2**self.stage
            x = outputs[name] = unit_type(width, stride, self.shortcut, self.mode, name=name)(x)
        return outputs


class _BasicUnit(nn.Module):
    """Two 3x3 convolutions."""

    width: int
    stride: int
    shortcut: Callable[..., Array]
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        y = jax.nn.relu(norm(conv(x, self.width, 3, self.stride, "conv1"), self.mode, "bn1"))
        y = norm(conv(y, self.width, 3, 1, "conv2"), self.mode, "bn2")
        return jax.nn.relu(y + self.shortcut(x, self.width, self.stride, self.mode))


class _BottleneckUnit(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width."""

    width: int
    stride: int
    shortcut: Callable[..., Array]
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        y = jax.nn.relu(norm(conv(x, self.width, 1, 1, "conv1"), self.mode, "bn1"))
        y = jax.nn.relu(norm(conv(y, self.width, 3, self.stride, "conv2"), self.mode, "bn2"))
        y = norm(conv(y, 4 * self.width, 1, 1, "conv3"), self.mode, "bn3")
        return jax.nn.relu(y + self.shortcut(x, 4 * self.width, self.stride, self.mode))


def _root(x: Activations, width: int, mode: Mode) -> Transformed:
    x = jax.nn.relu(norm(conv(x, width, 7, 2, "conv_root"), mode, "bn_root"))
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _projected(x: Activations, channels: int, stride: int, mode: Mode) -> Transformed:
    """Return the input itself where it fits, else a strided 1x1 convolution of it."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return norm(conv(x, channels, 1, stride, "conv_proj"), mode, "bn_proj")


UNITS: dict[str, type[nn.Module]] = {"basic": _BasicUnit, "bottleneck": _BottleneckUnit}
FAMILY = Family(Config, build, SIZES, resolve, tiny)
