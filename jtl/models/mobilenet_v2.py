"""MobileNetV2 (Sandler et al. 2018), equal to timm's, torchvision's, Hugging Face's and Keras's.

Their two paddings, PyTorch's and TensorFlow's, are one setting; so are batch normalisation's epsilon and
momentum. Names are those of `resnet.py` where they fit: `block{stage}/unit{index}/conv_expand`.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jtl.errors import UserError, shown
from jtl.inputs.preprocess import Preprocess
from jtl.models import depthwise, head, image, layers, rematerialise, resnet
from jtl.models.contract import Family, Model
from jtl.models.resnet import Activations, Mode, Transformed
from jtl.ranges import Depth, Epsilon, Fraction, Range, WidthOr0

# Sandler et al. 2018, table 2: channels and stride of each stage, and the units it has.
CHANNELS = (16, 24, 32, 64, 96, 160, 320)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
UNITS = (1, 2, 3, 4, 3, 3, 1)
ROOT_CHANNELS, FINAL_CHANNELS, EXPANSION = 32, 1280, 6


def _size(width: float, units: tuple[int, ...] = UNITS, has_fixed_ends: bool = False) -> dict[str, Any]:
    return {"width": width, "units": units, "has_fixed_ends": has_fixed_ends}


# Each size is its width in per cent; timm's -d are deeper too.
SIZES: dict[str, dict[str, Any]] = {
    "035": _size(0.35),
    "050": _size(0.5),
    "075": _size(0.75),
    "100": _size(1.0),
    "110d": _size(1.1, (1, 3, 4, 5, 4, 4, 1), has_fixed_ends=True),
    "120d": _size(1.2, (1, 3, 5, 6, 5, 5, 1), has_fixed_ends=True),
    "130": _size(1.3),
    "140": _size(1.4),
}
PREPROCESS = Preprocess((224, 224), resize_px=256, mean=resnet.IMAGENET_MEAN, std=resnet.IMAGENET_STD)
RULES = resnet.RULES
PADDINGS: dict[str, str | None] = {"torch": None, "same": "SAME"}


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a MobileNetV2 beside those of every family; None, 0 and empty mean "as the size has it".

    `width` multiplies every number of channels, which is then rounded to a multiple of 8; with
    `has_fixed_ends` not the first's and the last's. `units` counts the units a stage. `final_channels` are
    the last convolution's, 0: 1280, or more where `width` is above 1. `padding` is "torch" (the same on both
    sides) or "same" (TensorFlow's: where a stride leaves an odd pixel, more at the end). `norm_epsilon` is
    batch normalisation's; its statistics move by 1 - `norm_momentum` a step.
    """

    name: str = "mobilenet_v2"
    size: str = "100"
    width: Annotated[float, Range(0, 1024)] = 0.0
    units: tuple[Depth, ...] = ()
    has_fixed_ends: bool | None = None
    final_channels: WidthOr0 = 0
    padding: str = "torch"
    norm_epsilon: Epsilon = 1e-5
    norm_momentum: Fraction = 0.9

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        layers.check_choice("model.padding", self.padding, PADDINGS)
        resnet.check_stages(self.units)
        if len(self.units) > len(CHANNELS):
            raise UserError(f"model.units is {shown(self.units)}; expected {len(CHANNELS)} stages or fewer")
        image.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    full = layers.fill(config, SIZES)
    return replace(
        full,
        image_px=image.image_px_of(config, PREPROCESS),
        final_channels=full.final_channels
        or rounded(FINAL_CHANNELS * (1.0 if full.has_fixed_ends else max(full.width, 1.0))),
    )


def rounded(channels: float) -> int:
    """Return the multiple of 8 nearest to a number of channels, which it is not below by over a tenth.

    >>> rounded(24 * 1.4), rounded(16 * 0.35), rounded(32 * 0.35)
    (32, 8, 16)
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def channels(config: Config) -> list[int]:
    """Return the channels of the root, of each stage and of the last convolution of a resolved config."""
    stages = [rounded(number * config.width) for number, _ in zip(CHANNELS, config.units, strict=False)]
    root = rounded(ROOT_CHANNELS * (1.0 if config.has_fixed_ends else config.width))
    return [root, *stages, config.final_channels]


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        dtype = layers.compute_dtype(full.dtype)
        mode = Mode(dtype, train, frozen_stats, full.norm_epsilon, full.norm_momentum)
        return _MobileNet(full, num_outputs, mode)

    names = (
        ("conv_root", "bn_root"),
        *((unit,) for unit in resnet.unit_names(full.units)),
        ("conv_final", "bn_final"),
        ("head",),
    )
    preprocess = PREPROCESS.with_channels(num_channels).at(layers.pair(full.image_px))
    inside = resnet.last_map(full.units, full)
    return image.as_model(make_module, RULES, names, preprocess, inside=inside)


def tiny() -> Config:
    """Return a model of two stages of one unit over 8 px, for tests."""
    return Config(size="035", image_px=8, units=(1, 1), final_channels=16)


class _MobileNet(nn.Module):
    """The whole model, of a resolved config."""

    config: Config
    num_outputs: int
    mode: Mode

    @nn.compact
    def __call__(
        self, images: Activations
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        """Return features, logits, and the output of root, units ("block1/unit1") and stages ("stage1")."""
        config, mode = self.config, self.mode
        padding = PADDINGS[config.padding]
        x = images.astype(mode.dtype)
        x = resnet.conv(x, channels(config)[0], 3, 2, "conv_root", padding=padding)
        x = _relu6(resnet.norm(x, mode, "bn_root"))
        intermediates = {"root": x}
        for stage in range(len(config.units)):
            name = f"block{stage + 1}"
            outputs = _Stage(config, stage, mode, name=name)(x)
            intermediates |= {f"{name}/{unit}": output for unit, output in outputs.items()}
            x = intermediates[f"stage{stage + 1}"] = list(outputs.values())[-1]
        x = resnet.conv(x, config.final_channels, 1, 1, "conv_final")
        x = intermediates["final"] = _relu6(resnet.norm(x, mode, "bn_final"))
        features = jnp.mean(x.astype(jnp.float32), (1, 2))
        return head.read_out(config, self.num_outputs, mode.train, features, intermediates)


class _Stage(nn.Module):
    """Units at one resolution; gives their outputs by name, in order."""

    config: Config
    stage: int
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> dict[str, Array]:
        config, stage = self.config, self.stage
        unit_type = rematerialise.of_blocks(_Unit, config.remat)
        width, padding = channels(config)[stage + 1], PADDINGS[config.padding]
        outputs = {}
        for index in range(config.units[stage]):
            stride, name = STRIDES[stage] if index == 0 else 1, f"unit{index + 1}"
            expansion = EXPANSION if stage > 0 else 1
            x = outputs[name] = unit_type(width, stride, expansion, padding, self.mode, name=name)(x)
        return outputs


class _Unit(nn.Module):
    """1x1 up by the expansion (where it is not 1), 3x3 of each channel alone, 1x1 down without activation."""

    channels: int
    stride: int
    expansion: int
    padding: str | None
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        mode, y = self.mode, x
        wide = x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = _relu6(resnet.conv_norm(y, wide, 1, 1, "_expand", mode))
        is_same = self.padding is not None
        y = depthwise.Conv(3, self.stride, is_same, name="conv_depthwise")(y)
        y = _relu6(resnet.norm(y, mode, "bn_depthwise"))
        y = resnet.conv_norm(y, self.channels, 1, 1, "_project", mode)
        return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


def _relu6(x: Activations) -> Activations:
    return jnp.clip(x, 0.0, 6.0)


FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
