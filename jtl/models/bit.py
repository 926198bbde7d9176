"""BiT (Kolesnikov et al. 2020): ResNets with pre-activation, weight standardisation and group normalisation.

Equal to timm 1.0.31's `resnetv2_*_bit` and to transformers' `BitForImageClassification`. There is nothing to
freeze or to average over devices: no running statistics. Names are those of `resnet.py`, with `gn` for `bn`.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import head, image, initial, layers, rematerialise, resnet
from jtl.models.contract import Family, Model
from jtl.models.max_pool import max_pool
from jtl.models.resnet import Activations, Transformed
from jtl.ranges import Depth, Width, WidthOr0

SIZES: dict[str, dict[str, Any]] = {
    "50x1": {"units": (3, 4, 6, 3), "width": 64},
    "50x3": {"units": (3, 4, 6, 3), "width": 192},
    "101x1": {"units": (3, 4, 23, 3), "width": 64},
    "101x3": {"units": (3, 4, 23, 3), "width": 192},
    "152x2": {"units": (3, 8, 36, 3), "width": 128},
    "152x4": {"units": (3, 8, 36, 3), "width": 256},
}
# As BiT-M was fine-tuned on ImageNet (timm 1.0.31; 480 px for 152x4): the whole image, whatever its shape.
PREPROCESS = Preprocess((448, 448), resize_px=448, interpolation="bilinear")
RULES: initial.Rules = (
    *head.RULES,
    (r"(^|/)conv\w*/kernel$", initial.he_normal),
    (r"/scale$", initial.ones),
    (r"/bias$", initial.zeros),
)
KERNEL_EPSILON, NORM_EPSILON = 1e-8, 1e-5


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a BiT beside those of every family; 0 and empty mean "as the size has it".

    `units` counts the residual units a stage, `width` is the channels inside the first stage's units, doubled
    in each stage that follows; every number of channels is a multiple of `num_groups`.
    """

    name: str = "bit"
    size: str = "50x1"
    units: tuple[Depth, ...] = ()
    width: WidthOr0 = 0
    num_groups: Width = 32

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        resnet.check_stages(self.units)
        image.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    full = layers.fill(config, SIZES)
    if full.width % full.num_groups:
        raise UserError(
            f"model.width is {full.width}; expected a multiple of model.num_groups, {full.num_groups}"
        )
    return replace(full, image_px=image.image_px_of(config, PREPROCESS))


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        assert not frozen_stats, "a BiT keeps no running statistics"
        return _BiT(full, num_outputs, train)

    units = resnet.unit_names(full.units)
    names = (("conv_root",), *((unit,) for unit in units[:-1]), (units[-1], "gn_final"), ("head",))
    preprocess = PREPROCESS.with_channels(num_channels).at(layers.pair(full.image_px))
    inside = resnet.last_map(full.units, full)
    return image.as_model(make_module, RULES, names, preprocess, inside=inside)


def tiny() -> Config:
    """Return a model of two stages of one unit over 16 px, for tests."""
    return Config(image_px=16, units=(1, 1), width=8, num_groups=8)


class _BiT(nn.Module):
    """The whole model, of a resolved config."""

    config: Config
    num_outputs: int
    train: bool

    @nn.compact
    def __call__(
        self, images: Activations
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        """Return features, logits, and the output of root, units ("block1/unit1") and stages ("stage1")."""
        config = self.config
        x = images.astype(layers.compute_dtype(config.dtype))
        x = _StdConv(config.width, 7, 2, name="conv_root")(x)
        # The border is 0, not -inf: BiT pads before it pools.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), padding_px=0)
        intermediates = {"root": x}
        for stage, num_units in enumerate(config.units):
            name = f"block{stage + 1}"
            outputs = _Stage(config, stage, num_units, name=name)(x)
            intermediates |= {f"{name}/{unit}": output for unit, output in outputs.items()}
            x = intermediates[f"stage{stage + 1}"] = list(outputs.values())[-1]
        x = jax.nn.relu(_GroupNorm(config.num_groups, name="gn_final")(x))
        features = jnp.mean(x.astype(jnp.float32), (1, 2))
        return head.read_out(config, self.num_outputs, self.train, features, intermediates)


class _Stage(nn.Module):
    """Units at one resolution; gives their outputs by name, in order."""

    config: Config
    stage: int
    num_units: int

    @nn.compact
    def __call__(self, x: Activations) -> dict[str, Array]:
        unit_type = rematerialise.of_blocks(_Unit, self.config.remat)
        outputs = {}
        for index in range(self.num_units):
            stride = 2 if self.stage > 0 and index == 0 else 1
            width, name = self.config.width * 2**self.stage, f"unit{index + 1}"
            x = outputs[name] = unit_type(self.config.num_groups, width, stride, name=name)(x)
        return outputs


class _Unit(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, each after normalisation and activation."""

    num_groups: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        def activated(y: Activations, name: str) -> Activations:
            return jax.nn.relu(_GroupNorm(self.num_groups, name=name)(y))

        y = activated(x, "gn1")
        if self.stride > 1 or x.shape[-1] != 4 * self.width:
            x = _StdConv(4 * self.width, 1, self.stride, name="conv_proj")(y)
        y = _StdConv(self.width, 1, name="conv1")(y)
        y = _StdConv(self.width, 3, self.stride, name="conv2")(activated(y, "gn2"))
        return x + _StdConv(4 * self.width, 1, name="conv3")(activated(y, "gn3"))


class _StdConv(nn.Module):
    """A convolution whose kernel is standardised over all inputs of an output (Qiao et al. 2019, eq. 5-7)."""

    channels: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", layers.declared, shape, jnp.float32).astype(jnp.float32)
        centred = kernel - jnp.mean(kernel, (0, 1, 2), keepdims=True)
        var = jnp.mean(jnp.square(centred), (0, 1, 2), keepdims=True)
        kernel = (centred * jax.lax.rsqrt(var + KERNEL_EPSILON)).astype(x.dtype)
        padding = [(self.size // 2, self.size // 2)] * 2
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, padding, dimension_numbers=dims)


class _GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) in float32; each example has its own statistics."""

    num_groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1:]
        scale = self.param("scale", layers.declared, channels, jnp.float32)
        bias = self.param("bias", layers.declared, channels, jnp.float32)
        # Each channel's sums over pixels, then each group's over channels: nothing of five dims is made.
        y = x.astype(jnp.float32)
        mean = self._of_groups(jnp.mean(y, (1, 2)))
        centred = y - mean
        var = self._of_groups(jnp.mean(jnp.square(centred), (1, 2)))
        factor = jax.lax.rsqrt(var + NORM_EPSILON) * scale.reshape(1, 1, 1, -1)
        return (centred * factor + bias.reshape(1, 1, 1, -1)).astype(x.dtype)

    def _of_groups(self, values: Float32[Array, "batch channels"]) -> Float32[Array, "batch 1 1 channels"]:
        """Return each group's mean at each of its channels."""
        batch, channels = values.shape
        means = jnp.mean(values.reshape(batch, self.num_groups, -1), -1)
        return jnp.repeat(means, channels // self.num_groups, axis=1).reshape(batch, 1, 1, channels)


FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
