"""Fitting weights to another input: position embeddings to its grid, the first convolution to its channels.

Bicubic equals timm 1.0.31 `resample_abs_pos_embed` (PyTorch's antialiased bicubic, whose cubic has a = -0.5);
plain bicubic equals transformers 5.23 `interpolate_pos_encoding` (PyTorch's, not antialiased, a = -0.75);
bilinear equals vit_jax, which zooms with scipy of order 1 (the corners of both grids coincide).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Float64

from jtl.errors import UserError

Matrix = Float64[np.ndarray, "size_out size_in"]


def resample(
    table: Float32[np.ndarray, "1 tokens_in dim"],
    num_prefix: int,
    grid_in: tuple[int, int],
    grid_out: tuple[int, int],
    mode: str,
) -> Float32[np.ndarray, "1 tokens_out dim"]:
    """Return a position embedding for another grid; the first `num_prefix` positions (class token) stay.

    Equal grids give the table itself.
    """
    assert table.shape[1] == num_prefix + grid_in[0] * grid_in[1], (table.shape, num_prefix, grid_in)
    if grid_in == grid_out:
        return table
    prefix, positions = table[:, :num_prefix], table[0, num_prefix:].reshape(*grid_in, -1).astype(np.float64)
    rows, columns = (RESAMPLERS[mode](size, new) for size, new in zip(grid_in, grid_out, strict=True))
    positions = np.einsum("ai,bj,ijd->abd", rows, columns, positions, optimize=True)
    positions = positions.reshape(1, grid_out[0] * grid_out[1], -1).astype(np.float32)
    return np.concatenate([prefix, positions], axis=1)


def adapt_channels(
    kernel: Float[np.ndarray, "height width channels_in dim"], num_channels: int
) -> Float[np.ndarray, "height width channels_out dim"]:
    """Return the first convolution for another number of channels; equal channels give equal activations.

    One channel takes the sum over all; other numbers repeat the channels in order and divide by how much more
    they are (timm 1.0.31, `adapt_input_conv`, generalised from 3 to any number).

    >>> adapt_channels(np.ones((1, 1, 3, 1)), 1).ravel()
    array([3.])
    >>> adapt_channels(np.ones((1, 1, 3, 1)), 4).ravel()
    array([0.75, 0.75, 0.75, 0.75])
    """
    num_source = kernel.shape[2]
    if num_channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.concatenate([kernel] * -(-num_channels // num_source), axis=2)[:, :, :num_channels]
    return repeated * np.asarray(num_source / num_channels, kernel.dtype)


def refuse_channels(
    kernel: Float[np.ndarray, "height width channels_in dim"], num_channels: int
) -> Float[np.ndarray, "height width channels_out dim"]:
    """Raise UserError: the settings ask for equal numbers of channels."""
    raise UserError(
        f"the weights read {kernel.shape[2]} image channels and the model {num_channels}; "
        f"set weights.channels='auto' to adapt them"
    )


def bicubic_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the weights of PyTorch's antialiased bicubic resampling, `align_corners=False`."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    positions = np.arange(size_in) + 0.5
    # The window's ends are rounded as PyTorch rounds them.
    first = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * stretch + 0.5).astype(int), size_in)
    is_inside = (np.arange(size_in) >= first[:, None]) & (np.arange(size_in) < last[:, None])
    matrix = np.where(is_inside, _cubic((positions[None, :] - centres[:, None]) / stretch, -0.5), 0.0)
    return matrix / matrix.sum(axis=1, keepdims=True)


def plain_bicubic_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the weights of PyTorch's bicubic resampling without antialiasing, `align_corners=False`.

    Positions beyond the border count as the border's.
    """
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    positions = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)[None, :]
    weights = _cubic(positions - centres[:, None], -0.75)
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], positions.clip(0, size_in - 1)), weights)
    return matrix


def bilinear_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the weights of linear interpolation between grids whose corners coincide.

    >>> bilinear_matrix(2, 3)
    array([[1. , 0. ],
           [0.5, 0.5],
           [0. , 1. ]])
    """
    positions = np.arange(size_out) * ((size_in - 1) / max(size_out - 1, 1))
    return np.maximum(1.0 - np.abs(positions[:, None] - np.arange(size_in)[None, :]), 0.0)


def _cubic(distance: Float64[np.ndarray, "..."], a: float) -> Float64[np.ndarray, "..."]:
    """Return the cubic convolution kernel of Keys 1981."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


RESAMPLERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": bicubic_matrix,
    "bicubic_plain": plain_bicubic_matrix,
    "bilinear": bilinear_matrix,
}
CHANNELS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "auto": adapt_channels,
    "strict": refuse_channels,
}
