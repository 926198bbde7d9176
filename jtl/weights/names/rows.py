"""Rows that several families' tables of names are made of: a layer of PyTorch, of Keras."""

import numpy as np

from jtl.weights.contract import LeftOut, Op, Row
from jtl.weights.names import ops

Shapes = tuple[tuple[int, ...], ...]
Arrays = tuple[np.ndarray, ...]


def conv(source: str, target: str) -> tuple[Row, Row]:
    """Return the rows of a PyTorch convolution, depthwise or not."""
    return _layer(source, target, ops.CONV)


def dense(source: str, target: str) -> tuple[Row, Row]:
    """Return the rows of a PyTorch dense layer."""
    return _layer(source, target, ops.DENSE)


def norm(source: str, target: str) -> tuple[Row, Row]:
    """Return the rows of a PyTorch normalisation over channels or groups."""
    return (
        Row(f"{source}.weight", (f"params/{target}/scale",), ops.SAME),
        Row(f"{source}.bias", (f"params/{target}/bias",), ops.SAME),
    )


def batch_norm(source: str, target: str) -> tuple[Row, ...]:
    """Return the rows of a PyTorch batch normalisation: affine parameters and running statistics."""
    return (
        *norm(source, target),
        Row(f"{source}.running_mean", (f"model_state/batch_stats/{target}/mean",), ops.SAME),
        Row(f"{source}.running_var", (f"model_state/batch_stats/{target}/var",), ops.SAME),
    )


def counters(*norms: str) -> tuple[LeftOut, ...]:
    """Return what is left out of PyTorch batch normalisations."""
    return tuple(LeftOut(f"{norm}.num_batches_tracked", "counter, not learned") for norm in norms)


def keras_layer(source: str, target: str, kernel: Op = ops.SAME) -> tuple[Row, Row]:
    """Return the rows of a Keras convolution or dense layer, which has Flax's layout."""
    return (
        Row(f"{source}/kernel", (f"params/{target}/kernel",), kernel),
        Row(f"{source}/bias", (f"params/{target}/bias",), ops.SAME),
    )


def keras_batch_norm(source: str, target: str) -> tuple[Row, ...]:
    """Return the rows of a Keras batch normalisation."""
    return (
        Row(f"{source}/gamma", (f"params/{target}/scale",), ops.SAME),
        Row(f"{source}/beta", (f"params/{target}/bias",), ops.SAME),
        Row(f"{source}/moving_mean", (f"model_state/batch_stats/{target}/mean",), ops.SAME),
        Row(f"{source}/moving_variance", (f"model_state/batch_stats/{target}/var",), ops.SAME),
    )


def _layer(source: str, target: str, kernel: Op) -> tuple[Row, Row]:
    return (
        Row(f"{source}.weight", (f"params/{target}/kernel",), kernel),
        Row(f"{source}.bias", (f"params/{target}/bias",), ops.SAME),
    )


def _pointwise(array: np.ndarray, shapes: Shapes) -> Arrays:
    """Return [out, in] or [out, in, 1, 1] as [in, out], or as [1, 1, in, out] where the leaf has that."""
    if array.shape[2:] not in ((), (1, 1)):
        raise ValueError(f"{array.shape} is neither dense nor a 1x1 convolution")
    kernel = array.reshape(array.shape[:2]).transpose(1, 0)
    return (kernel[None, None] if len(shapes[0]) == 4 else kernel,)


def _as_dense(arrays: Arrays) -> np.ndarray:
    return arrays[0].reshape(arrays[0].shape[-2:]).transpose(1, 0)


def _as_conv(arrays: Arrays) -> np.ndarray:
    return _as_dense(arrays)[:, :, None, None]


def _by_leaf(arrays: Arrays) -> np.ndarray:
    return _as_conv(arrays) if arrays[0].ndim == 4 else _as_dense(arrays)


def _kernel_of_1x1(array: np.ndarray) -> np.ndarray:
    if array.shape[:-2] != (1, 1):
        raise ValueError(f"{array.shape} is no 1x1 convolution")
    return array.reshape(array.shape[-2:])


def _last_dim(array: np.ndarray) -> np.ndarray:
    if array.shape[:-1] != (1, 1, 1):
        raise ValueError(f"{array.shape} is no vector with three leading dims")
    return array.reshape(array.shape[-1])


# A dense layer, which libraries also keep as a 1x1 convolution: in the source as a dense layer, as a
# convolution, or as the leaf is.
POINTWISE_DENSE = Op(_pointwise, _as_dense)
POINTWISE_CONV = Op(_pointwise, _as_conv)
POINTWISE = Op(_pointwise, _by_leaf)
# A dense layer kept as a 1x1 convolution in Flax's layout.
FLAX_CONV = Op(lambda array, shapes: (_kernel_of_1x1(array),), lambda arrays: arrays[0][None, None])
# A vector kept as [1, 1, 1, dim].
VECTOR = Op(lambda array, shapes: (_last_dim(array),), lambda arrays: arrays[0][None, None, None])
# Keras keeps depthwise kernels [height, width, channels, 1], Flax [height, width, 1, channels].
DEPTHWISE = Op(
    lambda array, shapes: (array.transpose(0, 1, 3, 2),), lambda arrays: arrays[0].transpose(0, 1, 3, 2)
)
# The first convolution of a model that reads blue, green, red.
BLUE_FIRST = Op(lambda array, shapes: (array[:, :, ::-1],), lambda arrays: arrays[0][:, :, ::-1])
