"""What the families that read images share: the size of the image among their settings, and its check."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import head, initial, layers, linen
from jtl.models.contract import Inside, Model, TokenGrid
from jtl.ranges import Range

INPUT = "image"
# Of a side; pictures of more pixels are not read.
Pixels = Annotated[int, Range(0, 2**16)]


@dataclass(frozen=True)
class Settings(head.Settings):
    """The settings every family of images has; its own Config adds to them.

    `image_px` is one number or (height, width), 0: as the size has it.
    """

    image_px: Pixels | tuple[Pixels, Pixels] = 0


def check(config: Any) -> None:
    """Raise UserError unless the settings every family of images has are in range."""
    head.check(config)
    layers.check_pixels("model.image_px", config.image_px)


def image_px_of(config: Any, preprocess: Preprocess) -> tuple[int, int]:
    """Return the input's (height, width): the config's, or where that is 0 the default pre-processing's."""
    image_px = layers.pair(config.image_px)
    return image_px if any(image_px) else preprocess.image_px


def as_model(
    make_module: Callable[[bool, frozenset[str]], nn.Module],
    rules: initial.Rules,
    groups: tuple[tuple[str, ...], ...],
    preprocess: Preprocess,
    grid: TokenGrid | None = None,
    inside: Inside = linen.NOTHING,
) -> Model:
    """Return the Model of `make_module(train, frozen_stats)` over images [batch, height, width, channels].

    `grid` says how the tokens of its layers lie, None where they are maps.
    """
    shape = (*preprocess.image_px, preprocess.num_channels)

    def check_shape(images: Any) -> None:
        if images.shape[1:] != shape:
            raise UserError(
                f"images are {images.shape[1:]}; the model expects {shape}; change model.image_px"
            )

    def pool(activations: Array, images: Any, how: str) -> Array:
        del images
        return head.pool(activations, grid, how)

    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    return linen.as_model(
        make_module,
        rules,
        groups,
        spec=spec,
        check=check_shape,
        pool=pool,
        preprocess=preprocess,
        inside=inside,
    )
