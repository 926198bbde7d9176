"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023), equal to timm's and Hugging Face's.

Names are those of `resnet.py` where they fit: `block{stage}/unit{index}/conv_depthwise`, counted from 1;
`block2/norm_down` and `block2/conv_down` halve the map before the second stage's units.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import depthwise, head, image, initial, layers, rematerialise, resnet
from jtl.models.contract import Family, Model
from jtl.models.resnet import Activations, Transformed
from jtl.ranges import Depth, Epsilon, Fraction, Range, Width

DENSE, CONV = "dense", "conv"


def _size(version: int, mlp: str, units: tuple[int, ...], width: int) -> dict[str, Any]:
    return {
        "version": version,
        "mlp": mlp,
        "units": units,
        "widths": tuple(width * 2**stage for stage in range(4)),
    }


SIZES: dict[str, dict[str, Any]] = {
    "atto": _size(1, CONV, (2, 2, 6, 2), 40),
    "femto": _size(1, CONV, (2, 2, 6, 2), 48),
    "pico": _size(1, CONV, (2, 2, 6, 2), 64),
    "nano": _size(1, CONV, (2, 2, 8, 2), 80),
    "tiny": _size(1, DENSE, (3, 3, 9, 3), 96),
    "small": _size(1, DENSE, (3, 3, 27, 3), 96),
    "base": _size(1, DENSE, (3, 3, 27, 3), 128),
    "large": _size(1, DENSE, (3, 3, 27, 3), 192),
    "xlarge": _size(1, DENSE, (3, 3, 27, 3), 256),
    "v2_atto": _size(2, CONV, (2, 2, 6, 2), 40),
    "v2_femto": _size(2, CONV, (2, 2, 6, 2), 48),
    "v2_pico": _size(2, CONV, (2, 2, 6, 2), 64),
    "v2_nano": _size(2, CONV, (2, 2, 8, 2), 80),
    "v2_tiny": _size(2, DENSE, (3, 3, 9, 3), 96),
    "v2_small": _size(2, DENSE, (3, 3, 27, 3), 96),
    "v2_base": _size(2, DENSE, (3, 3, 27, 3), 128),
    "v2_large": _size(2, DENSE, (3, 3, 27, 3), 192),
    "v2_huge": _size(2, DENSE, (3, 3, 27, 3), 352),
}
PREPROCESS = Preprocess((224, 224), resize_px=256, mean=resnet.IMAGENET_MEAN, std=resnet.IMAGENET_STD)
RULES: initial.Rules = (
    *head.RULES,
    (r"/grn/(scale|bias)$", initial.zeros),
    (r"/kernel$", initial.normal(0.02)),
    (r"/scale$", initial.ones),
    (r"/gamma$", initial.constant(1e-6)),
    (r"/bias$", initial.zeros),
)
ROOT_PX, KERNEL_PX, MLP_RATIO, GRN_EPSILON = 4, 7, 4, 1e-6


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a ConvNeXt beside those of every family; 0 and empty mean "as the size has it".

    `version` 1 scales every branch by a learned `gamma`, 2 normalises its hidden responses instead. `units`
    counts the units a stage, `widths` are their channels. `mlp` is how timm keeps the kernels of a unit's
    MLP, as "dense" layers or 1x1 "conv"; the numbers are the same. `drop_path` is the last unit's rate of
    stochastic depth, growing linearly from 0 at the first. `norm_epsilon` is of every layer normalisation but
    the last, which has `final_norm_epsilon`.
    """

    name: str = "convnext"
    size: str = "tiny"
    version: Annotated[int, Range(0, 2)] = 0
    units: tuple[Depth, ...] = ()
    widths: tuple[Width, ...] = ()
    mlp: str = ""
    norm_epsilon: Epsilon = 1e-6
    final_norm_epsilon: Epsilon = 1e-6
    gelu: str = "exact"
    drop_path: Fraction = 0.0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        if self.mlp:
            layers.check_choice("model.mlp", self.mlp, (DENSE, CONV))
        layers.check_choice("model.gelu", self.gelu, layers.GELUS)
        resnet.check_stages(self.units)
        image.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width)."""
    full = layers.fill(config, SIZES)
    if len(full.widths) != len(full.units):
        raise UserError(
            f"model.widths is {full.widths} and model.units is {full.units}; expected one of each a stage"
        )
    image_px = image.image_px_of(config, PREPROCESS)
    if min(image_px) < ROOT_PX * 2 ** (len(full.units) - 1):
        raise UserError(
            f"model.image_px is {image_px}; expected {ROOT_PX * 2 ** (len(full.units) - 1)} or more, which "
            f"{len(full.units)} stages leave a pixel of"
        )
    return replace(full, image_px=image_px)


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        assert not frozen_stats, "a ConvNeXt keeps no running statistics"
        return _ConvNeXt(full, num_outputs, train)

    # What halves the map goes with the unit after it, the final norm with the last unit.
    groups = [[unit] for unit in resnet.unit_names(full.units)]
    for group in groups[1:]:
        stage, _, unit = group[0].partition("/")
        group += [f"{stage}/norm_down", f"{stage}/conv_down"] if unit == "unit1" else []
    groups[-1].append("norm_final")
    names = (("conv_root", "norm_root"), *map(tuple, groups), ("head",))
    preprocess = PREPROCESS.with_channels(num_channels).at(layers.pair(full.image_px))
    inside = resnet.last_map(full.units, full)
    return image.as_model(make_module, RULES, names, preprocess, inside=inside)


def tiny() -> Config:
    """Return a model of two stages of one unit over 16 px, for tests."""
    return Config(image_px=16, units=(1, 1), widths=(6, 8))


class _ConvNeXt(nn.Module):
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
        x = _patches(
            images.astype(layers.compute_dtype(config.dtype)), config.widths[0], ROOT_PX, "conv_root"
        )
        x = _LayerNorm(config.norm_epsilon, name="norm_root")(x)
        intermediates = {"root": x}
        for stage in range(len(config.units)):
            name = f"block{stage + 1}"
            outputs = _Stage(config, stage, self.train, name=name)(x)
            intermediates |= {f"{name}/{unit}": output for unit, output in outputs.items()}
            x = intermediates[f"stage{stage + 1}"] = list(outputs.values())[-1]
        pooled = jnp.mean(x.astype(jnp.float32), (1, 2))
        features = _LayerNorm(config.final_norm_epsilon, name="norm_final")(pooled)
        return head.read_out(config, self.num_outputs, self.train, features, intermediates)


class _Stage(nn.Module):
    """Units at one resolution; gives their outputs by name, in order."""

    config: Config
    stage: int
    train: bool

    @nn.compact
    def __call__(self, x: Activations) -> dict[str, Array]:
        config = self.config
        if self.stage > 0:
            x = _LayerNorm(config.norm_epsilon, name="norm_down")(x)
            x = _patches(x, config.widths[self.stage], 2, "conv_down")
        unit_type = rematerialise.of_blocks(_Unit, config.remat)
        first, last = sum(config.units[: self.stage]), max(sum(config.units) - 1, 1)
        outputs = {}
        for index in range(config.units[self.stage]):
            name, rate = f"unit{index + 1}", config.drop_path * (first + index) / last
            x = outputs[name] = unit_type(config, rate, self.train, name=name)(x)
        return outputs


class _Unit(nn.Module):
    """A 7x7 convolution of each channel alone, then an MLP of each pixel alone."""

    config: Config
    drop_rate: float
    train: bool

    @nn.compact
    def __call__(self, x: Activations) -> Activations:
        config, width = self.config, x.shape[-1]
        y = depthwise.Conv(KERNEL_PX, has_bias=True, name="conv_depthwise")(x)
        y = _LayerNorm(config.norm_epsilon, name="norm")(y)
        y = layers.GELUS[config.gelu](_Pointwise(MLP_RATIO * width, config.mlp, name="fc1")(y))
        if config.version == 2:
            y = _ResponseNorm(name="grn")(y)
        y = _Pointwise(width, config.mlp, name="fc2")(y)
        if config.version == 1:
            gamma = self.param("gamma", layers.declared, (width,), jnp.float32)
            y = y * gamma.astype(y.dtype).reshape(1, 1, 1, -1)
        return x + layers.DropPath(self.drop_rate, self.train)(y)


def _patches(x: Activations, channels: int, size: int, name: str) -> Transformed:
    """Apply a convolution of patches that do not overlap; what is left over at the end is not seen."""
    return resnet.conv(x, channels, size, size, name, padding="VALID", has_bias=True)


class _Pointwise(nn.Module):
    """A dense layer over channels, whose kernel is kept as one of a 1x1 convolution where `kind` says so."""

    channels: int
    kind: str

    @nn.compact
    def __call__(self, x: Activations) -> Transformed:
        shape = (x.shape[-1], self.channels)
        kept = (1, 1, *shape) if self.kind == CONV else shape
        kernel = self.param("kernel", layers.declared, kept, jnp.float32).reshape(shape)
        bias = self.param("bias", layers.declared, (self.channels,), jnp.float32)
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype).reshape(1, 1, 1, -1)


class _LayerNorm(nn.Module):
    """Layer normalisation over the last dimension in float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        shape = (*(1,) * (x.ndim - 1), x.shape[-1])
        scale = self.param("scale", layers.declared, shape[-1:], jnp.float32).reshape(shape)
        bias = self.param("bias", layers.declared, shape[-1:], jnp.float32).reshape(shape)
        y = x.astype(jnp.float32)
        centred = y - jnp.mean(y, -1, keepdims=True)
        var = jnp.mean(jnp.square(centred), -1, keepdims=True)
        return (centred * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)


class _ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023, sec. 3.2), its statistics in float32."""

    @nn.compact
    def __call__(self, x: Activations) -> Activations:
        scale = self.param("scale", layers.declared, x.shape[-1:], jnp.float32).reshape(1, 1, 1, -1)
        bias = self.param("bias", layers.declared, x.shape[-1:], jnp.float32).reshape(1, 1, 1, -1)
        energy = jnp.sum(jnp.square(x.astype(jnp.float32)), (1, 2), keepdims=True)
        # The root has no gradient at 0, where a channel is 0 at every pixel.
        response = jnp.where(energy > 0, jnp.sqrt(jnp.where(energy > 0, energy, 1.0)), 0.0)
        relative = response / (jnp.mean(response, -1, keepdims=True) + GRN_EPSILON)
        return x + x * (relative * scale).astype(x.dtype) + bias.astype(x.dtype)


FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
