"""ResNet v1.5 (He et al. 2016, but for the stride in the 3x3 convolution), equal to torchvision's and timm's.

With timm's -d root and shortcut (He et al. 2019, "Bag of Tricks") and the v1 of Keras applications. The CIFAR
variant of the first paper (sec. 4.2) shares these modules: see `cifar_resnet.py`. Names follow BiT's:
`block{stage}/unit{index}/conv1`, counted from 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError, shown
from jtl.inputs.preprocess import Preprocess
from jtl.models import head, image, initial, layers, rematerialise
from jtl.models.contract import Family, Inside, Model
from jtl.models.max_pool import max_pool
from jtl.ranges import Depth, Fraction, WidthOr0

Activations: TypeAlias = Float[Array, "batch height width channels"]
Transformed: TypeAlias = Float[Array, "batch new_height new_width new_channels"]

BASIC, BOTTLENECK = "basic", "bottleneck"
# Each halves the map and doubles the channels.
MAX_STAGES = 10


def _size(unit: str, *units: int, **fields: Any) -> dict[str, Any]:
    own = {"root": "plain", "shortcut": "conv", "norm_epsilon": 1e-5}
    return {"unit": unit, "units": units, "width": 64, **own, **fields}


D: dict[str, Any] = {"root": "deep", "shortcut": "avg_pool"}
DEFAULTS = {"is_v1": False, "has_conv_bias": False}
T: dict[str, Any] = {"root": "tiered", "shortcut": "avg_pool"}
KERAS: dict[str, Any] = {"is_v1": True, "has_conv_bias": True, "norm_epsilon": 1.001e-5}
SIZES: dict[str, dict[str, Any]] = {
    "18": _size(BASIC, 2, 2, 2, 2),
    "34": _size(BASIC, 3, 4, 6, 3),
    "50": _size(BOTTLENECK, 3, 4, 6, 3),
    "101": _size(BOTTLENECK, 3, 4, 23, 3),
    "152": _size(BOTTLENECK, 3, 8, 36, 3),
    "10t": _size(BASIC, 1, 1, 1, 1, **T),
    "14t": _size(BOTTLENECK, 1, 1, 1, 1, **T),
    "18d": _size(BASIC, 2, 2, 2, 2, **D),
    "26": _size(BOTTLENECK, 2, 2, 2, 2),
    "26d": _size(BOTTLENECK, 2, 2, 2, 2, **D),
    "26t": _size(BOTTLENECK, 2, 2, 2, 2, **T),
    "34d": _size(BASIC, 3, 4, 6, 3, **D),
    "50d": _size(BOTTLENECK, 3, 4, 6, 3, **D),
    "101d": _size(BOTTLENECK, 3, 4, 23, 3, **D),
    "152d": _size(BOTTLENECK, 3, 8, 36, 3, **D),
    "200d": _size(BOTTLENECK, 3, 24, 36, 3, **D),
    "keras50": _size(BOTTLENECK, 3, 4, 6, 3, **KERAS),
    "keras101": _size(BOTTLENECK, 3, 4, 23, 3, **KERAS),
    "keras152": _size(BOTTLENECK, 3, 8, 36, 3, **KERAS),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess(
    (224, 224), resize_px=256, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear"
)
# Keras 3.12, `preprocess_input(mode="caffe")`: values up to 255, less the mean. That it reads blue first is
# undone in the table of names.
CAFFE = replace(IMAGENET, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
PREPROCESS = {name: CAFFE if "has_conv_bias" in size else IMAGENET for name, size in SIZES.items()}
RULES: initial.Rules = (
    *head.RULES,
    (r"(^|/)conv\w*/kernel$", initial.he_normal),
    (r"/(scale|var)$", initial.ones),
    (r"/(bias|mean)$", initial.zeros),
)


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a ResNet beside those of every family; None, 0 and empty mean "as the size has it".

    `unit` is the kind of residual unit, "basic" (two 3x3 convolutions) or "bottleneck"; `units` counts them a
    stage, `width` is the channels of the first stage, doubled in each that follows. `root` is "plain" (one
    7x7 convolution), "deep" or "tiered" (three of 3x3); `shortcut` is "conv" (a strided 1x1 convolution) or
    "avg_pool" (2x2 pooling before it). `is_v1` strides in a bottleneck's first 1x1 convolution, not in its
    3x3; `has_conv_bias` and `norm_epsilon` are of the convolutions and the batch normalisations.
    """

    name: str = "resnet"
    size: str = "50"
    unit: str = ""
    units: tuple[Depth, ...] = ()
    width: WidthOr0 = 0
    root: str = ""
    shortcut: str = ""
    is_v1: bool | None = None
    has_conv_bias: bool | None = None
    norm_epsilon: Fraction = 0.0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        for name, known in (("unit", UNITS), ("root", ROOTS), ("shortcut", SHORTCUTS)):
            if getattr(self, name):
                layers.check_choice(f"model.{name}", getattr(self, name), known)
        check_stages(self.units)
        image.check(self)


def check_stages(units: tuple[int, ...]) -> None:
    """Raise UserError unless every stage has units, and there are not too many (empty: from the size)."""
    if not all(units) or len(units) > MAX_STAGES:
        raise UserError(
            f"model.units is {shown(units)}; expected one unit or more in each of at most {MAX_STAGES} stages"
        )


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    full = layers.fill(config, SIZES, DEFAULTS)
    return replace(full, image_px=image.image_px_of(config, PREPROCESS[config.size]))


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)
    root, root_names = ROOTS[full.root]
    options = {"epsilon": full.norm_epsilon, "has_bias": full.has_conv_bias, "is_v1": full.is_v1}

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        mode = Mode(layers.compute_dtype(full.dtype), train, frozen_stats, **options)
        return ResNet(full, num_outputs, root, SHORTCUTS[full.shortcut], mode)

    return assemble(make_module, full, PREPROCESS[full.size].with_channels(num_channels), root_names)


def assemble(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    config: Any,
    preprocess: Preprocess,
    root_names: tuple[str, ...],
) -> Model:
    """Return the Model around a ResNet module of a resolved config; `root_names` are before its units."""
    names = (root_names, *((unit,) for unit in unit_names(config.units)), ("head",))
    return image.as_model(
        make_module, RULES, names, preprocess.at(config.image_px), inside=last_map(config.units, config)
    )


def last_map(units: tuple[int, ...], config: Any) -> Inside:
    """Return the unit whose output is the last map that the features are made of.

    >>> last_map((1, 2), Config(features=("stage1",))).feature_map
    'block1/unit1'
    """
    names = unit_names(units)
    stages = {f"stage{stage + 1}": names[sum(units[: stage + 1]) - 1] for stage in range(len(units))}
    known = {**stages, **{name: name for name in names}}
    read = [known[name] for name in config.features if name in known]
    return Inside(max(read, key=names.index) if read else "" if config.features else names[-1])


def unit_names(units: tuple[int, ...]) -> list[str]:
    """Return the names of the units of each stage, in order.

    >>> unit_names((1, 2))
    ['block1/unit1', 'block2/unit1', 'block2/unit2']
    """
    return [f"block{stage}/unit{unit + 1}" for stage, count in enumerate(units, 1) for unit in range(count)]


def tiny() -> Config:
    """Return a model of two stages of one unit over 16 px, for tests."""
    return Config(size="50", image_px=16, units=(1, 1), width=4)


class Mode(NamedTuple):
    """How one forward pass runs: the compute dtype, and what convolutions and batch normalisation do."""

    dtype: Any
    train: bool
    frozen_stats: frozenset[str]
    epsilon: float = 1e-5
    momentum: float = 0.9
    has_bias: bool = False
    is_v1: bool = False


class ResNet(nn.Module):
    """The whole model, of a resolved config; `root` and `shortcut` are what the families differ in."""

    config: Any
    num_outputs: int
    root: Callable[..., Array]
    shortcut: Callable[..., Array]
    mode: Mode

    @nn.compact
    def __call__(
        self, images: Activations
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        """Return features, logits, and the output of root, units ("block1/unit1") and stages ("stage1")."""
        config, mode = self.config, self.mode
        x = self.root(images.astype(mode.dtype), config.width, mode)
        intermediates = {"root": x}
        for stage, num_units in enumerate(config.units):
            name = f"block{stage + 1}"
            outputs = _Stage(config, stage, num_units, self.shortcut, mode, name=name)(x)
            intermediates |= {f"{name}/{unit}": output for unit, output in outputs.items()}
            x = intermediates[f"stage{stage + 1}"] = list(outputs.values())[-1]
        features = jnp.mean(x.astype(jnp.float32), (1, 2))
        return head.read_out(config, self.num_outputs, mode.train, features, intermediates)


def conv(
    x: Activations,
    channels: int,
    size: int,
    stride: int,
    name: str,
    *,
    padding: str | list[tuple[int, int]] | None = None,
    has_bias: bool = False,
) -> Transformed:
    """Apply a convolution padded as PyTorch's `size // 2` ("SAME" would shift it where it strides)."""
    padding = [(size // 2, size // 2)] * 2 if padding is None else padding
    declared = {"kernel_init": layers.declared, "bias_init": layers.declared, "use_bias": has_bias}
    return nn.Conv(
        channels,
        (size, size),
        stride,
        padding,
        dtype=x.dtype,
        name=name,
        **declared,
    )(x)


def norm(x: Activations, mode: Mode, name: str) -> Activations:
    """Apply batch normalisation in this pass's mode."""
    return layers.BatchNorm(
        mode.train, mode.frozen_stats, mode.momentum, mode.epsilon, dtype=mode.dtype, name=name
    )(x)


def conv_norm(x: Activations, channels: int, size: int, stride: int, name: str, mode: Mode) -> Transformed:
    """Apply the convolution "conv{name}" and the batch normalisation "bn{name}"."""
    return norm(conv(x, channels, size, stride, f"conv{name}", has_bias=mode.has_bias), mode, f"bn{name}")


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
        unit_type = rematerialise.of_blocks(unit_type, self.config.remat)
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
        y = jax.nn.relu(conv_norm(x, self.width, 3, self.stride, "1", self.mode))
        y = conv_norm(y, self.width, 3, 1, "2", self.mode)
        return jax.nn.relu(y + self.shortcut(x, self.width, self.stride, self.mode))


class _BottleneckUnit(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width."""

    width: int
    stride: int
    shortcut: Callable[..., Array]
    mode: Mode

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        mode = self.mode
        strides = (self.stride, 1) if mode.is_v1 else (1, self.stride)
        y = jax.nn.relu(conv_norm(x, self.width, 1, strides[0], "1", mode))
        y = jax.nn.relu(conv_norm(y, self.width, 3, strides[1], "2", mode))
        y = conv_norm(y, 4 * self.width, 1, 1, "3", mode)
        return jax.nn.relu(y + self.shortcut(x, 4 * self.width, self.stride, mode))


def _plain(x: Activations, width: int, mode: Mode) -> Transformed:
    return max_pool(jax.nn.relu(conv_norm(x, width, 7, 2, "_root", mode)))


def _deep(x: Activations, width: int, mode: Mode) -> Transformed:
    return _three_convs(x, (width // 2, width // 2, width), mode)


def _tiered(x: Activations, width: int, mode: Mode) -> Transformed:
    return _three_convs(x, (3 * (width // 8), width // 2, width), mode)


def _three_convs(x: Activations, widths: tuple[int, int, int], mode: Mode) -> Transformed:
    for width, stride, name in zip(widths, (2, 1, 1), ("_root", "_root2", "_root3"), strict=True):
        x = jax.nn.relu(conv_norm(x, width, 3, stride, name, mode))
    return max_pool(x)


def _projected(x: Activations, channels: int, stride: int, mode: Mode) -> Transformed:
    """Return the input itself where it fits, else a strided 1x1 convolution of it."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return conv_norm(x, channels, 1, stride, "_proj", mode)


def _pooled(x: Activations, channels: int, stride: int, mode: Mode) -> Transformed:
    """Return the input itself where it fits, else a 1x1 convolution of its 2x2 averages.

    A last row or column without a pair is doubled first, which makes it its own average, as PyTorch has it
    with `ceil_mode` and `count_include_pad=False`.
    """
    if stride == 1:
        return _projected(x, channels, stride, mode)
    paired = jnp.pad(x, ((0, 0), *((0, size % 2) for size in x.shape[1:3]), (0, 0)), mode="edge")
    return conv_norm(nn.avg_pool(paired, (2, 2), (2, 2)), channels, 1, 1, "_proj", mode)


UNITS: dict[str, type[nn.Module]] = {BASIC: _BasicUnit, BOTTLENECK: _BottleneckUnit}
ROOT_NAMES = ("conv_root", "bn_root")
DEEP_ROOT_NAMES = (*ROOT_NAMES, "conv_root2", "bn_root2", "conv_root3", "bn_root3")
ROOTS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "plain": (_plain, ROOT_NAMES),
    "deep": (_deep, DEEP_ROOT_NAMES),
    "tiered": (_tiered, DEEP_ROOT_NAMES),
}
SHORTCUTS: dict[str, Callable[..., Array]] = {"conv": _projected, "avg_pool": _pooled}
FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
