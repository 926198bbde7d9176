"""The plain convolutional network of few-shot learning: Conv-4 (Vinyals et al. 2016, sec. 4.1).

Every block is a 3x3 convolution, batch normalisation, ReLU and the largest of each 2x2; the features are the
last map, laid out. At 28 px that is one place of 64 channels. Activations are [batch, height, width,
channels]. The convolutions have no bias: the normalisation would take it away again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import head, image, layers, rematerialise, resnet
from jtl.models.contract import Family, Inside, Model
from jtl.ranges import Depth, WidthOr0

SIZES: dict[str, dict[str, Any]] = {"4": {"blocks": 4, "width": 64}}
PREPROCESS = Preprocess((28, 28), resize_px=28, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
POOL_PX = 2


@dataclass(frozen=True)
class Config(image.Settings):
    """Settings of a plain convolutional network; 0 means "as the size has it".

    Each of `blocks` has `width` channels and halves the map.
    """

    name: str = "conv_net"
    size: str = "4"
    blocks: Depth = 0
    width: WidthOr0 = 0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        image.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in and pixels as (height, width).

    Raises:
        UserError: the images are too small to be halved by every block.
    """
    full = replace(layers.fill(config, SIZES), image_px=image.image_px_of(config, PREPROCESS))
    least = POOL_PX**full.blocks
    if min(layers.pair(full.image_px)) < least:
        raise UserError(
            f"model.image_px is {full.image_px}, and {full.blocks} blocks halve it each; expected {least} or "
            f"more in both directions, or fewer model.blocks"
        )
    return full


def build(config: Config, num_outputs: int, num_channels: int = 3) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head."""
    full = resolve(config)

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        mode = resnet.Mode(layers.compute_dtype(full.dtype), train, frozen_stats)
        return ConvNet(full, num_outputs, mode)

    names = tuple((name,) for name in block_names(full.blocks))
    preprocess = PREPROCESS.with_channels(num_channels).at(layers.pair(full.image_px))
    inside = Inside(last_map(full))
    return image.as_model(make_module, resnet.RULES, (*names, ("head",)), preprocess, inside=inside)


def block_names(blocks: int) -> list[str]:
    """Return the names of the blocks in order.

    >>> block_names(2)
    ['block1', 'block2']
    """
    return [f"block{index + 1}" for index in range(blocks)]


def last_map(config: Config) -> str:
    """Return the block whose output is the last map that the features are made of; "" where there is none."""
    names = block_names(config.blocks)
    read = [name for name in config.features if name in names]
    return max(read, key=names.index) if read else "" if config.features else names[-1]


def tiny() -> Config:
    """Return a model of three blocks over 16 px, for tests."""
    return Config(image_px=16, blocks=3, width=16)


class ConvNet(nn.Module):
    """The whole model, of a resolved config."""

    config: Config
    num_outputs: int
    mode: resnet.Mode

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch outputs"], dict[str, Array]]:
        """Return features, logits, and the output of every block ("block1")."""
        config, mode = self.config, self.mode
        x = images.astype(mode.dtype)
        intermediates = {}
        # The first, as the root of other families, is never computed again.
        types = [_Block, *[rematerialise.of_blocks(_Block, config.remat)] * (config.blocks - 1)]
        for name, block in zip(block_names(config.blocks), types, strict=True):
            x = intermediates[name] = block(config.width, mode, name=name)(x)
        features = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return head.read_out(config, self.num_outputs, mode.train, features, intermediates)


class _Block(nn.Module):
    """A convolution, its normalisation, and pooling."""

    width: int
    mode: resnet.Mode

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        return _pooled(jax.nn.relu(resnet.conv_norm(x, self.width, 3, 1, "", self.mode)))


def _pooled(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch new_height new_width channels"]:
    """Return the largest of each 2x2; a last row or column without a pair is left out.

    As the largest of four slices, whose gradient, and that one's own, CPUs compute faster than a window's.
    """
    height, width = (size // POOL_PX * POOL_PX for size in x.shape[1:3])
    slices = [
        x[:, row:height:POOL_PX, column:width:POOL_PX] for row in range(POOL_PX) for column in range(POOL_PX)
    ]
    maximum: Callable[[Array, Array], Array] = jnp.maximum
    return reduce(maximum, slices)


FAMILY = Family(Config, build, SIZES, resolve, tiny, image.INPUT)
